"""The attention operator on CPUs, by PyTorch's own flash attention, one block of rows and its columns at a time.

The same gradients as `reference`, which writes weights out and takes several passes over them; this leaves all work on
tiles to PyTorch's kernel, and asks it for no more columns than a block of rows attends to: a sliding window costs time
in proportion to its width. The kernel knows one number of heads only, but takes any stride: the heads of a group are a
dimension in which k and v do not advance, so that neither is repeated.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lrp_kernels.attention.interval import Interval
from lrp_kernels.attention.rule import AttentionRule
from lrp_kernels.rows import takes_part

ROWS, MASK_ENTRIES = 512, 1 << 22
"""Rows of a block, fewer where the block's mask would have more entries than this."""
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def takes(q: Tensor, v: Tensor, sinks: Tensor | None, rule: AttentionRule) -> bool:
    """Whether PyTorch's kernel computes this attention: no softcap, no sinks, one head size, on a CPU."""
    alike = q.shape[-1] == v.shape[-1] and q.dtype in DTYPES
    return q.device.type == "cpu" and alike and sinks is None and rule.softcap is None


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, sinks: None, interval: Interval, rule: AttentionRule
) -> tuple[Tensor, Tensor]:
    """out [B, H, T, e] in q's dtype and the log-sum-exp [B, H, T] of the scores, float32 or float64."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    out = torch.empty_like(q)
    lse = q.new_empty(q.shape[:3], dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    for batch in range(q.shape[0]):
        qs, ks, vs = _of_groups(q[batch], k[batch], v[batch])
        outs, totals = (_by_group(x[batch], len(ks)) for x in (out, lse))
        for rows, columns, mask, empty in _blocks(interval.row(batch), q.dtype):
            made, total = flash(
                qs[:, :, rows], ks[:, :, columns], vs[:, :, columns], attn_mask=mask, scale=rule.scale
            )  # fmt: skip
            outs[:, :, rows] = made.masked_fill(empty[:, None], 0.0)
            totals[:, :, rows] = total.masked_fill(empty, -torch.inf)
    return out, lse


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, interval: Interval, rule: AttentionRule
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of q, k, v [B, H or G, T, d] under the rule; None where its factor is 0."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    dq = torch.zeros_like(q)
    dk, dv = (torch.zeros_like(x, dtype=lse.dtype) for x in (k, v))
    for batch in range(q.shape[0]):
        qs, ks, vs = _of_groups(q[batch], k[batch], v[batch])
        grads, outs, totals, dqs = (_by_group(x[batch], len(ks)) for x in (grad, out, lse, dq))
        for rows, columns, mask, empty in _blocks(interval.row(batch), q.dtype):
            o = grads[:, :, rows].masked_fill(empty[:, None], 0.0)
            if not takes_part(o):
                continue
            total = totals[:, :, rows].masked_fill(empty, 0.0)
            parts = flash(
                o, qs[:, :, rows], ks[:, :, columns], vs[:, :, columns], outs[:, :, rows], total, 0.0, False,
                attn_mask=mask, scale=rule.scale,
            )  # fmt: skip
            dqs[:, :, rows] = parts[0]
            dk[batch, :, columns] += parts[1].sum(1, dtype=dk.dtype)
            dv[batch, :, columns] += parts[2].sum(1, dtype=dv.dtype)
    return (
        dq.mul_(rule.query) if rule.query else None,
        dk.mul_(rule.key).to(k.dtype) if rule.key else None,
        dv.mul_(rule.value).to(v.dtype),
    )


def _blocks(interval: Interval, dtype: torch.dtype) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Row blocks of one sequence: rows, the columns that any of them attends to, the mask [1, 1, R, C] that is added,
    and rows [R] that attend to nothing (in the mask they see everything, so that the kernel meets no row without
    columns)."""
    length, start = len(interval.first), 0
    while start < length:
        low, high = interval.columns(start, min(start + ROWS, length))
        rows = slice(start, min(start + max(1, min(ROWS, MASK_ENTRIES // (high - low))), length))
        low, high = interval.columns(rows.start, rows.stop)
        first, end = interval.first[rows, None], interval.end[rows, None]
        column = torch.arange(low, high, device=first.device)
        empty = end <= first
        allowed = ((column >= first) & (column < end)) | empty
        mask = torch.zeros(allowed.shape, dtype=dtype).masked_fill_(~allowed, -torch.inf)
        yield rows, slice(low, high), mask[None, None], empty[:, 0]
        start = rows.stop


def _of_groups(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[H, T, d] and [G, T, d] twice as views [G, H/G, T, d] of one shape."""
    qs = _by_group(q, len(k))
    ks, vs = (x[:, None].expand(-1, qs.shape[1], -1, -1) for x in (k, v))
    return qs, ks, vs


def _by_group(x: Tensor, groups: int) -> Tensor:
    """[H, ...] -> [G, H/G, ...], the same memory."""
    return x.view(groups, -1, *x.shape[1:])
