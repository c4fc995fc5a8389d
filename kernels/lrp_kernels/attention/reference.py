"""Softmax attention and its LRP gradient, one row block of one key head at a time: never an n x n array.

With o the gradient at the output, P the attention weights, D_j = <o_j, out_j> and lambda the slope of a softcap
(AttnLRP, arXiv 2402.05602, section 3.3, in gradient form; docs/mathematics.md):

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
from lrp_kernels.rows import FEW_ROWS, rows_at_once, takes_part


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, interval: Interval, rule: AttentionRule
) -> tuple[Tensor, Tensor]:
    """out [B, H, T, e] in q's dtype and the log-sum-exp [B, H, T] of the scores, in the compute dtype."""
    dtype = compute_dtype(q)
    out, lse = q.new_empty(*q.shape[:3], v.shape[3]), q.new_empty(q.shape[:3], dtype=dtype)
    for batch, group, heads in _groups(q, k):
        key, value = k[batch, group].to(dtype), v[batch, group].to(dtype)
        for rows, columns, allowed in _blocks(interval.row(batch), q.shape[1] // k.shape[1]):
            scores, _ = _scores(q[batch, heads, rows].to(dtype), key[columns], allowed, rule)
            total = scores.logsumexp(-1)
            if sinks is not None:
                total = torch.logaddexp(total, sinks[heads].to(dtype)[:, None])
            lse[batch, heads, rows] = total
            out[batch, heads, rows] = _spread(_weights(scores, total), value[columns]).to(q.dtype)
    return out, lse


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, interval: Interval, rule: AttentionRule
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of q, k, v [B, H or G, T, d or e] under the rule; None where its factor is 0."""
    dtype = compute_dtype(q)
    dq, dk, dv = (torch.zeros_like(x, dtype=dtype) for x in (q, k, v))
    for batch, group, heads in _groups(q, k):
        key, value = k[batch, group].to(dtype), v[batch, group].to(dtype)
        for rows, columns, allowed in _blocks(interval.row(batch), q.shape[1] // k.shape[1]):
            o = grad[batch, heads, rows].to(dtype)
            if not takes_part(o):
                continue
            query = q[batch, heads, rows].to(dtype)
            scores, slope = _scores(query, key[columns], allowed, rule)
            weights = _weights(scores, lse[batch, heads, rows])
            dv[batch, group, columns] += _gather(weights, o)
            if not (rule.query or rule.key):
                continue
            kept = (o * out[batch, heads, rows]).sum(-1, keepdim=True)
            d_scores = (_product(o, value[columns]) - kept).mul_(weights)
            if slope is not None:
                d_scores.mul_(slope)
            dq[batch, heads, rows] = _spread(d_scores, key[columns])
            dk[batch, group, columns] += _gather(d_scores, query)
    return (
        dq.mul_(rule.query * rule.scale).to(q.dtype) if rule.query else None,
        dk.mul_(rule.key * rule.scale).to(k.dtype) if rule.key else None,
        dv.mul_(rule.value).to(v.dtype),
    )


def _groups(q: Tensor, k: Tensor) -> Iterator[tuple[int, int, slice]]:
    """Each key head of each sequence, and the query heads that share it: their rows are made in one product."""
    size = q.shape[1] // k.shape[1]
    for batch in range(q.shape[0]):
        for group in range(k.shape[1]):
            yield batch, group, slice(group * size, (group + 1) * size)


def _blocks(interval: Interval, heads: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """Row blocks of one sequence: rows, the columns that any of them attends to, and who attends to what [R, C]."""
    length = len(interval.first)
    widest = int((interval.end - interval.first).max()) if length else 0
    size = rows_at_once(heads, min(length, widest + FEW_ROWS))
    for start in range(0, length, size):
        rows = slice(start, min(start + size, length))
        columns = slice(*interval.columns(rows.start, rows.stop))
        column = torch.arange(columns.start, columns.stop, device=interval.first.device)
        yield rows, columns, (column >= interval.first[rows, None]) & (column < interval.end[rows, None])


def _scores(q: Tensor, k: Tensor, allowed: Tensor, rule: AttentionRule) -> tuple[Tensor, Tensor | None]:
    """Capped scores [H, R, C] with -inf where a row may not attend, and the softcap's slope."""
    scores, slope = _product(q * rule.scale, k), None
    if rule.softcap is not None:
        u = scores / rule.softcap
        tanh = torch.tanh(u)
        scores, slope = tanh * rule.softcap, tanh_slope(u) if rule.slope else 1 - tanh * tanh
    return scores.masked_fill_(~allowed, -torch.inf), slope


def _weights(scores: Tensor, lse: Tensor) -> Tensor:
    return torch.exp(scores - torch.where(lse == -torch.inf, 0.0, lse)[..., None])


def _product(a: Tensor, b: Tensor) -> Tensor:
    """[H, R, d], [C, d] -> [H, R, C], the rows of all heads in one matrix."""
    return (a.reshape(-1, a.shape[-1]) @ b.T).view(*a.shape[:2], len(b))


def _spread(a: Tensor, b: Tensor) -> Tensor:
    """[H, R, C], [C, d] -> [H, R, d]."""
    return (a.reshape(-1, a.shape[-1]) @ b).view(*a.shape[:2], b.shape[-1])


def _gather(a: Tensor, b: Tensor) -> Tensor:
    """[H, R, C], [H, R, d] -> [C, d], summed over rows and heads."""
    return a.reshape(-1, a.shape[-1]).T @ b.reshape(-1, b.shape[-1])
