"""Softmax attention by this project's operator in place of the model's own function: where the backend is triton, and
where a long prompt's mask is kept as intervals.

The kernel keeps q, k, v, the output and the log-sum-exp, never the weights, and its gradients are LRP's. Values are
then the kernel's: equal to those of the model's implementation within the noise of its dtype, not bit for bit (`doctor`
prints the difference of the logits). Everywhere else the model's own implementation runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lrp_hooks.ops import AttentionRule, Interval, attention, attention_backend
from lrp_hooks.patching.implementation import implementation
from lrp_hooks.patching.masks import IntervalMask

KNOWN = frozenset({
    "scaling", "softcap", "s_aux", "is_causal", "sliding_window", "dropout", "position_ids", "cache_position",
    "output_attentions", "output_hidden_states", "use_cache",
})  # fmt: skip
"""Options of an attention function whose meaning is known here; another one that is given is an obstacle."""
NOISE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""How far, of the largest value, an eager function's output may be from the kernel's and still be the same function."""
_SAME_AS_KERNEL: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()
"""Families' own eager functions, compared with the kernel when they are first met."""


def fused_attention(
    base: Callable[..., Any],
    module: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any,
    options: dict[str, Any],
    rule: AttentionRule,
    interval: Interval | None,
) -> tuple[Tensor, Tensor] | None:
    """(out [B, T, H, e], log-sum-exp [B, H, T]) by the kernels, or None where the model's own function is to run.

    Args:
        base: the model's own function; rule: factors 0 and 1 (who shares relevance does so outside).
        interval: what the mask says, None where it is no interval per row.

    Raises:
        BackendError: triton was asked for explicitly and the kernels do not take this call.
    """

    def unsupported() -> str | None:
        return _obstacle(module, options, interval) or _other_function(
            base, module, q, k, v, mask, options, rule, interval
        )

    if attention_backend(q, k, v, unsupported) == "reference" and not by_intervals(module, mask, options):
        return None
    assert interval is not None
    out, lse = attention(q, k, v, interval, rule, options.get("s_aux"))
    return out.transpose(1, 2), lse


def kernel_rule(
    q: Tensor, options: dict[str, Any], *, softcap_slope: bool = True, query: float = 1.0, key: float = 1.0
) -> AttentionRule:
    """The plain gradient, of what takes part: `AttentionInputs` shares it out."""
    scale = options.get("scaling")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return AttentionRule(scale, options.get("softcap"), softcap_slope, query, key, 1.0)


def value_of_attention(
    base: Callable[..., Any], module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, options: dict[str, Any]
) -> tuple[Tensor, Any]:
    """(out [B, T, H, e], weights or None) where no gradient is wanted: the model's own, or by the mask's intervals."""
    if not by_intervals(module, mask, options):
        made: tuple[Tensor, Any] = base(module, q, k, v, mask, **options)
        return made
    out, _ = attention(q, k, v, mask.interval, kernel_rule(q, options), options.get("s_aux"))
    return out.transpose(1, 2), None


def by_intervals(module: Any, mask: Any, options: dict[str, Any]) -> bool:
    """Whether the mask is too large to be written out, and what else the function is given is understood."""
    return isinstance(mask, IntervalMask) and _obstacle(module, options, mask.interval) is None


def _obstacle(module: Any, options: dict[str, Any], interval: Interval | None) -> str | None:
    name = implementation(module)
    if name not in ("sdpa", "eager"):
        return f"attn_implementation={name!r} brings kernels of its own"
    if interval is None:
        return "the attention mask is not one interval of tokens per token"
    if options.get("output_attentions") or getattr(module.config, "output_attentions", False):
        return "the attention weights were asked for (output_attentions), and the kernels do not keep them"
    strange = sorted(name for name, value in options.items() if isinstance(value, Tensor) and name not in KNOWN)
    return f"the attention function is given {', '.join(strange)}" if strange else None


def _other_function(
    base: Callable[..., Any], module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, options: dict[str, Any],
    rule: AttentionRule, interval: Interval | None,
) -> str | None:  # fmt: skip
    """Why a family's own eager function is not the softmax attention of the kernels, or None. Compared once each."""
    if implementation(module) != "eager":
        return None
    if base not in _SAME_AS_KERNEL:
        assert interval is not None
        with torch.no_grad():
            expected = base(module, q, k, v, mask, **options)[0]
            found = attention(q, k, v, interval, rule, options.get("s_aux"))[0].transpose(1, 2)
        seen = (interval.end > interval.first).expand(q.shape[0], -1)  # padding attends to nothing, or to anything
        error = float((expected - found)[seen].abs().max())
        _SAME_AS_KERNEL[base] = error <= NOISE[q.dtype] * float(expected[seen].abs().max())
    return None if _SAME_AS_KERNEL[base] else f"{base.__qualname__} of {base.__module__} is another attention"
