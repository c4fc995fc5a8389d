"""The attention operator on CPUs, by PyTorch's own flash attention, one block of rows and its columns at a time.

The same gradients as `reference`, which writes weights out and takes several passes over them; this leaves all work on
tiles to PyTorch's kernel, and asks it for no more columns than a block of rows attends to: a sliding window costs time
in proportion to its width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lrp_kernels.attention.interval import Interval
from lrp_kernels.attention.rule import AttentionRule

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
    for rows, columns, mask, empty in _blocks(q, interval):
        kh, vh = (_of_heads(x[:, :, columns], q.shape[1]) for x in (k, v))
        made, total = flash(q[:, :, rows], kh, vh, attn_mask=mask, scale=rule.scale)
        out[:, :, rows] = made.masked_fill(empty[..., None], 0.0)
        lse[:, :, rows] = total.masked_fill(empty, -torch.inf)
    return out, lse


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, interval: Interval, rule: AttentionRule
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of q, k, v [B, H or G, T, d] under the rule; None where its factor is 0."""
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    dq, groups = torch.empty_like(q), k.shape[1]
    dk, dv = (torch.zeros_like(x, dtype=lse.dtype) for x in (k, v))
    for rows, columns, mask, empty in _blocks(q, interval):
        kh, vh = (_of_heads(x[:, :, columns], q.shape[1]) for x in (k, v))
        o = grad[:, :, rows].masked_fill(empty[..., None], 0.0)
        total = lse[:, :, rows].masked_fill(empty, 0.0)
        parts = flash(
            o, q[:, :, rows], kh, vh, out[:, :, rows], total, 0.0, False, attn_mask=mask, scale=rule.scale
        )  # fmt: skip
        dq[:, :, rows] = parts[0]
        dk[:, :, columns] += _of_groups(parts[1], groups)
        dv[:, :, columns] += _of_groups(parts[2], groups)
    return (
        dq.mul_(rule.query) if rule.query else None,
        dk.mul_(rule.key).to(k.dtype) if rule.key else None,
        dv.mul_(rule.value).to(v.dtype),
    )


def _blocks(q: Tensor, interval: Interval) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """Row blocks: rows, the columns that any of them attends to, the mask that is added, and rows [B or 1, 1, R] that
    attend to nothing (in the mask they see everything, so that the kernel meets no row without columns)."""
    batch, length, start = interval.first.shape[0] if interval.first.dim() > 1 else 1, q.shape[2], 0
    firsts, ends = (x.view(batch, length) for x in (interval.first, interval.end))
    while start < length:
        low, high = interval.columns(start, min(start + ROWS, length))
        rows = slice(start, min(start + max(1, min(ROWS, MASK_ENTRIES // max(1, batch * (high - low)))), length))
        low, high = interval.columns(rows.start, rows.stop)
        first, end = firsts[:, rows, None], ends[:, rows, None]
        column = torch.arange(low, high, device=q.device)
        empty = end <= first
        allowed = ((column >= first) & (column < end)) | empty
        mask = torch.zeros(allowed.shape, dtype=q.dtype).masked_fill_(~allowed, -torch.inf)
        yield rows, slice(low, high), mask[:, None], empty[:, None, :, 0]
        start = rows.stop


def _of_heads(x: Tensor, heads: int) -> Tensor:
    """[B, G, C, d] -> [B, H, C, d]."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], 1)


def _of_groups(x: Tensor, groups: int) -> Tensor:
    """[B, H, C, d] -> [B, G, C, d], summed over the heads of a group."""
    return x if x.shape[1] == groups else x.view(x.shape[0], groups, -1, *x.shape[2:]).sum(2)
