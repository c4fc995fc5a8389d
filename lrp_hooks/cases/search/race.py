"""The alternatives at the places of one stage, continued side by side; those that can no longer win are given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from lrp_hooks.cases.judge import Grade
from lrp_hooks.cases.search.branch import Branch

Kind = Literal["one-way", "before-one-way", "stop", "marker", "end", "before-end", "success-drop", "first"]
Reason = Literal[Kind, "random"]
"""Why a position is looked at; random ones are a control and give no pair."""
Place = tuple[int, Reason]
"""A position of the answer and why it is looked at."""
Choice = tuple[int, int, float]
"""A token that could have been said: id, rank from 1, logit."""
CLEAR = 1.0
"""Logits by which the target must lead the contrast for a case to be clear (arXiv 2604.17761, Table 1)."""


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

    @property
    def clear(self) -> bool:
        """Whether the target leads by more than `CLEAR`."""
        return self.target_logit - self.contrast.logit > CLEAR


@dataclass(frozen=True, eq=False)
class Try:
    """An alternative that is being continued.

    Attributes:
        order: of its place; the first place that has a clear contrast wins.
        clear: whether it would be a clear contrast.
    """

    position: int
    order: int
    choice: Choice
    branch: Branch
    clear: bool


class Race:
    """Alternatives continued side by side; the best of the first place is wanted, and losers are given up early."""

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
            return other.clear and other.order < mine.order
        return self.grade(other).grade is Grade.PASSES and other.choice[1] < mine.choice[1]
