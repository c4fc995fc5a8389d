"""The alternatives at the places of one stage, continued side by side; those that can no longer win are given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lrp_hooks.cases.branch import Branch
from lrp_hooks.cases.judge import Grade

Kind = Literal["one-way", "before-one-way", "end", "before-end", "success-drop", "first"]
Place = tuple[int, Kind]
"""A position of the answer and why it is looked at."""


@dataclass(frozen=True)
class Alternative:
    """Another token at a position, and what came of it.

    Attributes:
        rank: among the model's choices there, from 1.
        grade: of the finished answer.
        passes_unended: it would count if it had ended by itself.
        trivial: it would count if it said more.
        counts: it is a contrast.
        proposed: the reference model's choice, which the model's own best do not hold.
    """

    id: int
    rank: int
    logit: float
    grade: Grade
    passes_unended: bool
    trivial: bool
    counts: bool
    proposed: bool = False


@dataclass(frozen=True)
class Pair:
    """Position, target and contrast."""

    position: int
    kind: Kind
    target: int
    target_rank: int
    target_logit: float
    contrast: Alternative


@dataclass(frozen=True, eq=False)
class Try:
    """An alternative that is being continued: where, which place comes first, which choice (id, rank, logit)."""

    position: int
    order: int
    choice: tuple[int, int, float]
    branch: Branch


class Race:
    """Alternatives continued side by side, of which the first place's best is wanted: losers are given up early."""

    def __init__(self, in_vain: Callable[[Branch], bool], grade: Callable[[Try], Alternative]):
        self.tries: list[Try] = []
        self._in_vain, self._grade = in_vain, grade
        self._graded: dict[Try, Alternative] = {}

    def grade(self, tried: Try) -> Alternative:
        """What came of a finished one; looked at once."""
        if tried not in self._graded:
            self._graded[tried] = self._grade(tried)
        return self._graded[tried]

    def lost(self, branch: Branch) -> bool:
        """Whether the branch comes to nothing, or another is better whatever it comes to."""
        mine = next(each for each in self.tries if each.branch is branch)
        good = [each for each in self.tries if each.branch.ended and self.grade(each).counts]
        return any(self._beats(each, mine) for each in good) or self._in_vain(branch)

    def _beats(self, other: Try, mine: Try) -> bool:
        if other.order != mine.order:
            return other.order < mine.order
        return self.grade(other).grade is Grade.PASSES and other.choice[1] < mine.choice[1]
