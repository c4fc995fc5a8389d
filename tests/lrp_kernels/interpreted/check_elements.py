"""Norm, gated product and relevance kernels in triton's interpreter; run by `test_interpreted.py`."""

from __future__ import annotations

import pytest
import torch
from dense import close, normal
from lrp_kernels.gated import ACTIVATIONS, gated_product
from lrp_kernels.gated import triton as gated
from lrp_kernels.launch import MAX_NORM, UnsupportedInput
from lrp_kernels.norm import NormSpec, detached_norm
from lrp_kernels.norm import triton as norm
from lrp_kernels.relevance import relevance_sum
from torch import Tensor

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 37), (2, 3, 4, 20), (2, 2, 2, 2, 6), (1, 1200), (0, 8)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_relevance(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x, grad = normal(0, *shape).to(dtype), normal(1, *shape).to(dtype)
    exact = (x.double() * grad.double()).sum(-1)
    made = relevance_sum(x, grad, backend="triton")
    assert made.dtype == torch.float32
    if made.numel():
        close(made, (x.float() * grad.float()).sum(-1), exact)
        assert (made - exact).abs().max() <= 1e-5 * exact.abs().max().clamp(min=1)  # float32 sums, whatever the dtype


def test_relevance_of_strided_tensors() -> None:
    x, grad = normal(0, 2, 5, 3, 9).float(), normal(1, 2, 3, 5, 9).float()
    exact = (x.transpose(1, 2).double() * grad.double()).sum(-1)
    close(relevance_sum(x.transpose(1, 2), grad, backend="triton"), exact.float(), exact)
    wide = grad[:, :1, :, :].expand(2, 3, 5, 9)
    close(relevance_sum(x.transpose(1, 2), wide, backend="triton"), exact.float(),
          (x.transpose(1, 2).double() * wide.double()).sum(-1))  # fmt: skip
    apart = normal(3, 4, 9, 2).float().transpose(1, 2)
    close(relevance_sum(apart, apart, backend="triton"), apart.square().sum(-1), apart.double().square().sum(-1))


def test_a_bias_is_the_same_at_every_token() -> None:
    bias, grad = normal(5, 9).float(), normal(6, 2, 3, 9).float()
    exact = (bias.double() * grad.double()).sum(-1)
    close(relevance_sum(bias, grad, backend="triton"), exact.float(), exact)


def test_relevance_of_different_shapes_is_refused() -> None:
    with pytest.raises(UnsupportedInput, match=r"differ in shape: \[2, 3\] and \[3, 2\]"):
        relevance_sum(torch.zeros(2, 3), torch.zeros(3, 2), backend="triton")


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norms(dtype: torch.dtype, centred: bool, offset: float) -> None:
    spec = NormSpec("module", centred, 1e-6, offset)
    for shape in ((3, 5, 13), (2, 300), (0, 13)):
        x, grad, weight = normal(0, *shape).to(dtype), normal(1, *shape).to(dtype), normal(2, shape[-1]).to(dtype)
        leaf = x.clone().requires_grad_()
        out = detached_norm(leaf, weight, None, spec, torch.full_like(x, 7.0), backend="triton")
        assert torch.equal(out, torch.full_like(x, 7.0))
        out.backward(grad)
        if not x.numel():
            assert leaf.grad is not None
            continue

        def expected(dtype: torch.dtype, x: Tensor = x, grad: Tensor = grad, weight: Tensor = weight) -> Tensor:
            x, grad, weight = (t.to(dtype) for t in (x, grad, weight))
            centre = x - x.mean(-1, keepdim=True) if centred else x
            made = grad * (weight + offset) / (centre.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()
            return made - made.mean(-1, keepdim=True) if centred else made

        assert leaf.grad is not None
        close(leaf.grad, expected(dtype), expected(torch.float64))


def test_norms_without_weight_and_of_zeros() -> None:
    x = torch.zeros(2, 13, dtype=torch.float16)
    scale = norm.norm_scale(x, NormSpec("rms", False, 1e-6))
    assert torch.allclose(scale, torch.full((2, 1), 1e3))
    made = norm.norm_backward(torch.ones(2, 13), None, scale, NormSpec("rms", False, 1e-6))
    assert torch.equal(made, scale.expand(2, 13))


def test_norms_that_the_kernel_does_not_take() -> None:
    spec = NormSpec("rms", False, 1e-6)
    with pytest.raises(UnsupportedInput, match=f"a norm over {MAX_NORM + 1} numbers"):
        norm.norm_scale(torch.zeros(1, MAX_NORM + 1), spec)
    with pytest.raises(UnsupportedInput, match=r"the weight of a norm has the shape \[1, 4\]"):
        norm.norm_backward(torch.zeros(2, 4), torch.zeros(1, 4), torch.zeros(2, 1), spec)


def test_every_activation_has_its_slope_in_the_kernel() -> None:
    assert set(gated.SLOPES) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gated_products(dtype: torch.dtype, name: str) -> None:
    f, seen = ACTIVATIONS[name], []
    both = 3 * normal(0, 5, 2 * 37).to(dtype)
    gate, up = both.chunk(2, -1)  # views: rows apart
    gate[0], gate[1, 0] = 0.0, 1e-3
    grad = normal(1, 5, 37).to(dtype)

    def expected(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        g, u, d = gate.to(dtype), up.to(dtype), grad.to(dtype)
        slope, value = f.slope(g), f.value(g)
        return 0.5 * d * u * slope, 0.5 * d * value, value * u

    leaf = both.clone().requires_grad_()
    g, u = leaf.chunk(2, -1)
    out = gated_product(g, u, f.value, f, (0.5, 0.5), lambda v, d: seen.append(v), backend="triton")
    assert torch.equal(out, f.value(g) * u)
    out.backward(grad)
    assert leaf.grad is not None
    made = (*leaf.grad.chunk(2, -1), seen[0])
    for ours, low, exact in zip(made, expected(dtype), expected(torch.float64), strict=True):
        close(ours, low, exact)


def test_a_detached_gate_gets_nothing() -> None:
    f = ACTIVATIONS["silu"]
    gate, up = (normal(i, 3, 5).float().requires_grad_() for i in (0, 1))
    gated_product(gate, up, f.value, f, (0.0, 1.0), backend="triton").sum().backward()
    assert gate.grad is None
    assert up.grad is not None
    assert torch.allclose(up.grad, f.value(gate.detach()), rtol=1e-6)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(UnsupportedInput, match="the kernel knows no activation 'odd'; it knows silu, gelu"):
        gated.gated_backward(*[torch.zeros(2, 3)] * 3, "odd", 0.0, 0.5, 0.5)
