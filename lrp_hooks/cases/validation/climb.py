"""Masking goes on, word by word, until the answer passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lrp_hooks.cases.inputs import CaseInput
from lrp_hooks.cases.validation.masking import Masker, mask_of, word_texts
from lrp_hooks.cases.validation.repair import Repair

if TYPE_CHECKING:
    from lrp_hooks.cases.validation.validate import Flip, Rules

MOST_AT_ONCE = 4
"""Numbers of words that are judged together for one ranking, at most; few at first."""


@dataclass
class Climb:
    """One ranking, judged from the change of the prediction on.

    A greedy continuation depends on all that is masked: each further word is judged anew, also where the answer would
    begin with the same token as before.

    Attributes:
        order: words, the most relevant first.
        changed: words masked until the prediction changes; None: there is nothing to judge.
        until: words masked at most.
        verdicts: by number of masked words.
    """

    order: Sequence[tuple[int, ...]]
    changed: int | None
    until: int
    verdicts: dict[int, bool] = field(default_factory=dict)

    def due(self) -> range:
        """The numbers of words to be judged next; none once an answer passes."""
        if self.changed is None or self.passed is not None:
            return range(0)
        at, size = self.changed + len(self.verdicts), min(max(len(self.verdicts), 1), MOST_AT_ONCE)
        return range(at, min(at + size, self.until + 1))

    @property
    def passed(self) -> int | None:
        """Words masked until the answer passes."""
        return min((count for count, passes in self.verdicts.items() if passes), default=None)


def judged(
    repair: Repair,
    given: CaseInput,
    masker: Masker,
    flips: Sequence[Flip],
    orders: Sequence[Sequence[tuple[int, ...]]],
    rules: Rules,
) -> list[Flip]:
    """The flips with their verdicts; answers of all rankings are written side by side.

    Args:
        orders: the words of each flip's ranking.
    """
    climbs = [
        Climb(order, flip.changed, min(rules.most, len(order)) if rules.until_pass else flip.changed or 0)
        for flip, order in zip(flips, orders, strict=True)
    ]
    while due := [(climb, count) for climb in climbs for count in climb.due()]:
        verdicts = repair.verdicts(given, [masker.ids(mask_of(climb.order, count)) for climb, count in due])
        for (climb, count), passes in zip(due, verdicts, strict=True):
            climb.verdicts[count] = passes
    return [_told(given, flip, climb) for flip, climb in zip(flips, climbs, strict=True)]


def _told(given: CaseInput, flip: Flip, climb: Climb) -> Flip:
    """A flip with what its climb has found."""
    passes = climb.verdicts.get(climb.changed or 0, False)
    words = flip.words if climb.passed is None else word_texts(given, climb.order[: climb.passed])
    return flip.model_copy(update={"passes": passes, "passed": climb.passed, "words": words})
