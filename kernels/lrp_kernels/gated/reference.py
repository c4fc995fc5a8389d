"""Element-wise activations f with their LRP slope (f(x) - f(0)) / x, and the gated product act(gate) * up.

AttnLRP (arXiv 2402.05602), equation 9 and section 3.3: the slope replaces the derivative, and a product gives half of
its relevance to each factor. Slopes are closed forms: dividing by x, or by x + eps, is undefined where it matters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ElementWise = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Activation:
    """One element-wise function: its values, its LRP slope and its value at 0 (which absorbs relevance).

    ``slope`` takes and returns float32 (or float64); ``value`` takes any floating dtype.
    """

    name: str
    value: ElementWise
    slope: ElementWise
    at_zero: float = 0.0


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    return 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def tanh_slope(x: Tensor) -> Tensor:
    """tanh(x) / x, with its series 1 - x^2/3 where the quotient loses its digits."""
    small = x.abs() < 1e-3
    return torch.where(small, 1.0 - x * x / 3.0, torch.tanh(x) / torch.where(small, torch.ones_like(x), x))


ACTIVATIONS: dict[str, Activation] = {
    a.name: a
    for a in (
        Activation("silu", torch.nn.functional.silu, torch.sigmoid),
        Activation("gelu", torch.nn.functional.gelu, torch.special.ndtr),
        Activation("gelu-tanh", lambda x: torch.nn.functional.gelu(x, approximate="tanh"), _gelu_tanh_slope),
        Activation("quick-gelu", lambda x: x * torch.sigmoid(1.702 * x), lambda x: torch.sigmoid(1.702 * x)),
        Activation("relu", torch.relu, lambda x: (x > 0).to(x.dtype)),
        Activation("relu2", lambda x: torch.relu(x).square(), torch.relu),
        Activation("mish", torch.nn.functional.mish, lambda x: torch.tanh(torch.nn.functional.softplus(x))),
        Activation("tanh", torch.tanh, tanh_slope),
        Activation("sigmoid", torch.sigmoid, lambda x: 0.25 * tanh_slope(0.5 * x), 0.5),
        Activation("identity", lambda x: x, torch.ones_like),
    )
}


def secant(name: str, value: ElementWise) -> Activation:
    """The slope of an activation that is not in the table, from its values: (f(x) - f(0)) / x, evaluated in float64.

    Within 1e-4 of 0 the quotient is taken at +-1e-4 (float64 keeps about eleven digits there), so nothing is
    divided by a number near 0. Meant for functions that are continuous and piecewise smooth at 0.
    """
    at_zero = float(value(torch.zeros(1, dtype=torch.float64)))

    def slope(x: Tensor) -> Tensor:
        x64 = x.double()
        away = torch.where(x64 < 0, x64.clamp(max=-1e-4), x64.clamp(min=1e-4))
        return ((value(away) - at_zero) / away).to(x.dtype)

    return Activation(name, value, slope, at_zero)


def gated_backward(
    grad: Tensor, gate: Tensor, up: Tensor, activation: Activation, gate_factor: float, up_factor: float
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of act(gate) * up under the slope and product rules, and act(gate) in the compute dtype.

    gate gets gate_factor * grad * up * slope(gate), up gets up_factor * grad * act(gate).
    """
    compute = torch.float64 if gate.dtype == torch.float64 else torch.float32
    gate_c, grad_c = gate.to(compute), grad.to(compute)
    slope = activation.slope(gate_c)
    value = slope * gate_c
    if activation.at_zero:
        value += activation.at_zero
    to_up = (grad_c * value).mul_(up_factor).to(grad.dtype) if up_factor else None
    to_gate = slope.mul_(grad_c).mul_(up.to(compute)).mul_(gate_factor).to(grad.dtype) if gate_factor else None
    return to_gate, to_up, value
