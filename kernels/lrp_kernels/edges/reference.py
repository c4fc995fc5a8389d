"""What each query row j of one attention call sends to each key column i (DESIGN.md, section 4).

    value path   A_v[j,i] = c_v P_ji <o_j, v~_i>
    key path     A_k[j,i] = c_k dS_ji scale <q_j, k~_i>       dS_ji = lambda_ji P_ji (<o_j, v_i> - D_j)

with o the gradient at the attention output, D_j = <o_j, out_j>, P the attention weights, lambda the slope of a softcap,
and k~, v~ the relevance-carrying parts of k and v (equal to k and v where nothing adds a constant on the way from the
residual stream).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lrp_kernels.function import compute_dtype
from lrp_kernels.gated.reference import tanh_slope

BLOCK_BYTES = 1 << 21
"""Size that one [heads, rows, columns] array of a row block aims at: a few of them fit a core's cache."""


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One sequence through one attention function, as its backward pass saw it.

    Attributes:
        q: [H, T, d]; k: [G, T, d]; v: [G, T, e], with H a multiple of G (grouped queries).
        o: [H, T, e], gradient at the output; D: [H, T], <o, out>.
        k_carry, v_carry: k~ and v~, shaped like k and v.
        mask: [1 or H, T, T] of bool (True = attend) or added numbers; None = causal.
        scale: factor on q k.
        softcap: c of c tanh(s / c), or None; ``slope``: whether its slope (LRP) or derivative is passed.
        sinks: [H] logits that take part in the softmax only, or None.
        value, key: factors c_v and c_k.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    D: Tensor
    k_carry: Tensor
    v_carry: Tensor
    mask: Tensor | None
    scale: float
    softcap: float | None
    slope: bool
    sinks: Tensor | None
    value: float
    key: float


@dataclass(frozen=True, eq=False)
class EdgeRows:
    """Edges from all columns to some rows, per head: each [H, R, C]; columns beyond C have none."""

    value: Tensor
    key: Tensor | None


def row_blocks(rows: Tensor, heads: int, columns: int) -> Iterator[Tensor]:
    """Split row indices so that one array of a block has about ``BLOCK_BYTES``."""
    size = max(8, BLOCK_BYTES // (4 * heads * columns))
    yield from torch.split(rows, size)


def edge_rows(call: AttentionCall, rows: Tensor) -> EdgeRows:
    """Edges into the query rows [R] (ascending), in the compute dtype of the call."""
    dtype = compute_dtype(call.q)
    groups = call.k.shape[0]
    last = int(rows[-1]) + 1 if call.mask is None else call.k.shape[1]
    q, o = (_grouped(x[:, rows].to(dtype), groups) for x in (call.q, call.o))  # [G, H/G * R, d]
    k, v = (x[:, :last].to(dtype) for x in (call.k, call.v))
    heads, count = call.q.shape[0], len(rows)

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b.transpose(1, 2)).view(heads, count, last)

    raw = product(q, k).mul_(call.scale)
    scores, slope = _softcap(raw, call)
    weights = _softmax(_masked(scores, call, rows, last), call.sinks)
    towards = product(o, v)
    carried = towards if call.v_carry is call.v else product(o, call.v_carry[:, :last].to(dtype))
    to_value = (weights * carried).mul_(call.value)
    if not call.key:
        return EdgeRows(to_value, None)
    d_scores = towards.sub_(call.D[:, rows].to(dtype)[:, :, None]).mul_(weights)
    if slope is not None:
        d_scores.mul_(slope)
    if call.k_carry is not call.k:
        raw = product(q, call.k_carry[:, :last].to(dtype)).mul_(call.scale)
    return EdgeRows(to_value, d_scores.mul_(raw).mul_(call.key))


def _grouped(x: Tensor, groups: int) -> Tensor:
    """[H, R, d] -> [G, H/G * R, d]: the query heads of one key head in one matrix."""
    return x.reshape(groups, -1, x.shape[-1])


def _softcap(raw: Tensor, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    if call.softcap is None:
        return raw, None
    u = raw / call.softcap
    capped = torch.tanh(u)
    slope = tanh_slope(u) if call.slope else 1 - capped * capped
    return capped * call.softcap, slope


def _masked(scores: Tensor, call: AttentionCall, rows: Tensor, last: int) -> Tensor:
    if call.mask is None:
        later = torch.arange(last, device=rows.device) > rows[:, None]
        return scores.masked_fill(later, -torch.inf)
    mask = call.mask[:, rows]
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(scores.dtype)


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    if sinks is not None:
        extra = sinks.to(scores.dtype)[:, None, None].expand(-1, scores.shape[1], 1)
        return torch.cat((scores, extra), -1).softmax(-1)[..., :-1]
    return torch.nan_to_num(scores.softmax(-1), nan=0.0)  # a row that may attend to nothing has no edges
