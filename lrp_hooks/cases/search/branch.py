"""One continuation of a text, and how its next token is chosen."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

LOOP_TOKENS, LOOP_REPEATS = 36, 3
"""A greedy continuation that has repeated itself for so many tokens, so many times, is not expected to end."""


@dataclass(eq=False)
class Branch:
    """One continuation.

    Attributes:
        start: how many tokens of the trunk it follows.
        limit: the most tokens that it may have.
        ids: its tokens; the first may be given, no more.
        number: its place among its like; samples differ by it.
        ended: it has come to an end-of-text token, which is not among ``ids``.
        stopped: it was given up before its end.
    """

    start: int
    limit: int
    ids: list[int] = field(default_factory=list)
    number: int = 0
    ended: bool = False
    stopped: bool = False

    @property
    def finished(self) -> bool:
        return self.ended or self.stopped or len(self.ids) >= self.limit

    @property
    def loops(self) -> bool:
        """Whether it has been saying the same over and over."""
        ids = self.ids
        for period in range(1, len(ids) // LOOP_REPEATS + 1):
            span = max(LOOP_TOKENS, LOOP_REPEATS * period)
            if span <= len(ids) and ids[-span:-period] == ids[-span + period :]:
                return True
        return False


Choose = Callable[[Tensor, Sequence[Branch]], Tensor]
"""The next tokens [B] of branches from their logits [B, V]."""


def greedy(logits: Tensor, branches: Sequence[Branch]) -> Tensor:
    """The first choice of each."""
    return logits.argmax(-1)


def sampler(seed: int, temperature: float = 1.0) -> Choose:
    """Tokens drawn from the softmax at ``temperature``.

    What a branch draws depends on the seed, its number and its length, not on what is written beside it.
    """

    def choose(logits: Tensor, branches: Sequence[Branch]) -> Tensor:
        odds = torch.softmax(logits.cpu().double() / temperature, -1).cumsum(-1)
        drawn = [random.Random(f"{seed}:{b.number}:{len(b.ids)}").random() for b in branches]
        at = torch.tensor(drawn, dtype=odds.dtype)[:, None] * odds[:, -1:]
        return torch.searchsorted(odds, at, right=True).squeeze(-1).clamp_max(odds.shape[-1] - 1)

    return choose
