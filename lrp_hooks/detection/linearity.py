"""Linear maps that the autograd graph cannot be read as: quantised weights behind custom functions.

A class name proves nothing (a subclass of ``nn.Linear`` may do anything), so the module is asked: is it an affine map
of its input, and is its gradient that map's? Kernels that round their activations to 8 bits (LLM.int8) are linear up
to that rounding; the error stays on the site, where ``report()`` shows it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.patching.tensor_parallel import is_distributed

ROUNDING = 0.05
"""Largest deviation from linearity that rounding explains: 8-bit activations deviate by 1 % (measured), a smooth
non-linearity by far more at one of the `SCALES`."""
SCALES = (2.0**-6, 2.0**6)
ROWS = 6
PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def is_opaque_linear(module: nn.Module) -> bool:
    """Whether a module without children says it is linear (``in_features``) and keeps no plain ``weight``."""
    if not isinstance(getattr(module, "in_features", None), int) or next(module.children(), None) is not None:
        return False
    weight: Any = getattr(module, "weight", None)
    if is_distributed(weight):  # sharded, not encoded
        return False
    return not (type(weight) in (Tensor, nn.Parameter) and weight.dtype in PLAIN)


def linear_error(module: nn.Module, dtype: torch.dtype, device: torch.device) -> float | None:
    """Largest relative deviation of the module from an affine map whose gradient is its adjoint.

    Checks additivity, homogeneity over four decades, <L x, L x> = <L* L x, x> on random x, and single entries of L
    (forward) against those of L* (backward).

    Returns:
        None when the module takes no ``[rows, in_features]`` tensor of this dtype, or has no gradient.
    """
    width = int(module.in_features)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(ROWS, width, generator=generator).to(device, dtype) for _ in range(2))
    try:
        with torch.no_grad():
            zero = module(torch.zeros_like(x))
            map_of_x, map_of_y = module(x) - zero, module(y) - zero
            errors = [_relative(module(x - 2 * y) - zero, map_of_x - 2 * map_of_y)]
            errors += [_relative((module(x * scale) - zero) / scale, map_of_x) for scale in SCALES]
        return max(*errors, _adjoint_error(module, x, map_of_x), _entries_error(module, zero, width))
    except (RuntimeError, ValueError, TypeError):  # a probe asks; any failure means no
        return None


def _gradient(module: nn.Module, at: Tensor, g: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = at.detach().clone().requires_grad_()
        (grad,) = torch.autograd.grad(module(leaf), leaf, g)
    return grad


def _adjoint_error(module: nn.Module, x: Tensor, map_of_x: Tensor) -> float:
    left = map_of_x.double().square().sum(-1)
    right = (_gradient(module, x, map_of_x).double() * x.double()).sum(-1)
    return _relative(right, left)


def _entries_error(module: nn.Module, zero: Tensor, width: int) -> float:
    """Entries of the matrix, read from outputs of unit vectors and from gradients of single outputs."""
    height, size = zero.shape[-1], width**0.5  # as long as a random input: a bias must not drown the entries
    rows, columns = (torch.arange(ROWS) * (n // ROWS or 1) % n for n in (height, width))
    units, ones = zero.new_zeros(ROWS, width), torch.zeros_like(zero)
    units[torch.arange(ROWS), columns], ones[torch.arange(ROWS), rows] = size, 1.0
    with torch.no_grad():
        forward = (module(units) - zero)[:, rows].T / size  # [outputs, inputs]
    return _relative(_gradient(module, units, ones)[:, columns], forward)


def _relative(a: Tensor, b: Tensor) -> float:
    size = b.double().abs().max().clamp_min(torch.finfo(torch.float64).tiny)
    return float((a.double() - b.double()).abs().max() / size)
