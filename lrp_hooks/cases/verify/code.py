"""Benchmarks whose answers are programs: HumanEval (arXiv 2107.03374) and EvalPlus (arXiv 2305.01210)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lrp_hooks.cases.sandbox import Program, run_tests
from lrp_hooks.cases.verify.base import Instruction
from lrp_hooks.errors import CaseError

_BLOCK = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_STOPS = re.compile(r"\n(?=class |def |#|if |print|@|```)")


@dataclass(frozen=True)
class UnitTests(Instruction):
    """The program in the response passes the tests. Every verdict runs it: only where that is allowed.

    Attributes:
        prompt: what the program begins with: imports, signature, docstring.
        entry_point: the function that is tested.
        test: source that defines ``check(candidate)``.
    """

    prompt: str
    entry_point: str
    test: str

    def __post_init__(self) -> None:
        if not self.entry_point.isidentifier():
            raise CaseError(f"the entry point {self.entry_point!r} is no name")

    @property
    def executes(self) -> bool:
        return True

    def holds(self, text: str) -> bool:
        source = program(self.prompt, self.entry_point, text)
        return run_tests(Program(source, self.test, self.entry_point)).passed

    def passes_loosely(self, text: str) -> bool:
        """There is one verdict on programs."""
        return self.passes(text)


def program(prompt: str, entry_point: str, text: str) -> str:
    """The program that a response stands for.

    The first code block that defines the function, else the last block, else the whole text. What defines the function
    itself follows the prompt, whose imports and helpers it may need, and replaces its unfinished function; anything
    else is a completion, which goes on where the prompt ends and is cut where the next top-level statement begins.
    """
    blocks = _BLOCK.findall(text)
    defines = re.compile(rf"^(?:async\s+)?def\s+{re.escape(entry_point)}\b", re.MULTILINE)
    whole = [block for block in blocks if defines.search(block)]
    chosen = whole[0] if whole else blocks[-1] if blocks else text
    if defines.search(chosen):
        return f"{prompt.rstrip()}\n    pass\n\n{chosen}"
    return prompt + _STOPS.split(chosen, maxsplit=1)[0]
