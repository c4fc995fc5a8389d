"""Softmax attention with LRP gradients, in memory linear in the length."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lrp_kernels.attention import blocked, reference
from lrp_kernels.attention.interval import Interval
from lrp_kernels.attention.rule import AttentionRule
from lrp_kernels.function import RuleFunction
from lrp_kernels.relevance import relevance_sum

__all__ = ["AttentionRule", "Interval", "attention"]


class _Attention(RuleFunction):
    """Keeps q, k, v, out and the log-sum-exp; weights are made again in the backward pass.

    The backend "reference" is plain PyTorch: its own flash attention where that knows the call, else weights written
    out a few rows at a time.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, interval: Interval, rule: AttentionRule,
        backend: str,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        kernels: Any = blocked if blocked.takes(q, v, sinks, rule) else reference
        if backend == "triton":
            from lrp_kernels.attention import triton as kernels
        out, lse = kernels.attention_forward(q, k, v, sinks, interval, rule)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.interval, ctx.rule, ctx.backend, ctx.kernels = interval, rule, backend, kernels
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        if ctx.backend == "triton":
            from lrp_kernels.attention import triton as kernels

            kept = relevance_sum(out, grads[0], backend="triton")
            found = kernels.attention_backward(grads[0], q, k, v, kept, lse, ctx.interval, ctx.rule)
        else:
            found = ctx.kernels.attention_backward(grads[0], q, k, v, out, lse, ctx.interval, ctx.rule)
        return (*found, None, None, None, None)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    interval: Interval,
    rule: AttentionRule,
    sinks: Tensor | None = None,
    *,
    backend: Literal["reference", "triton"] = "reference",
) -> tuple[Tensor, Tensor]:
    """Softmax attention whose gradients are those of AttnLRP or CP-LRP, by the rule's factors.

    Source: AttnLRP (arXiv 2402.05602), section 3.3, in gradient form.

    Args:
        q: [B, H, T, d]; k: [B, G, T, d]; v: [B, G, T, e], with H a multiple of G (grouped queries).
        interval: which columns each row attends to; a row with none gives zeros.
        sinks: [H] logits that take part in the softmax only. They absorb relevance and receive no gradient.

    Returns:
        out [B, H, T, e] and the log-sum-exp of the scores [B, H, T] (float32; float64 for float64), which carries no
        gradient.

    Raises:
        UnsupportedInput: the triton kernels do not take the dtype or a head dimension.
    """
    out: tuple[Tensor, Tensor] = _Attention.call(q, k, v, sinks, interval, rule, backend)
    return out
