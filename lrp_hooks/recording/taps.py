"""Taps: identity functions in the autograd graph whose backward sees a value and its gradient, once per pass.

Forward hooks would not do: they fire twice under checkpointing, and they see no gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lrp_hooks.ops import RuleFunction

Store = Callable[[Tensor, Tensor], None]
"""Takes a value and its gradient, in the backward pass."""


class _Tap(RuleFunction):
    """Identity that saves its value and hands (value, gradient) to ``store`` in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, store: Store) -> Tensor:
        out = x.view_as(x)
        ctx.save_for_backward(x)
        ctx.store = store
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.store(x, grads[0])
        return grads[0], None


class _InPlaceTap(RuleFunction):
    """The same, in place: whoever holds the tensor object sees the tapped one, so every use of it counts.

    A residual stream between attention and MLP is read twice (by the next norm and by the residual sum), and a module
    hook sees only one of the two reads.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, store: Store) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.store = store
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.store(x, grads[0])
        return grads[0], None


class ConstantTap(RuleFunction):
    """Identity on x = (something) + constant that hands the gradient to ``store``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, store: Callable[[Tensor], None]) -> Tensor:
        ctx.store = store
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.store(grads[0])
        return grads[0], None


def tap(x: Tensor, store: Store) -> Tensor:
    out: Tensor = _Tap.call(x, store)
    return out


def tap_in_place(x: Tensor, store: Store) -> None:
    _InPlaceTap.call(x, store)


def tap_constant(x: Tensor, store: Callable[[Tensor], None]) -> Tensor:
    out: Tensor = ConstantTap.call(x, store)
    return out
