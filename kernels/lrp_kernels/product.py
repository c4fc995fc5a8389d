"""Products of two relevance-carrying tensors, and the softmax: values unchanged, gradients by LRP's product rule.

Source: AttnLRP (arXiv 2402.05602), section 3.3: a product gives a share of its relevance to each factor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lrp_kernels.function import RuleFunction

__all__ = ["Bilinear", "Observe", "observed_softmax", "shared_bilinear"]

Bilinear = Callable[[Tensor, Tensor], Tensor]
Observe = Callable[[Tensor, Tensor, Tensor | None, Tensor | None, Tensor], None]
"""Takes both factors, their gradients (shares included), and the product's."""


class _Shared(RuleFunction):
    """Saves both factors; the product's own gradient is recomputed and weighted."""

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        product: Bilinear,
        factors: tuple[float, float],
        shift: float,
        observe: Observe | None,
    ) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.product, ctx.factors, ctx.shift, ctx.observe = product, factors, shift, observe
        return product(a + shift if shift else a, b)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b = (x.detach().requires_grad_() for x in ctx.saved_tensors)
        to_a, to_b = ctx.factors
        with torch.enable_grad():
            out = ctx.product(a, b)
            grad_a, grad_b = torch.autograd.grad(out, (a, b), grads[0])
            grad_b = grad_b * to_b
            if ctx.shift:  # (a + c) b is a b, a product, plus c b, linear in b
                grad_b = grad_b + torch.autograd.grad(ctx.product(torch.full_like(a, ctx.shift), b), b, grads[0])[0]
        shared_a = grad_a * to_a if to_a else None
        if ctx.observe is not None:
            ctx.observe(a.detach(), b.detach(), shared_a, grad_b, grads[0])
        return shared_a, grad_b, None, None, None, None


def shared_bilinear(
    a: Tensor,
    b: Tensor,
    product: Bilinear,
    factors: tuple[float, float],
    shift: float = 0.0,
    observe: Observe | None = None,
) -> Tensor:
    """product(a + shift, b), bilinear; ``a`` and ``b`` get ``factors`` of the relevance of product(a, b).

    product(shift, b) is linear in b and goes to it whole. ``observe`` is given (a, b, their gradients, the product's)
    in the backward pass. Source: AttnLRP, section 3.3; docs/mathematics.md.
    """
    out: Tensor = _Shared.call(a, b, product, factors, shift, observe)
    return out


class ObservedSoftmax(RuleFunction):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, weights: Tensor, dim: int, observe: Callable[..., None] | None) -> Tensor:
        out = weights.view_as(weights)
        ctx.save_for_backward(scores, out)
        ctx.dim, ctx.observe = dim, observe
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scores, weights = ctx.saved_tensors
        product = weights * grads[0]
        to_scores = product - weights * product.sum(ctx.dim, keepdim=True)
        if ctx.observe is not None:
            flowing = torch.where(to_scores == 0, 0.0, scores * to_scores)  # masked scores are -inf or huge
            ctx.observe(product.sum(ctx.dim) - flowing.sum(ctx.dim))
        return to_scores.to(scores.dtype), None, None, None


def observed_softmax(
    scores: Tensor, weights: Tensor, dim: int, observe: Callable[[Tensor], None] | None = None
) -> Tensor:
    """``weights`` = softmax(scores) with its own gradient; ``observe`` gets what it absorbs, <w, dw> - <s, ds>."""
    out: Tensor = ObservedSoftmax.call(scores, weights, dim, observe)
    return out
