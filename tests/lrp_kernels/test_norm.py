"""Norms: values of torch's own layers, gradients of the affine map with a frozen scale."""

from __future__ import annotations

import pytest
import torch
from lrp_kernels.norm import NormSpec, detached_norm, frozen_norm, norm_forward, norm_scale
from torch import Tensor

SPECS = {
    "rms": NormSpec("rms", False, 1e-6),
    "rms, 1 + w": NormSpec("rms", False, 1e-6, 1.0, False),
    "rms-native": NormSpec("rms-native", False, 1e-6),
    "layer-norm": NormSpec("layer-norm", True, 1e-5),
    "layer-norm, 1 + w": NormSpec("layer-norm", True, 1e-5, 1.0),
    "layer-norm-float32": NormSpec("layer-norm-float32", True, 1e-5),
    "layer-norm-manual": NormSpec("layer-norm-manual", True, 1e-5),
}


def data(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(3, 5, 13, generator=generator).to(dtype) for _ in range(2))
    weight, bias = (torch.randn(13, generator=generator).to(dtype) for _ in range(2))
    return x, grad, weight, bias


def affine(x: Tensor, weight: Tensor, bias: Tensor | None, spec: NormSpec) -> Tensor:
    """The norm in float64, from its definition."""
    centred = x - x.mean(-1, keepdim=True) if spec.centred else x
    hidden = centred / (centred.pow(2).mean(-1, keepdim=True) + spec.eps).sqrt()
    return hidden * (weight + spec.weight_offset) + (0 if bias is None else bias)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SPECS)
def test_values_and_gradients(name: str, dtype: torch.dtype) -> None:
    spec, (x, grad, weight, bias) = SPECS[name], data(dtype)
    bias = bias if spec.centred else None
    wide = [None if t is None else t.double() for t in (x, grad, weight, bias)]
    near = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
    if dtype == torch.float64:
        near = {"rtol": 1e-5, "atol": 1e-5}  # most formulas cast to float32, as the models do
    leaf = x.clone().requires_grad_()
    out = detached_norm(leaf, weight, bias, spec)
    assert torch.equal(out, norm_forward(x, weight, bias, spec)[0])
    assert torch.allclose(out.double(), affine(wide[0], wide[2], wide[3], spec), **near)
    out.backward(grad)
    scale = norm_scale(wide[0], spec)
    given = wide[0].clone().requires_grad_()
    (expected,) = torch.autograd.grad(frozen_norm(given, wide[2], wide[3], scale, spec), given, wide[1])
    assert torch.allclose(leaf.grad.double(), expected, **near)


def test_the_scale_is_constant_in_the_gradient_only() -> None:
    x = torch.tensor([[3.0, 4.0]], requires_grad=True)
    detached_norm(x, None, None, NormSpec("rms", False, 0.0)).sum().backward()
    assert torch.allclose(x.grad, torch.full((1, 2), (12.5) ** -0.5))


def test_values_taken_from_the_module_keep_the_rule() -> None:
    x, grad, weight, _ = data(torch.float32)
    spec = NormSpec("module", False, 1e-6)
    value = torch.full_like(x, 7.0)
    leaf = x.clone().requires_grad_()
    out = detached_norm(leaf, weight, None, spec, value)
    assert torch.equal(out, value)
    out.backward(grad)
    assert torch.allclose(leaf.grad, grad * weight * norm_scale(x, spec), rtol=1e-5)


def test_tiny_and_zero_rows_stay_finite() -> None:
    for spec in SPECS.values():
        x = torch.zeros(2, 4, 13, dtype=torch.float16).requires_grad_()
        detached_norm(x, torch.ones(13, dtype=torch.float16), None, spec).sum().backward()
        assert torch.isfinite(x.grad).all()
