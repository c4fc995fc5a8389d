"""Programs that a model has written, run shut in."""

from lrp_hooks.cases.sandbox.permission import execution_allowed, permission
from lrp_hooks.cases.sandbox.runner import Limits, Program, Result, run_tests

__all__ = ["Limits", "Program", "Result", "execution_allowed", "permission", "run_tests"]
