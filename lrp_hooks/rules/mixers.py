"""Mixers without softmax (state spaces, delta nets, RWKV): how tokens mix is a constant, relevance goes through values.

Source: MambaLRP (arXiv 2406.07592) for A, B, C and the step width; the same for query, key, decay and beta of the delta
rule. Which argument is what is in `lrp_hooks.rules.mixing_kernels`; everything around the kernel is claimed operation
by operation.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from lrp_hooks.patching import Handle, unwrapped_forward
from lrp_hooks.rules.inline.claim import Shares, claim_operations
from lrp_hooks.rules.mixing_kernels import MIXING_KERNELS, MixingKernel
from lrp_hooks.sites import Site


def kernels_of(module: nn.Module) -> list[MixingKernel]:
    """The mixing kernels that the module's forward calls."""
    code = getattr(unwrapped_forward(module), "__code__", None)
    return [] if code is None else [MIXING_KERNELS[name] for name in code.co_names if name in MIXING_KERNELS]


def through_values(*, gate: float, softmax: bool = True) -> Callable[[Site], Handle]:
    """Registrar: the module's forward with kernels whose mixing arguments are constants; products share ``gate``."""

    def register(site: Site) -> Handle:
        return claim_operations(site, Shares(gate, softmax), forward=_with_still_mixing(site.module))

    return register


def _with_still_mixing(module: nn.Module) -> Callable[..., Any]:
    """The class's forward over globals in which the kernels are wrapped: nothing outside this instance changes."""
    plain = unwrapped_forward(module)
    wrapped = {k.name: _still(plain.__globals__[k.name], k.carrying) for k in kernels_of(module)}
    function = FunctionType(
        plain.__code__, {**plain.__globals__, **wrapped}, plain.__name__, plain.__defaults__, plain.__closure__
    )
    function.__kwdefaults__ = plain.__kwdefaults__
    return MethodType(function, module)


def _still(kernel: Callable[..., Any], carrying: frozenset[str]) -> Callable[..., Any]:
    names = list(inspect.signature(kernel).parameters)

    def call(*args: Any, **kwargs: Any) -> Any:
        given = [a if name in carrying else _constant(a) for name, a in zip(names, args, strict=False)]
        return kernel(*given, **{name: a if name in carrying else _constant(a) for name, a in kwargs.items()})

    return call


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value
