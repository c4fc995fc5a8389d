"""Sums with constants that a forward computes inline (the constant absorbs), and functional norms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_hooks.ops import NormSpec, detached_norm, frozen_norm, norm_scale
from lrp_hooks.rules.inline.carrying import absorb, carries, still
from lrp_hooks.rules.inline.products import share

if TYPE_CHECKING:
    from lrp_hooks.rules.inline.claim import Scope


def is_in_place(func: Any) -> bool:
    name: str = func.__name__
    return name.endswith("_") and not name.endswith("__")


def is_constant(scope: Scope, x: Any) -> bool:
    if isinstance(x, Tensor):
        return not carries(x) and id(x) not in scope.constants and x.is_floating_point()
    return isinstance(x, (int, float)) and not isinstance(x, bool) and x != 0 and math.isfinite(x)


def addition(sign: int, scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """x + c, x - c, c - x."""
    out = func(*args, **kwargs)
    a: Any = args[0]
    b: Any = args[1] if len(args) > 1 else kwargs.get("other")
    if kwargs.get("alpha", 1) != 1:
        return out
    for base, constant, which in ((a, b, 1), (b, a, 0)):
        if carries(base) and is_constant(scope, constant):
            factor = sign if (which == 1) != ("rsub" in func.__name__) else 1
            tapped = absorb(scope, out, constant if factor == 1 else -constant, in_place=is_in_place(func))
            if isinstance(constant, (int, float)) and factor == 1 and "sub" not in func.__name__:
                tapped._lrp_shift = (base, float(constant))  # type: ignore[attr-defined]
            return tapped
    return out


def masked_fill(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = func(*args, **kwargs)
    x, mask, value = (*args, *kwargs.values())[:3]
    if not carries(x) or isinstance(value, Tensor) or not is_constant(scope, value):
        return out
    filled = torch.zeros_like(still(out)).masked_fill(mask, value)
    return absorb(scope, out, filled, in_place=is_in_place(func))


def where(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = func(*args, **kwargs)
    if len(args) < 3 or not carries(out):
        return out
    condition, a, b = args
    if carries(a) and is_constant(scope, b):
        return absorb(scope, out, torch.where(condition, torch.zeros((), dtype=out.dtype), b))
    if carries(b) and is_constant(scope, a):
        return absorb(scope, out, torch.where(condition, a, torch.zeros((), dtype=out.dtype)))
    return out


def concatenation(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = func(*args, **kwargs)
    parts: Any = args[0] if args else kwargs.get("tensors")
    if not carries(out) or not any(is_constant(scope, p) for p in parts):
        return out
    still_parts = [torch.zeros_like(still(p)) if carries(p) else p for p in parts]
    return absorb(scope, out, func(still_parts, *args[1:], **{k: v for k, v in kwargs.items() if k != "tensors"}))


def linear(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """F.linear on raw parameters, or a product of two carrying operands."""
    x, weight, bias = (*args, *(kwargs.get(n) for n in ("weight", "bias")[len(args) - 1 :]))[:3]
    if carries(x) and carries(weight):
        out = share(lambda a, b: func(a, b, bias), x, weight, (0.5, 0.5))
    else:
        out = func(*args, **kwargs)
    return absorb(scope, out, bias) if bias is not None and is_constant(scope, bias) and carries(out) else out


def convolution(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = func(*args, **kwargs)
    bias = kwargs.get("bias", args[2] if len(args) > 2 else None)
    if bias is None or not is_constant(scope, bias) or not carries(out):
        return out
    return absorb(scope, out, bias.view(-1, *([1] * (out.dim() - 2))))


def normalize(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x = args[0]
    if not carries(x):
        return func(*args, **kwargs)
    names = dict(zip(("p", "dim", "eps"), args[1:], strict=False)) | kwargs
    length = still(x).norm(names.get("p", 2.0), names.get("dim", 1), keepdim=True).clamp_min(names.get("eps", 1e-12))
    return x / length.expand_as(x)


def functional_norm(centred: bool, scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """F.layer_norm and F.rms_norm over the last dimension with a constant scale."""
    names = dict(
        zip(("shape", "weight", "bias", "eps") if centred else ("shape", "weight", "eps"), args[1:], strict=False)
    )
    names |= kwargs
    x, weight, bias = args[0], names.get("weight"), names.get("bias")
    eps = names.get("eps")
    eps = (1e-5 if centred else torch.finfo(x.dtype).eps) if eps is None else eps
    if not carries(x):
        return func(*args, **kwargs)
    spec = NormSpec("module", centred, eps)
    if not torch.is_grad_enabled():
        return frozen_norm(x, weight, bias, norm_scale(still(x), spec), spec).to(x.dtype)
    out = detached_norm(x, weight, bias, spec, func(still(x), *args[1:], **kwargs))
    return out if bias is None or id(bias) in scope.constants else absorb(scope, out, bias)
