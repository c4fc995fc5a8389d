"""Which instructions a response follows, strictly and loosely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrp_hooks.cases.verify.base import Instruction


@dataclass(frozen=True)
class Verdict:
    """One response against the instructions of one prompt.

    Attributes:
        followed: per instruction.
    """

    followed: tuple[bool, ...]

    @property
    def passed(self) -> bool:
        return all(self.followed)


def verify(instructions: Sequence[Instruction], response: str) -> Verdict:
    """The strict verdict: the response as it is."""
    return Verdict(tuple(each.passes(response) for each in instructions))


def verify_loosely(instructions: Sequence[Instruction], response: str) -> Verdict:
    """The loose verdict, by the rule of each kind of instruction."""
    return Verdict(tuple(each.passes_loosely(response) for each in instructions))


def broken(instructions: Sequence[Instruction], text: str) -> list[tuple[int, int]]:
    """(character index, instruction index) of every instruction that can no longer pass, the earliest first."""
    found = ((each.broken_at(text), i) for i, each in enumerate(instructions))
    return sorted((at, i) for at, i in found if at is not None)
