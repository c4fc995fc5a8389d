"""Attention masks that stay one interval per token, where transformers would write T x T of them.

Sliding windows, chunks and padding are intervals. The model's own mask function is asked for a few rows at a time, and
what it says is kept as two numbers per row; attention then goes by those (`lrp_hooks.rules.attention.fused`). Whoever
does anything else with such a mask gets it written out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lrp_hooks.ops import Interval

MASK_ENTRIES = 1 << 24
"""Entries B x T x T from which on a mask is not written out: below, it is small beside the activations."""

_PROPERTIES = ("shape", "dtype", "device", "ndim", "is_cuda", "requires_grad", "is_leaf", "grad_fn", "layout")
_READS = frozenset({
    Tensor.dim, Tensor.size, Tensor.stride, Tensor.is_floating_point, Tensor.__hash__,
    *(getattr(Tensor, name).__get__ for name in _PROPERTIES),
})  # fmt: skip
"""What may be asked of a mask without its entries."""
_LOG = logging.getLogger(__name__)


class IntervalMask(Tensor):
    """A mask [B, 1, T, T] of bool, True = attend, that is written out by the first operation on its entries.

    Attributes:
        interval: [B, T], what it says.
    """

    interval: Interval

    @staticmethod
    def of(interval: Interval) -> IntervalMask:
        """From intervals [B, T]."""
        batch, length = interval.first.shape
        one = torch.ones((), dtype=torch.bool, device=interval.first.device)
        mask = one.expand(batch, 1, length, length).as_subclass(IntervalMask)
        mask.interval = interval
        return mask

    def dense(self) -> Tensor:
        """[B, 1, T, T] of bool."""
        length, device = self.interval.first.shape[1], self.interval.first.device
        _LOG.warning("an attention mask of %d x %d is written out: something asks for its entries", length, length)
        return self.interval.allowed(torch.arange(length, device=device), length)[:, None]

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _READS:
            args, kwargs = tree_map(lambda x: x.dense() if isinstance(x, IntervalMask) else x, (args, dict(kwargs)))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)


def make_mask(base: Callable[..., Tensor | None], name: str, options: dict[str, Any]) -> Tensor | None:
    """What the model's own mask function ``base`` makes of ``options``, as intervals where that saves much.

    Args:
        name: the attention implementation it belongs to. Only sdpa's masks are kept small: eager attention writes its
            weights out anyway, other implementations have their own form.
    """
    if name != "sdpa" or not _worth_it(options):
        return base(**options)
    found = _intervals(base, options)
    return base(**options) if found is None else IntervalMask.of(found)


def _worth_it(options: dict[str, Any]) -> bool:
    """Whether a large square mask would be written out: one that sdpa does not do without."""
    length, columns = options["q_length"], options["kv_length"]
    if length != columns or options.get("q_offset") or options.get("kv_offset"):
        return False
    if options["batch_size"] * length * length < MASK_ENTRIES:
        return False
    padding, window = options.get("attention_mask"), options.get("local_size")
    skips = options.get("allow_is_causal_skip", True) or options.get("allow_is_bidirectional_skip", False)
    plain = (padding is None or bool(padding.all())) and (window is None or window >= length)
    return not (skips and plain)


def _intervals(base: Callable[..., Tensor | None], options: dict[str, Any]) -> Interval | None:
    """[B, T], from some rows of the mask at a time; None where a row is no interval."""
    batch, length = options["batch_size"], options["q_length"]
    options = {**options, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False}
    parts, size = list[Interval](), max(1, MASK_ENTRIES // (batch * length))
    for start in range(0, length, size):
        rows = base(**{**options, "q_offset": start, "q_length": min(size, length - start)})
        found = None if rows is None or rows.shape[1] != 1 else Interval.of_mask(rows[:, 0])
        if found is None:
            return None
        parts.append(found)
    return Interval(torch.cat([p.first for p in parts], -1), torch.cat([p.end for p in parts], -1))
