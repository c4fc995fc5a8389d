"""Normalisation with a detached scale: values of the module, gradients of LRP."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lrp_kernels.function import RuleFunction
from lrp_kernels.norm import reference
from lrp_kernels.norm.reference import frozen_norm, norm_backward, norm_forward, norm_scale
from lrp_kernels.norm.spec import NormSpec

__all__ = ["NormSpec", "detached_norm", "frozen_norm", "norm_backward", "norm_forward", "norm_scale"]


class _DetachedNorm(RuleFunction):
    """Keeps only the scale [..., 1] for the backward pass; the input is not saved."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, spec: NormSpec, value: Tensor | None,
        backend: str,
    ) -> Tensor:  # fmt: skip
        if value is None:  # the module's values bit for bit, whatever the backend
            y, scale = norm_forward(x, weight, bias, spec)
        else:
            y, scale = value.view_as(value), _kernels(backend).norm_scale(x, spec)
        ctx.save_for_backward(weight, scale)
        ctx.spec, ctx.backend = spec, backend
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        return _kernels(ctx.backend).norm_backward(grads[0], weight, scale, ctx.spec), None, None, None, None, None


def _kernels(backend: str) -> Any:
    if backend == "reference":
        return reference
    from lrp_kernels.norm import triton

    return triton


def detached_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    spec: NormSpec,
    value: Tensor | None = None,
    *,
    backend: Literal["reference", "triton"] = "reference",
) -> Tensor:
    """Normalise ``x`` [..., D]; in the backward pass 1/rms (or 1/std) is a constant.

    Source: AttnLRP (arXiv 2402.05602), section 3.3; docs/mathematics.md.

    Args:
        x: [..., D], any floating dtype; statistics are float32 (float64 for float64 where the module's are).
        weight: broadcastable to [..., D], or None.
        bias: [D] or None. It receives no gradient.
        spec: the module's arithmetic.
        value: the module's own output, for ``spec.formula == "module"``.
    """
    out: Tensor = _DetachedNorm.call(x, weight, bias, spec, value, backend)
    return out
