"""Many continuations of one text at once, sharing the cache of what they have in common.

The text is the trunk. A branch leaves it after any number of tokens. All branches are written in one row of the batch:
each step feeds the next token of every branch, and a mask lets a branch see its part of the trunk and itself. So the
trunk's keys and values exist once, however many branches there are, and branches of different lengths need no padding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.cases.generate import check_length
from lrp_hooks.errors import InputError
from lrp_hooks.structure import embedding_device

AGREEMENT = 0.1
"""How far the tree's logits may be from the plain forward's, in standard deviations of the logits."""


@dataclass(eq=False)
class Branch:
    """One continuation.

    Attributes:
        start: how many tokens of the trunk it follows.
        ids: its tokens; the first may be given, no more.
        limit: the most tokens that it may have.
        ended: it has come to an end-of-text token, which is not among ``ids``.
        stopped: it was given up before its end.
    """

    start: int
    limit: int
    ids: list[int] = field(default_factory=list)
    ended: bool = False
    stopped: bool = False

    @property
    def finished(self) -> bool:
        return self.ended or self.stopped or len(self.ids) >= self.limit


Choose = Callable[[Tensor], Tensor]


def greedy(logits: Tensor) -> Tensor:
    """The first choice of each row of logits [B, V]."""
    return logits.argmax(-1)


def sampler(seed: int, temperature: float = 1.0) -> Choose:
    """Tokens drawn from the softmax at ``temperature``, the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)

    def choose(logits: Tensor) -> Tensor:
        odds = torch.softmax(logits.float().cpu() / temperature, -1)
        return torch.multinomial(odds, 1, generator=generator).squeeze(-1)

    return choose


class Tree:
    """A trunk and its branches.

    Attributes:
        ids: the trunk.
        logits: [T, V], after each of its tokens.
        tokens: how many tokens the branches have cost so far.
    """

    def __init__(self, model: Any, ids: Sequence[int], ends: Iterable[int]):
        """One forward over the trunk.

        Raises:
            InputError: an empty trunk, or a model whose tokens cannot be masked like this (recurrent blocks, windows).
            ContextLengthError: the trunk does not fit.
        """
        from transformers import DynamicCache

        if not ids:
            raise InputError("the text is empty")
        check_length(model, len(ids), 0)
        self.ids, self.tokens = tuple(ids), 0
        self._model, self._ends, self._cache = model, frozenset(ends), DynamicCache()
        self._device = embedding_device(model)
        self._dtype = next(model.parameters()).dtype
        out = self._forward(torch.tensor([list(ids)], device=self._device), None, None)
        self.logits = out
        self._check()

    @torch.no_grad()
    def _forward(self, ids: Tensor, positions: Tensor | None, visible: Tensor | None) -> Tensor:
        """Logits [T, V] after each of the tokens [1, T], which the cache keeps."""
        mask = None
        if visible is not None:
            mask = torch.zeros(visible.shape, dtype=self._dtype, device=self._device)
            mask = mask.masked_fill(~visible, torch.finfo(self._dtype).min)[None, None]
        logits: Tensor = self._model(
            input_ids=ids, position_ids=positions, attention_mask=mask, past_key_values=self._cache, use_cache=True
        ).logits
        return logits[0]

    def _check(self) -> None:
        """The last token again, as a branch: its logits must be the plain ones."""
        last = len(self.ids) - 1
        try:
            again = self._step([Branch(last, 1, [self.ids[-1]])], self._trunk([last]))[0]
            self._keep(torch.arange(len(self.ids), device=self._device))
        except Exception as error:
            raise InputError(f"branches cannot be cached for {type(self._model).__name__}: {error}") from error
        plain = self.logits[-1].float()
        if float((again[0].float() - plain).abs().max()) > AGREEMENT * float(plain.std()):
            raise InputError(
                f"branches cannot be masked for {type(self._model).__name__}: it reads tokens in other ways than by "
                "masked attention, or through a window. do: a model with full attention"
            )

    def _trunk(self, starts: Sequence[int]) -> Tensor:
        """Which trunk tokens branches see, [B, T]."""
        columns = torch.arange(len(self.ids), device=self._device)
        return columns[None, :] < torch.tensor(list(starts), device=self._device)[:, None]

    def _step(self, branches: Sequence[Branch], visible: Tensor) -> tuple[Tensor, Tensor]:
        """Feed the last token of each branch: logits [B, V], and what each sees now, [B, columns]."""
        visible = torch.cat([visible, torch.eye(len(branches), dtype=torch.bool, device=self._device)], 1)
        ids = torch.tensor([[b.ids[-1] for b in branches]], device=self._device)
        positions = torch.tensor([[b.start + len(b.ids) - 1 for b in branches]], device=self._device)
        return self._forward(ids, positions, visible), visible

    def grow(
        self,
        branches: Sequence[Branch],
        choose: Choose = greedy,
        *,
        stop: Callable[[Branch], bool] = lambda _: False,
        every: int = 8,
        width: int = 32,
    ) -> None:
        """Continue branches until each has ended, reached its limit, or was stopped.

        Args:
            stop: asked after every ``every`` tokens of a branch; True gives it up.
            width: how many branches are written at the same time.
        """
        waiting = deque(b for b in branches if not self._begin(b, choose, stop))
        active: list[Branch] = []
        visible = self._trunk([])
        while waiting or active:
            active, visible = self._admit(active, visible, waiting, width)
            logits, visible = self._step(active, visible)
            self.tokens += len(active)
            for branch, token in zip(active, choose(logits).tolist(), strict=True):
                self._take(branch, token, stop, every)
            places = [i for i, branch in enumerate(active) if not branch.finished]
            active, visible = self._compact([active[i] for i in places], visible[places])
        self._keep(torch.arange(len(self.ids), device=self._device))

    def _begin(self, branch: Branch, choose: Choose, stop: Callable[[Branch], bool]) -> bool:
        """The first token of a branch without one; returns whether that was all."""
        if not 1 <= branch.start <= len(self.ids):
            raise InputError(f"a branch after {branch.start} tokens of {len(self.ids)}")
        if len(branch.ids) > 1:
            raise InputError(f"a branch may be given its first token, not {len(branch.ids)}")
        if not branch.ids:
            self._take(branch, int(choose(self.logits[branch.start - 1 : branch.start])[0]), stop, 1)
        elif branch.ids[-1] in self._ends:
            branch.ids.pop()
            branch.ended = True
        elif stop(branch):
            branch.stopped = True
        return branch.finished

    def _take(self, branch: Branch, token: int, stop: Callable[[Branch], bool], every: int) -> None:
        if token in self._ends:
            branch.ended = True
            return
        branch.ids.append(token)
        if len(branch.ids) % every == 0 and stop(branch):
            branch.stopped = True

    def _admit(
        self, active: list[Branch], visible: Tensor, waiting: deque[Branch], width: int
    ) -> tuple[list[Branch], Tensor]:
        """Fill free places with waiting branches, which see nothing but the trunk."""
        new = [waiting.popleft() for _ in range(min(len(waiting), width - len(active)))]
        rows = torch.zeros(len(new), visible.shape[1], dtype=torch.bool, device=self._device)
        rows[:, : len(self.ids)] = self._trunk([b.start for b in new])
        return active + new, torch.cat([visible, rows])

    def _compact(self, active: list[Branch], visible: Tensor) -> tuple[list[Branch], Tensor]:
        """Drop the cache of finished branches once it is half of what the branches hold."""
        used = visible.any(0)
        used[: len(self.ids)] = True
        dead = int((~used).sum())
        if 2 * dead <= visible.shape[1] - len(self.ids):
            return active, visible
        columns = used.nonzero().squeeze(-1)
        self._keep(columns)
        return active, visible[:, columns]

    def _keep(self, columns: Tensor) -> None:
        """Forget all other tokens."""
        layers: Any = self._cache.layers
        for layer in layers:
            layer.keys = layer.keys.index_select(-2, columns)
            layer.values = layer.values.index_select(-2, columns)
