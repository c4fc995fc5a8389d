"""One problem of a benchmark, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lrp_hooks.cases.verify import Instruction, Verdict, instruction, verify
from lrp_hooks.errors import CaseError


@dataclass(frozen=True)
class Problem:
    """A prompt with what an answer must do.

    Attributes:
        benchmark: its name, as the command line has it.
        key: the benchmark's own number or name.
        instruction_ids: such as "punctuation:no_comma"; what is not IFEval has one.
        parameters: per instruction, names and values.
    """

    benchmark: str
    key: int | str
    prompt: str
    instruction_ids: tuple[str, ...]
    parameters: tuple[Mapping[str, Any], ...]

    @property
    def id(self) -> str:
        """Unique over all benchmarks, such as "ifeval:1000"."""
        return f"{self.benchmark}:{self.key}"

    @cached_property
    def instructions(self) -> tuple[Instruction, ...]:
        """The verifiers."""
        return tuple(instruction(name, kw) for name, kw in zip(self.instruction_ids, self.parameters, strict=True))

    @property
    def comparable(self) -> bool:
        """False when an official verdict would be drawn at random (two of IFEval's that count "#" and "!")."""
        return all(each.comparable for each in self.instructions)

    @property
    def executes(self) -> bool:
        """Whether an answer is judged by running it."""
        return any(each.executes for each in self.instructions)

    def verify(self, response: str) -> Verdict:
        """The strict verdict."""
        return verify(self.instructions, response)


def text_field(row: Mapping[str, Any], name: str, path: Path, line: int) -> str:
    """A text that must be there.

    Raises:
        CaseError: names line and field.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        state = "is empty or no text" if name in row else "is missing"
        raise CaseError(f"{path}, line {line}: the field {name!r} {state}")
    return value


def checked(problem: Problem, path: Path, line: int) -> Problem:
    """The problem, its verifiers made.

    Raises:
        CaseError: parameters that they cannot be made from; names the line.
    """
    try:
        _ = problem.instructions
    except CaseError as error:
        raise CaseError(f"{path}, line {line}: {error}") from error
    return problem
