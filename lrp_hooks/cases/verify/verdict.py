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
    """The loose verdict: without its first line, its last line, both or neither; with or without asterisks.

    Source: arXiv 2311.07911, section 3: an upper bound that forgives "Sure, here it is:" and Markdown.
    """
    lines = response.split("\n")
    cut = (response, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1])))
    forms = (*cut, *(form.replace("*", "") for form in cut))
    return Verdict(tuple(any(each.passes(form) for form in forms) for each in instructions))


def broken(instructions: Sequence[Instruction], text: str) -> list[tuple[int, int]]:
    """(character index, instruction index) of every instruction that can no longer pass, the earliest first."""
    found = ((each.broken_at(text), i) for i, each in enumerate(instructions))
    return sorted((at, i) for at, i in found if at is not None)
