"""Verifiable instructions (IFEval): does a response follow them, and from where on can it not?"""

from lrp_hooks.cases.verify.base import Instruction
from lrp_hooks.cases.verify.registry import INSTRUCTIONS, OWN, instruction
from lrp_hooks.cases.verify.verdict import Verdict, broken, verify, verify_loosely

__all__ = ["INSTRUCTIONS", "OWN", "Instruction", "Verdict", "broken", "instruction", "verify", "verify_loosely"]
