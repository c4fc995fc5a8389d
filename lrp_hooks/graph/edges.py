"""Edges of one transition, inside the backward pass or by packed products.

An edge A[j, i] of the transition (s, t) is the relevance that token j's share <h_t^j, g_t^j> at residual point t sends
to token i at point s, with g kept fixed. Under LRP's rules everything in a block except attention is token-local, so
with what the one backward pass already computed (docs/mathematics.md):

    A[j, i] = A_v[j, i] + A_k[j, i] + [i = j] (<q~_j, dq_j> + rest_j)
    rest_i  = R_i - <q~_i, dq_i> - <k~_i, dk_i> - <v~_i, dv_i>          residual connection, MLP, all else in the block
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import NoClosedFormError
from lrp_hooks.graph.prune import RowBlocks
from lrp_hooks.graph.tiled import TiledEdges
from lrp_hooks.ops import (
    AttentionCall,
    Interval,
    compute_dtype,
    edge_rows,
    edge_sums,
    edges_backend,
    relevance_sum,
    row_blocks,
)
from lrp_hooks.patching.implementation import implementation, is_causal
from lrp_hooks.recording.records import Parked

TILED_BYTES = 1 << 26
"""Of a block of rows that the kernels make densely."""


@dataclass(frozen=True, eq=False)
class Transition:
    """All that the edges of one block need, for one sequence. Scores in logits.

    Attributes:
        call: the attention call.
        query_heads: [H, T] query path on the diagonal; query: [T] summed over heads; rest: [T] token-local.
        kept: [T] D summed over heads: what flows through the attention output.
    """

    call: AttentionCall
    query_heads: Tensor
    rest: Tensor
    kept: Tensor

    def dense(self, by: str = "sum") -> Tensor:
        """[T, T] (rows j, columns i), [H, T, T] by head, or [4, T, T] by path: value, key, query, rest."""
        length = self.call.length
        every = self.row_blocks(torch.arange(length, device=self.rest.device))
        if by == "sum":
            total = self.rest.new_zeros(length, length)
            for block in every.blocks:
                edges = self.edges(block)
                total[block, : edges.shape[1]] = edges
            return total
        value = self.rest.new_zeros(self.call.heads, length, length)
        key = torch.zeros_like(value)
        for block in every.blocks:
            rows = edge_rows(self.call, block)
            value[:, block, : rows.value.shape[2]] = rows.value
            if rows.key is not None:
                key[:, block, : rows.key.shape[2]] = rows.key
        if by == "head":
            return value + key
        return torch.stack((value.sum(0), key.sum(0), torch.diag(self.query), torch.diag(self.rest)))

    @cached_property
    def query(self) -> Tensor:
        return self.query_heads.sum(0)

    @property
    def diagonal(self) -> Tensor:
        """[T] what is on the diagonal besides attention's value and key path."""
        return self.query + self.rest

    @property
    def by_kernels(self) -> bool:
        """Whether the edges are made tile by tile by the Triton kernels."""
        return edges_backend(self.call.q, self.call.k, self.call.v) == "triton"

    def streamed(self, wanted: Tensor) -> RowBlocks | TiledEdges:
        """The rows to be pruned: as tiles that never leave the kernels, or in blocks."""
        if self.by_kernels:
            return TiledEdges(self.call, wanted.to(self.rest.device), self.diagonal)
        return self.row_blocks(wanted)

    def row_blocks(self, wanted: Tensor) -> RowBlocks:
        """Rows [R, C] heads summed, the diagonal included."""
        if not len(wanted):
            return RowBlocks((), self.edges)
        wanted = wanted.to(self.rest.device)
        if self.by_kernels:  # heads are summed in registers: a block is as large as its result
            return RowBlocks(torch.split(wanted, max(1, TILED_BYTES // (4 * self.call.length))), self.edges)
        return RowBlocks(tuple(row_blocks(wanted, self.call.heads, self.call.length)), self.edges)

    def edges(self, rows: Tensor) -> Tensor:
        """[R, C] edges into rows [R] (ascending); columns beyond C are 0."""
        total = edge_sums(self.call, rows)
        total[torch.arange(len(rows), device=rows.device), rows] += self.diagonal[rows].to(total.dtype)
        return total


def transition(
    parked: Parked,
    hidden: Tensor,
    relevance: Tensor,
    carried: tuple[Tensor, Tensor, Tensor] | None,
    row: int,
    unscale: float,
) -> Transition:
    """Put one block's parts together for one row of the batch.

    Args:
        hidden: [B, T, D] at the block's input; relevance: [B, T] there.
        carried: (q~, k~, v~) where they differ from q, k, v.
        unscale: divides gradients (the float16 seed).
    """
    if len(parked.inputs) != 1 or len(parked.outputs) != 1:
        raise NoClosedFormError("the block's attention call was not recorded whole. do: method='packed'")
    (setting, (q, k, v), grads), (o, shares) = parked.inputs[0], parked.outputs[0]
    dtype = compute_dtype(hidden)
    q_carry, k_carry, v_carry = carried or (q, k, v)
    flows = [
        relevance.new_zeros(x.shape[1:3]) if g is None else relevance_sum(x[row], g[row]).to(dtype) / unscale
        for x, g in zip((q_carry, k_carry, v_carry), grads, strict=True)
    ]
    factors, options = setting.factors, setting.options
    mask, interval = _seen(setting, row, q.shape[2], q.device)
    call = AttentionCall(
        q=q[row],
        k=k[row],
        v=v[row],
        o=o[row].transpose(0, 1).to(dtype) / unscale,
        D=shares[row].transpose(0, 1).to(dtype) / unscale,
        k_carry=k[row] if carried is None else k_carry[row],
        v_carry=v[row] if carried is None else v_carry[row],
        mask=mask,
        scale=options["scaling"] if options.get("scaling") is not None else q.shape[-1] ** -0.5,
        softcap=options.get("softcap"),
        slope=setting.softcap_slope,
        sinks=options.get("s_aux"),
        value=factors.value,
        key=factors.key,
        lse=None if setting.lse is None else setting.lse[row],
        interval=interval,
    )
    if carried is None:  # the same objects, so that no product is made twice
        call = replace(call, k_carry=call.k, v_carry=call.v)
    rest = relevance[row].to(dtype) - flows[0].sum(0) - flows[1].sum(0) - flows[2].sum(0)
    return Transition(call, flows[0], rest, call.D.sum(0))


def _seen(setting: Any, row: int, length: int, device: torch.device) -> tuple[Tensor | None, Interval | None]:
    """(mask, interval): which tokens each token attends to, as one interval each where possible; both None = causal."""
    bias, causal = setting.options.get("position_bias"), is_causal(setting.module, setting.options)
    if bias is None and setting.interval is not None and not (setting.mask is None and causal):
        return None, setting.interval.row(row)
    return _with_positions(_mask(setting, row, length, device), bias, row), None


def _mask(setting: Any, row: int, length: int, device: torch.device) -> Tensor | None:
    mask = setting.mask
    if mask is None:
        if setting.options.get("sliding_window") is not None and _windowed_kernel(setting.module):
            raise NoClosedFormError("exact edges know causal attention with an explicit mask. do: method='packed'")
        if is_causal(setting.module, setting.options):
            return None
        every = torch.ones(1, 1, 1, dtype=torch.bool, device=device)  # every token sees every token
        return every.expand(1, length, length)
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        raise NoClosedFormError(
            "exact edges need the attention mask as a tensor [B, 1, T, T]. "
            'do: load the model with attn_implementation="sdpa" or "eager"'
        )
    return mask[row if mask.shape[0] > 1 else 0].expand(-1, length, -1)  # LayoutLM's has one row for all


def _with_positions(mask: Tensor | None, bias: Tensor | None, row: int) -> Tensor | None:
    """The mask with what is added to the scores of each pair of positions [1 or B, H, T, T] (T5)."""
    if bias is None:
        return mask
    bias = bias[row if bias.shape[0] > 1 else 0]
    if mask is None:
        mask = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril()[None]
    mask = mask.to(bias.device)
    return bias.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else bias + mask


def _windowed_kernel(module: Any) -> bool:
    """Whether the attention kernel applies the window itself, from a keyword, without showing a mask."""
    return implementation(module) not in ("sdpa", "eager")
