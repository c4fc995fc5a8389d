"""One text with its branches: the keys and values of the text exist once, each branch adds its own.

The text is the trunk. A branch leaves it after any number of tokens and sees that part of the trunk and itself. Trees
are grown by a `Forest`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lrp_hooks.cases.answers.generate import check_length
from lrp_hooks.cases.search.branch import Branch
from lrp_hooks.errors import InputError
from lrp_hooks.structure.probe import embedding_device, with_cache

ROOM = 512
"""Columns by which a cache grows."""


class Tree:
    """A trunk and the branches that are being written.

    Attributes:
        ids: the trunk.
        logits: [T, V], after each of its tokens.
        active: branches whose last token is fed next.
        tokens: how many tokens the branches have cost so far.
        seconds: the share of the time of all steps that was theirs.
    """

    @torch.no_grad()
    def __init__(self, model: Any, ids: Sequence[int]):
        """One forward over the trunk.

        Raises:
            InputError: an empty trunk.
            ContextLengthError: the trunk does not fit.
        """
        from transformers import DynamicCache

        if not ids:
            raise InputError("the text is empty")
        check_length(model, len(ids), 0)
        cache: Any = DynamicCache()
        self._device = embedding_device(model)
        given = torch.tensor([list(ids)], device=self._device)
        self.logits: Tensor = model(input_ids=given, **with_cache(model, cache)).logits[0]
        self.ids, self.tokens, self.seconds = tuple(ids), 0, 0.0
        self.active: list[Branch] = []
        self._keys: list[Tensor] = [layer.keys[0] for layer in cache.layers]  # [H, columns, d] per layer
        self._values: list[Tensor] = [layer.values[0] for layer in cache.layers]
        self._used = len(ids)
        self._visible = torch.zeros(0, self._used, dtype=torch.bool, device=self._device)  # [branches, columns]

    def admit(self, branch: Branch) -> None:
        """Take up a branch that has its first token; it sees nothing yet but its part of the trunk."""
        row = torch.arange(self._used, device=self._device) < min(branch.start, len(self.ids))
        self._visible = torch.cat([self._visible, row[None]])
        self.active.append(branch)

    def extend(self) -> None:
        """Make room for the next token of each branch, which that branch alone will see."""
        count = len(self.active)
        own = torch.eye(count, dtype=torch.bool, device=self._device)
        self._visible = torch.cat([self._visible, own], 1)
        self._used += count
        if self._keys and self._used > self._keys[0].shape[1]:
            self._keys = [_wider(keys, ROOM + count) for keys in self._keys]
            self._values = [_wider(values, ROOM + count) for values in self._values]

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, scaling: float | None) -> Tensor:
        """Attention of the branches' last tokens: q [Hq, B, d], k and v [Hkv, B, d] -> [Hq, B, d]. Stores k and v.

        Query heads that share keys are queries of one head here, so that keys and values are not copied for each.
        """
        new = slice(self._used - len(self.active), self._used)
        self._keys[layer][:, new], self._values[layer][:, new] = k, v
        heads, count, size = q.shape
        groups = heads // k.shape[0]
        seen = self._visible.to(q.device).repeat(groups, 1)
        packed = q.reshape(k.shape[0], groups * count, size)
        keys, values = self._keys[layer][None, :, : self._used], self._values[layer][None, :, : self._used]
        out = scaled_dot_product_attention(packed[None], keys, values, attn_mask=seen, scale=scaling)
        return out[0].reshape(heads, count, -1)

    def release(self) -> None:
        """Drop finished branches, and their columns once they are half of what the branches hold."""
        places = [i for i, branch in enumerate(self.active) if not branch.finished]
        self.active = [self.active[i] for i in places]
        self._visible = self._visible[places]
        used = self._visible.any(0)
        used[: len(self.ids)] = True
        if 2 * int((~used).sum()) <= self._used - len(self.ids):
            return
        columns = used.nonzero().squeeze(-1)
        self._visible, self._used = self._visible[:, columns], len(columns)
        self._keys = [keys.index_select(1, columns.to(keys.device)) for keys in self._keys]
        self._values = [values.index_select(1, columns.to(values.device)) for values in self._values]


def _wider(old: Tensor, more: int) -> Tensor:
    return torch.cat([old, old.new_zeros(old.shape[0], more, old.shape[2])], 1)
