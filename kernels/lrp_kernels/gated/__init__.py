"""Activations and gated products whose gradients are the LRP slope and product rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from lrp_kernels.function import RuleFunction, compute_dtype
from lrp_kernels.gated import reference
from lrp_kernels.gated.reference import ACTIVATIONS, Activation, gated_backward, secant, tanh_slope

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "gated_backward",
    "gated_product",
    "half_product",
    "secant",
    "slope_activation",
    "tanh_slope",
]

Observer = Callable[[Tensor, Tensor], None]
"""Called in the backward pass with a value and its gradient, both shaped alike."""


class SlopeActivation(RuleFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, activation: Activation, observe: Observer | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.activation, ctx.observe = activation, observe
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        grad, x = grads[0], x.to(compute_dtype(x))
        slope = ctx.activation.slope(x)
        if ctx.observe is not None:
            ctx.observe(slope * x + ctx.activation.at_zero, grad)
        return slope.mul_(grad).to(grad.dtype), None, None, None


def slope_activation(x: Tensor, value: Tensor, activation: Activation, observe: Observer | None = None) -> Tensor:
    """Return ``value`` = f(x); in the backward pass f's derivative is replaced by (f(x) - f(0)) / x.

    Source: AttnLRP (arXiv 2402.05602), equation 9. ``x``, ``value``: any shape, one dtype. ``observe`` gets
    (f(x), its gradient) in the backward pass.
    """
    out: Tensor = SlopeActivation.call(x, value, activation, observe)
    return out


class _GatedProduct(RuleFunction):
    """Saves gate and up only; act(gate) is recomputed."""

    @staticmethod
    def forward(
        ctx: Any,
        gate: Tensor,
        up: Tensor,
        act: Callable[[Tensor], Tensor],
        activation: Activation,
        factors: tuple[float, float],
        observe: Observer | None,
        backend: str,
    ) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.activation, ctx.factors, ctx.observe, ctx.backend = activation, factors, observe, backend
        return act(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        observed = ctx.observe is not None
        if ctx.backend == "triton":
            from lrp_kernels.gated import triton

            f = ctx.activation
            *found, product = triton.gated_backward(
                grads[0], gate, up, f.name, f.at_zero, *ctx.factors, with_product=observed
            )
            if observed:
                ctx.observe(product, grads[0])
            return *found, None, None, None, None, None
        to_gate, to_up, value = reference.gated_backward(grads[0], gate, up, ctx.activation, *ctx.factors)
        if observed:
            ctx.observe(value * up.to(value.dtype), grads[0])
        return to_gate, to_up, None, None, None, None, None


def gated_product(
    gate: Tensor,
    up: Tensor,
    act: Callable[[Tensor], Tensor],
    activation: Activation,
    factors: tuple[float, float],
    observe: Observer | None = None,
    *,
    backend: Literal["reference", "triton"] = "reference",
) -> Tensor:
    """act(gate) * up with ``factors`` (gate, up) of the relevance: (1/2, 1/2) AttnLRP, (0, 1) CP-LRP.

    Source: AttnLRP (arXiv 2402.05602), section 3.3; docs/mathematics.md. ``act`` gives the values, ``activation``
    the slope. ``observe`` gets (product, its gradient) in the backward pass.
    """
    out: Tensor = _GatedProduct.call(gate, up, act, activation, factors, observe, backend)
    return out


class _Product(RuleFunction):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, factors: tuple[float, float], observe: Observer | None) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.factors, ctx.observe = factors, observe
        return a * b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        to_a, to_b = ctx.factors
        if ctx.observe is not None:
            ctx.observe((a * b).to(compute_dtype(a)), grads[0])
        return (grads[0] * b).mul_(to_a) if to_a else None, (grads[0] * a).mul_(to_b) if to_b else None, None, None


def half_product(
    a: Tensor, b: Tensor, factors: tuple[float, float] = (0.5, 0.5), observe: Observer | None = None
) -> Tensor:
    """a * b, the relevance shared by ``factors``. Source: AttnLRP (arXiv 2402.05602), section 3.3."""
    out: Tensor = _Product.call(a, b, factors, observe)
    return out
