"""Softmax attention and its LRP gradient, row block by row block: never an n x n array.

With o the gradient at the output, P the attention weights, D_j = <o_j, out_j> and lambda the slope of a softcap
(AttnLRP, arXiv 2402.05602, section 3.3, in gradient form; DESIGN.md, sections 3 and 4):

    dv_i = c_v sum_j P_ji o_j       dS_ji = lambda_ji P_ji (<o_j, v_i> - D_j)
    dq_j = c_q scale sum_i dS_ji k_i          dk_i = c_k scale sum_j dS_ji q_j
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lrp_kernels.attention.interval import Interval
from lrp_kernels.attention.rule import AttentionRule
from lrp_kernels.function import compute_dtype
from lrp_kernels.gated.reference import tanh_slope

BLOCK_BYTES = 1 << 21
"""Size that one [batch, heads, rows, columns] array of a row block aims at."""


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, interval: Interval, rule: AttentionRule
) -> tuple[Tensor, Tensor]:
    """out [B, H, T, e] in q's dtype and the log-sum-exp [B, H, T] of the scores, in the compute dtype."""
    dtype = compute_dtype(q)
    out, lse = q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=dtype)
    for rows, columns in _blocks(q, interval):
        scores, _ = _scores(q, k, interval, rule, rows, columns)
        total = scores.logsumexp(-1)
        if sinks is not None:
            total = torch.logaddexp(total, sinks.to(dtype)[:, None])
        lse[:, :, rows] = total
        out[:, :, rows] = _spread(_weights(scores, total), v[:, :, columns].to(dtype)).to(q.dtype)
    return out, lse


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, interval: Interval, rule: AttentionRule
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of q, k, v [B, H or G, T, d or e] under the rule; None where its factor is 0."""
    dtype, groups = compute_dtype(q), k.shape[1]
    dq, dk, dv = (torch.zeros_like(x, dtype=dtype) for x in (q, k, v))
    for rows, columns in _blocks(q, interval):
        scores, slope = _scores(q, k, interval, rule, rows, columns)
        weights = _weights(scores, lse[:, :, rows])
        o = grad[:, :, rows].to(dtype)
        dv[:, :, columns] += _gather(weights, o, groups)
        if not (rule.query or rule.key):
            continue
        d_scores = weights * (_product(o, v[:, :, columns].to(dtype)) - (o * out[:, :, rows]).sum(-1, keepdim=True))
        if slope is not None:
            d_scores *= slope
        dq[:, :, rows] += _spread(d_scores, k[:, :, columns].to(dtype))
        dk[:, :, columns] += _gather(d_scores, q[:, :, rows].to(dtype), groups)
    return (
        dq.mul_(rule.query * rule.scale).to(q.dtype) if rule.query else None,
        dk.mul_(rule.key * rule.scale).to(k.dtype) if rule.key else None,
        dv.mul_(rule.value).to(v.dtype),
    )


def _blocks(q: Tensor, interval: Interval) -> Iterator[tuple[slice, slice]]:
    """Row blocks, each with the columns that any of its rows attends to."""
    batch, heads, length = q.shape[:3]
    size = max(8, BLOCK_BYTES // (4 * batch * heads * max(length, 1)))
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        yield rows, slice(*interval.columns(rows.start, rows.stop))


def _scores(
    q: Tensor, k: Tensor, interval: Interval, rule: AttentionRule, rows: slice, columns: slice
) -> tuple[Tensor, Tensor | None]:
    """Capped scores [B, H, R, C] with -inf where a row may not attend, and the softcap's slope."""
    dtype = compute_dtype(q)
    scores, slope = _product(q[:, :, rows].to(dtype) * rule.scale, k[:, :, columns].to(dtype)), None
    if rule.softcap is not None:
        u = scores / rule.softcap
        tanh = torch.tanh(u)
        scores, slope = tanh * rule.softcap, tanh_slope(u) if rule.slope else 1 - tanh * tanh
    column = torch.arange(columns.start, columns.stop, device=q.device)
    first, end = interval.first[..., rows, None], interval.end[..., rows, None]
    allowed = (column >= first) & (column < end)  # [R, C] or [B, R, C]
    return scores.masked_fill(~allowed.unsqueeze(-3), -torch.inf), slope


def _weights(scores: Tensor, lse: Tensor) -> Tensor:
    return torch.exp(scores - torch.where(lse == -torch.inf, 0.0, lse)[..., None])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """[B, H, R, d], [B, G, C, d] -> [B, H, R, C], without repeating b for the heads of a group."""
    batch, groups, columns = b.shape[:3]
    grouped = a.reshape(batch, groups, -1, a.shape[-1]) @ b.transpose(2, 3)
    return grouped.view(batch, a.shape[1], a.shape[2], columns)


def _spread(a: Tensor, b: Tensor) -> Tensor:
    """[B, H, R, C], [B, G, C, d] -> [B, H, R, d]."""
    batch, groups = b.shape[:2]
    return (a.reshape(batch, groups, -1, a.shape[-1]) @ b).view(*a.shape[:3], b.shape[-1])


def _gather(a: Tensor, b: Tensor, groups: int) -> Tensor:
    """[B, H, R, C], [B, H, R, d] -> [B, G, C, d], summed over rows and the heads of a group."""
    batch, width = a.shape[0], b.shape[-1]
    return a.reshape(batch, groups, -1, a.shape[-1]).transpose(2, 3) @ b.reshape(batch, groups, -1, width)
