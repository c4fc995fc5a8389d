"""What removing tokens does to a prompt's logit difference: curves, their areas, and how many tokens turn it.

A removed token is replaced by a single blank, so that positions and length stay. Curves are shares of the untouched
difference: 1 is untouched, 0 is a tie, below 0 the contrast leads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.methods import difference
from benchmarks.prompts import Prompt

GRID = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 1.0)
"""Shares of the movable tokens that are removed."""
AOPC = (0.05, 0.1, 0.2, 0.5)
"""Shares that sufficiency keeps and comprehensiveness removes (ERASER, arXiv 1911.03429, less its 1 %)."""
MOST = 20
"""Tokens removed at most in search of the turn."""
STRIDE = 5


@dataclass(frozen=True)
class Removal:
    """One prompt, one order of tokens.

    Attributes:
        most_first, least_first: the curves over `GRID` when the most (least) relevant tokens are removed first.
        turn: tokens removed, most relevant first, until the contrast leads; `MOST` + 1 where none of these do.
    """

    most_first: tuple[float, ...]
    least_first: tuple[float, ...]
    turn: int

    @property
    def gap(self) -> float:
        """Area between the two curves: the larger, the better the order."""
        return area(self.least_first) - area(self.most_first)

    @property
    def comprehensiveness(self) -> float:
        """Mean share of the difference that is lost without the most relevant tokens: the larger, the better."""
        return 1 - sum(self.most_first[GRID.index(share)] for share in AOPC) / len(AOPC)

    @property
    def sufficiency(self) -> float:
        """Mean share of the difference that is lost with nothing but the most relevant: the smaller, the better."""
        kept = [self.least_first[GRID.index(round(1 - share, 2))] for share in AOPC]
        return 1 - sum(kept) / len(kept)


def area(curve: Sequence[float]) -> float:
    """Trapezoids over `GRID`."""
    pairs = zip(GRID[:-1], GRID[1:], curve[:-1], curve[1:], strict=True)
    return sum((b - a) * (low + high) / 2 for a, b, low, high in pairs)


def without(model: Any, prompt: Prompt, removed: Sequence[Sequence[int]], blank: int) -> list[float]:
    """The logit difference with each set of positions blanked."""
    ids = torch.tensor(prompt.ids).repeat(len(removed), 1)
    for row, positions in enumerate(removed):
        ids[row, list(positions)] = blank
    with torch.no_grad():
        logits = model(ids, use_cache=False, logits_to_keep=1).logits
    values: list[float] = difference(logits, prompt.target, prompt.contrast).tolist()
    return values


def leave_one_out(model: Any, prompt: Prompt, blank: int, together: int = 16) -> Tensor:
    """[M] what each movable token adds: the difference with it minus without it."""
    singles = [[position] for position in prompt.movable]
    parts = [singles[i : i + together] for i in range(0, len(singles), together)]
    lost = [value for part in parts for value in without(model, prompt, part, blank)]
    return prompt.difference - torch.tensor(lost)


def removal(model: Any, prompt: Prompt, scores: Tensor, blank: int) -> Removal:
    """Curves and turn for scores [T] (higher: speaks for the target)."""
    movable = torch.tensor(prompt.movable)
    order = movable[scores[movable].argsort(descending=True, stable=True)].tolist()
    counts = [round(share * len(order)) for share in GRID[1:-1]]
    sets = [order[:n] for n in counts] + [order[len(order) - n :] for n in counts] + [order]
    shares = [value / prompt.difference for value in without(model, prompt, sets, blank)]
    inner, last = len(counts), shares[-1]
    return Removal(
        most_first=(1.0, *shares[:inner], last),
        least_first=(1.0, *shares[inner : 2 * inner], last),
        turn=_turn(model, prompt, order, blank),
    )


def _turn(model: Any, prompt: Prompt, order: list[int], blank: int) -> int:
    for first in range(1, min(MOST, len(order)) + 1, STRIDE):
        counts = range(first, min(first + STRIDE, min(MOST, len(order)) + 1))
        values = without(model, prompt, [order[:n] for n in counts], blank)
        turned = [n for n, value in zip(counts, values, strict=True) if value < 0]
        if turned:
            return turned[0]
    return MOST + 1


def blank_token(tokenizer: Any) -> int:
    """The single token of one blank.

    Raises:
        ValueError: the tokenizer has none.
    """
    ids = tokenizer.encode(" ", add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError("this tokenizer has no single token for a blank")
    return int(ids[0])
