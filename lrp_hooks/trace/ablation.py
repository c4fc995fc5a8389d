"""Parts of the attention cut out: what `Trace.ablate` puts in place of every attention call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import InputError
from lrp_hooks.patching.implementation import implementation, is_causal
from lrp_hooks.recording.detour import AttentionRun, Detour
from lrp_hooks.structure.skeleton import Skeleton

HeadCut = tuple[int, int]
"""(block, head)."""
EdgeCut = tuple[int, int, int] | tuple[int, int, int, int]
"""(block, source token, target token), or the same and one head."""


@dataclass(eq=False)
class Cut(Detour):
    """Cuts heads, attention edges and tokens of one row of the batch; all other attention runs as it is.

    Attributes:
        heads: block -> heads whose output is 0.
        edges: block -> (source, target, head or None for all).
        tokens: seen by no other token.
    """

    row: int
    heads: dict[int, list[int]] = field(default_factory=dict)
    edges: dict[int, list[tuple[int, int, int | None]]] = field(default_factory=dict)
    tokens: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        heads: Iterable[HeadCut],
        edges: Iterable[EdgeCut],
        tokens: Sequence[int],
        row: int,
        skeleton: Skeleton,
        real: Tensor,
        position: int | None,
    ) -> Cut:
        """Check and sort what is to be cut.

        Args:
            real: [T] bool, False at padding; position: the explained token, None where logits have none.

        Raises:
            InputError: a block or token that does not exist, or that cannot be cut; an encoder-decoder model.
        """
        if skeleton.encoder is not None:
            raise InputError("cuts are not offered in encoder-decoder models, whose blocks attend to two sequences")
        cut = cls(row, tokens=tuple(tokens))
        blocks = len(skeleton.blocks)
        for token in tokens:
            _check_token(token, real)
            if token == position:
                raise InputError(f"token {token} is the position that is explained; cutting it removes nothing")
        for block, head in heads:
            _check_block(block, blocks)
            cut.heads.setdefault(block, []).append(head)
        for edge in edges:
            block, source, target = edge[:3]
            _check_block(block, blocks)
            _check_token(source, real)
            _check_token(target, real)
            if source > target and skeleton.output.causal:
                raise InputError(f"token {target} does not see the later token {source}: there is no edge to cut")
            cut.edges.setdefault(block, []).append((source, target, edge[3] if len(edge) == 4 else None))
        return cut

    def _of_block(self, block: int | None, count: int) -> tuple[list[tuple[int, int, int | None]], list[int]]:
        """Edges and heads that are cut in a block with ``count`` heads."""
        block = -1 if block is None else block
        edges, heads = self.edges.get(block, []), self.heads.get(block, [])
        for head in [h for _, _, h in edges if h is not None] + heads:
            if not 0 <= head < count:
                raise InputError(f"head {head} of block {block} is outside 0..{count - 1}")
        return edges, heads

    def scores(self, q: Tensor, k: Tensor) -> None:
        """Cuts are made in the weights."""

    def weigh(self, weights: Tensor, v: Tensor, block: int | None) -> Tensor:
        """Attention that a block writes out: what is left of each token's weights shares the whole."""
        edges, heads = self._of_block(block, weights.shape[1])
        weights = weights.clone()
        own = weights[self.row]  # [H, T, T]
        for token in self.tokens:
            sees_itself = own[:, token, token].clone()
            own[:, :, token] = 0.0
            own[:, token, token] = sees_itself
        for source, target, head in edges:
            own[slice(None) if head is None else head, target, source] = 0.0
        left = own.sum(-1, keepdim=True)
        if bool((left == 0).any()):
            token = int(torch.nonzero((left == 0).any(0)[:, 0])[0])
            raise InputError(f"token {token} is left with nothing to see in block {block}")
        own /= left
        own[heads] = 0.0
        return weights

    def attend(self, call: AttentionRun) -> tuple[Tensor, Any]:
        edges, heads = self._of_block(call.block, call.q.shape[1])
        mask = self._mask(call, edges) if edges or self.tokens else call.mask
        out, weights = call.run(mask)
        if heads:
            out = out.clone()
            out[self.row, :, heads] = 0.0
        return out, weights

    def _mask(self, call: AttentionRun, edges: list[tuple[int, int, int | None]]) -> Tensor:
        """The call's mask with the cuts in it: [B, 1 or H, T, T], in the kind that the call takes."""
        seen = _visible(call)
        if any(head is not None for _, _, head in edges):
            seen = seen.expand(-1, call.q.shape[1], -1, -1)
        seen = seen.clone()
        own = seen[self.row]
        for token in self.tokens:
            sees_itself = own[:, token, token].clone()
            own[:, :, token] = False
            own[:, token, token] = sees_itself
        for source, target, head in edges:
            own[slice(None) if head is None else head, target, source] = False
        before = _visible(call)[self.row]
        empty = torch.nonzero(before.any(-1) & ~own.any(-1))
        if len(empty):
            raise InputError(f"token {int(empty[0, -1])} is left with nothing to see in block {call.block}")
        if isinstance(call.mask, Tensor) and call.mask.dtype != torch.bool:
            return call.mask.expand_as(seen).masked_fill(~seen, torch.finfo(call.mask.dtype).min)
        if call.mask is None and implementation(call.module) == "eager":
            return torch.zeros_like(seen, dtype=call.q.dtype).masked_fill(~seen, torch.finfo(call.q.dtype).min)
        return seen


def _visible(call: AttentionRun) -> Tensor:
    """[B, 1 or H, T, T] bool: which key each query sees."""
    mask, (batch, _, length, _) = call.mask, call.q.shape
    if mask is None:
        every = torch.ones(length, length, dtype=torch.bool, device=call.q.device)
        return (every.tril() if is_causal(call.module, call.options) else every).expand(batch, 1, -1, -1)
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        raise InputError(
            "cutting attention edges needs the attention mask as a tensor [B, 1, T, T]. "
            'do: load the model with attn_implementation="sdpa" or "eager"'
        )
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return seen.expand(batch, -1, length, -1)


def _check_block(block: int, blocks: int) -> None:
    if not 0 <= block < blocks:
        raise InputError(f"block {block} is outside 0..{blocks - 1}")


def _check_token(token: int, real: Tensor) -> None:
    if not 0 <= token < len(real) or not bool(real[token]):
        raise InputError(f"token {token} is outside the prompt, or padding")
