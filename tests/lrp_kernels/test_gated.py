"""Activations and products: slopes against their definition, gradients against plain arithmetic, zeros in half."""

from __future__ import annotations

import pytest
import torch
from lrp_kernels.gated import ACTIVATIONS, gated_product, half_product, secant, slope_activation, tanh_slope
from torch import Tensor

GRID = torch.cat((torch.linspace(-9, 9, 400, dtype=torch.float64), torch.tensor([1e-6, -1e-6, 3e-4, -3e-4])))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_the_secant_from_zero(name: str) -> None:
    a = ACTIVATIONS[name]
    zero = a.value(torch.zeros(1, dtype=torch.float64)).item()
    assert zero == pytest.approx(a.at_zero, abs=1e-15)
    x = GRID[GRID.abs() > 1e-3]
    assert torch.allclose(a.slope(x), (a.value(x) - zero) / x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n != "relu"])
def test_slopes_tend_to_the_derivative_at_zero(name: str) -> None:
    a = ACTIVATIONS[name]
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (derivative,) = torch.autograd.grad(a.value(x), x)
    near = torch.tensor([0.0, 1e-7, -1e-7], dtype=torch.float64)
    assert torch.allclose(a.slope(near), derivative.expand(3), atol=1e-6)


def test_the_tanh_slope_is_smooth_across_its_series() -> None:
    x = torch.linspace(-2e-3, 2e-3, 4001, dtype=torch.float64)
    exact = torch.where(x == 0, 1.0, torch.tanh(x) / torch.where(x == 0, 1.0, x))
    assert torch.allclose(tanh_slope(x), exact, atol=2e-13)


def test_an_unknown_activation_gets_its_secant_numerically() -> None:
    odd = secant("odd", lambda x: x * torch.exp(-x * x) + 0.25)
    assert odd.at_zero == 0.25
    assert torch.allclose(odd.slope(GRID), torch.exp(-GRID * GRID), atol=1e-7)
    assert torch.isfinite(odd.slope(torch.zeros(3))).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["silu", "gelu-tanh", "relu2", "sigmoid"])
def test_gradients_of_activation_and_product(name: str, dtype: torch.dtype) -> None:
    a, generator = ACTIVATIONS[name], torch.Generator().manual_seed(0)
    gate, up, grad = (torch.randn(5, 7, generator=generator).to(dtype) for _ in range(3))
    gate[0] = 0.0  # exactly zero pre-activations
    wide = [x.double() for x in (gate, up, grad)]
    slope, value = a.slope(wide[0]), a.value(wide[0])
    seen: list[Tensor] = []
    for factors in ((0.5, 0.5), (0.0, 1.0)):
        g, u = gate.clone().requires_grad_(), up.clone().requires_grad_()
        out = gated_product(g, u, a.value, a, factors, lambda v, d: seen.append(v * d.to(v.dtype)))
        assert torch.equal(out, a.value(gate) * up)
        out.backward(grad)
        # a few units in the last place of the dtype: one rounding of the result, float32 arithmetic before
        near = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 1e-5 if dtype != torch.float64 else 1e-12}
        assert torch.allclose(u.grad.double(), factors[1] * wide[2] * value, **near)
        if factors[0]:
            assert torch.allclose(g.grad.double(), factors[0] * wide[2] * wide[1] * slope, **near)
        else:
            assert g.grad is None
        assert torch.allclose(seen[-1].double(), value * wide[1] * wide[2], **near)
    x = gate.clone().requires_grad_()
    slope_activation(x, a.value(gate), a).backward(grad)
    assert torch.allclose(x.grad.double(), slope * wide[2], rtol=4 * torch.finfo(dtype).eps, atol=1e-5)


def test_half_products_share_by_their_factors() -> None:
    a, b = torch.tensor([2.0], requires_grad=True), torch.tensor([3.0], requires_grad=True)
    half_product(a, b, (0.25, 0.75)).backward(torch.tensor([4.0]))
    assert (a.grad.item(), b.grad.item()) == (3.0, 6.0)
