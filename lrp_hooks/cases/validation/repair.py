"""Does an answer that goes on from a masked prompt satisfy the benchmark's verifier?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lrp_hooks.cases.answers.generate import decode, generate
from lrp_hooks.cases.inputs import CaseInput
from lrp_hooks.cases.judge import Judge
from lrp_hooks.loading.loaded import LoadedModel

TOGETHER = 16
"""Answers written at the same time."""


@dataclass(frozen=True)
class Repair:
    """The verifier of one case, and the model that goes on.

    Attributes:
        max_new_tokens: the longest answer, what was said before the error included.
    """

    loaded: LoadedModel
    judge: Judge
    max_new_tokens: int
    _known: dict[tuple[int, ...], bool] = field(default_factory=dict)

    def verdicts(self, given: CaseInput, rows: Sequence[Sequence[int]]) -> list[bool]:
        """Per input whether the answer so far and its greedy continuation end and are good; each input is run once."""
        new = [row for row in dict.fromkeys(map(tuple, rows)) if row not in self._known]
        for first in range(0, len(new), TOGETHER):
            group = new[first : first + TOGETHER]
            self._known.update(zip(group, self._judged(given, group), strict=True))
        return [self._known[tuple(row)] for row in rows]

    def _judged(self, given: CaseInput, rows: Sequence[tuple[int, ...]]) -> list[bool]:
        tokenizer, said = self.loaded.tokenizer, given.case.completion
        left = self.max_new_tokens - len(tokenizer(said, add_special_tokens=False)["input_ids"])

        def answer(ids: Sequence[int]) -> str:
            return said + continuation(tokenizer, given.ids[-1], ids)

        def hopeless(ids: Sequence[int]) -> bool:
            return self.judge.hopeless(answer(ids).rstrip("\ufffd"))  # bytes of a character that is not finished

        limit = max(left, 1)
        made = dict(generate(self.loaded.model, tokenizer, rows, max_new_tokens=limit, stop=hopeless))
        return [made[row].ended and self.judge.good(answer(made[row].ids)) for row in range(len(rows))]


def continuation(tokenizer: Any, last: int, ids: Sequence[int]) -> str:
    """Text of ids that follow the token ``last``; some tokenizers drop a space at the beginning of what they decode."""
    before, whole = decode(tokenizer, [last]), decode(tokenizer, [last, *ids])
    return whole[len(before) :] if whole.startswith(before) else decode(tokenizer, ids)
