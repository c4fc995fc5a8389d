"""Element-wise functions that a forward computes inline pass their slope; scales of norms and decays are constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_hooks.ops import ACTIVATIONS, Activation, secant, slope_activation
from lrp_hooks.rules.inline.carrying import absorb, carries, dual, moving, still

if TYPE_CHECKING:
    from lrp_hooks.rules.inline.claim import Scope


def as_constant(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """1/rms, a decay, a maximum: a number that does not move."""
    return func(*(still(a) for a in args), **kwargs) if any(map(carries, args)) else func(*args, **kwargs)


def quotient(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """a / b with a constant b."""
    reverse = "rtruediv" in func.__name__ or "rdiv" in func.__name__
    a, b, *rest = args
    return func(still(a), b, *rest, **kwargs) if reverse else func(a, still(b), *rest, **kwargs)


def elementwise(name: str | None, scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """(f(x) - f(0)) / x; f(0) absorbs. Closed forms where `ACTIVATIONS` has one."""
    x, *rest = args
    kwargs = {k: v for k, v in kwargs.items() if k != "inplace"}
    if not carries(x):
        return func(*args, **kwargs)
    if name == "gelu" and kwargs.get("approximate", rest[0] if rest else "none") == "tanh":
        name = "gelu-tanh"
    known = ACTIVATIONS.get(name or "")
    activation = known or secant(func.__name__, lambda t: func(t, *rest, **kwargs))
    value = func(still(x), *rest, **kwargs)
    if not torch.is_grad_enabled():
        return dual(value, moving(x, activation.slope(still(x))))
    out = slope_activation(x, value, activation)
    return absorb(scope, out, activation.at_zero) if activation.at_zero else out


def extreme(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """min(x, c) and max(x, c) are clamps; a maximum over a dimension is a constant."""
    x, bound = args[0], args[1] if len(args) > 1 else kwargs.get("other")
    if not isinstance(bound, Tensor):
        return as_constant(scope, func, args, kwargs)
    if not carries(x) or carries(bound) or bound.numel() != 1:
        return func(*args, **kwargs)
    limit = float(bound)
    name = "clamp_max" if func.__name__ in ("min", "minimum") else "clamp_min"
    return elementwise(None, scope, getattr(torch, name), (x, limit), {})


def power(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """x^n with a constant n > 0 has the slope x^(n-1); anything else is a scale and constant."""
    x, exponent = args[0], 2 if func.__name__ == "square" else args[1] if len(args) > 1 else kwargs.get("exponent")
    if not carries(x) or not isinstance(exponent, (int, float)) or exponent < 1:
        return as_constant(scope, func, args, kwargs)
    activation = Activation(f"power {exponent}", lambda t: t.pow(exponent), lambda t: t.pow(exponent - 1))
    value = func(still(x), *args[1:], **kwargs)
    if not torch.is_grad_enabled():
        return dual(value, moving(x, activation.slope(still(x))))
    return slope_activation(x, value, activation)
