"""Which columns each row of one attention call sees, as intervals: what transformers' masks say, in linear memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from lrp_hooks.ops import Interval
from lrp_hooks.patching.implementation import implementation, is_causal
from lrp_hooks.patching.masks import IntervalMask

_OF_MASKS: Any = WeakTensorKeyDictionary()
"""All blocks of one kind are given the same mask; it is read once."""


def visible(module: Any, q: Tensor, k: Tensor, mask: Any, options: dict[str, Any]) -> Interval | None:
    """What the model's own attention function makes of ``mask``; None where that is no interval per row.

    Args:
        module: whose attention implementation and ``is_causal`` say what a call without a mask sees.
        q, k: [B, H, T, d] and [B, G, S, d]; mask: None or [B or 1, 1 or H, T, S].
    """
    length = q.shape[2]
    if k.shape[2] != length:
        return None
    if mask is None:
        base = implementation(module)
        if base == "sdpa" and is_causal(module, options):
            return Interval.causal(length, device=q.device)
        first = torch.zeros(length, dtype=torch.int32, device=q.device)
        return Interval(first, torch.full_like(first, length)) if base in ("sdpa", "eager") else None
    if isinstance(mask, IntervalMask):
        return mask.interval.row(0) if mask.shape[0] == 1 else mask.interval
    if not isinstance(mask, Tensor) or mask.dim() != 4 or mask.shape[-2:] != (length, length):
        return None
    if mask not in _OF_MASKS:
        _OF_MASKS[mask] = _of_mask(mask)
    found: Interval | None = _OF_MASKS[mask]
    return found


def _of_mask(mask: Tensor) -> Interval | None:
    """[T], or [B, T] for several sequences."""
    if mask.shape[1] > 1 and mask.stride(1):  # one per head
        return None
    return Interval.of_mask(mask[0, 0] if mask.shape[0] == 1 else mask[:, 0])
