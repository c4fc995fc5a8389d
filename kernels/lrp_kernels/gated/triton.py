"""The gradient of act(gate) * up under the slope and product rules, in one pass; act(gate) is made again, not saved."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrp_kernels.launch import Launch, UnsupportedInput, blocks, check_dtype, rows_dense, run
from lrp_kernels.tile import tanh_slope

SLOPES = {"silu": 0, "gelu": 1, "gelu-tanh": 2, "quick-gelu": 3, "relu": 4, "relu2": 5, "identity": 6, "sigmoid": 7}
SLOPES |= {"tanh": 8, "mish": 9}
"""Number of each activation in the kernel."""


@triton.jit
def slope_of(x, SLOPE: tl.constexpr):
    """(f(x) - f(0)) / x in closed form: `reference.ACTIVATIONS`."""
    if SLOPE == 0:
        return tl.sigmoid(x)
    elif SLOPE == 1:
        return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    elif SLOPE == 2:
        u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        return 0.5 * (1.0 + u * tanh_slope(u))
    elif SLOPE == 3:
        return tl.sigmoid(1.702 * x)
    elif SLOPE == 4:
        return tl.where(x > 0, 1.0, 0.0)
    elif SLOPE == 5:
        return tl.maximum(x, 0.0)
    elif SLOPE == 6:
        return tl.full(x.shape, 1.0, tl.float32)
    elif SLOPE == 7:
        return 0.25 * tanh_slope(0.5 * x)
    elif SLOPE == 8:
        return tanh_slope(x)
    else:
        softplus = tl.maximum(x, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(x)))
        return softplus * tanh_slope(softplus)


@triton.jit
def gated_backward_kernel(
    GRAD, GATE, UP, TO_GATE, TO_UP, PRODUCT, width, grad_row, gate_row, up_row, gate_factor, up_factor, at_zero,
    SLOPE: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    per_row = tl.cdiv(width, BLOCK_D)
    row = (tl.program_id(0) // per_row).to(tl.int64)
    d = tl.program_id(0) % per_row * BLOCK_D + tl.arange(0, BLOCK_D)
    inside = d < width
    grad = tl.load(GRAD + row * grad_row + d, mask=inside, other=0.0).to(tl.float32)
    gate = tl.load(GATE + row * gate_row + d, mask=inside, other=0.0).to(tl.float32)
    slope = slope_of(gate, SLOPE)
    value = slope * gate + at_zero
    if TO_GATE is not None or PRODUCT is not None:
        up = tl.load(UP + row * up_row + d, mask=inside, other=0.0).to(tl.float32)
        if TO_GATE is not None:
            to_gate = slope * grad * up * gate_factor
            tl.store(TO_GATE + row * width + d, to_gate.to(TO_GATE.dtype.element_ty), mask=inside)
        if PRODUCT is not None:
            tl.store(PRODUCT + row * width + d, value * up, mask=inside)
    to_up = grad * value * up_factor
    tl.store(TO_UP + row * width + d, to_up.to(TO_UP.dtype.element_ty), mask=inside)


def gated_backward(
    grad: Tensor,
    gate: Tensor,
    up: Tensor,
    activation: str,
    at_zero: float,
    gate_factor: float,
    up_factor: float,
    *,
    with_product: bool = False,
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients of gate and up [..., I], None for the gate where its factor is 0; on request the product, float32."""
    check_dtype("gate, up and the gradient of their product", grad, gate, up)
    if activation not in SLOPES:
        raise UnsupportedInput(f"the kernel knows no activation {activation!r}; it knows {', '.join(SLOPES)}")
    width = gate.shape[-1]
    rows = [rows_dense(x.reshape(-1, width)) for x in (grad, gate, up)]  # halves of one tensor stay where they are
    to_up = up.new_empty(up.shape)
    to_gate = gate.new_empty(gate.shape) if gate_factor else None
    product = up.new_empty(up.shape, dtype=torch.float32) if with_product else None
    launch = Launch({"BLOCK_D": 1024})
    run(
        gated_backward_kernel,
        (blocks(width, 1024) * len(rows[0]),),
        launch,
        GRAD=rows[0], GATE=rows[1], UP=rows[2], TO_GATE=to_gate, TO_UP=to_up, PRODUCT=product, width=width,
        grad_row=rows[0].stride(0), gate_row=rows[1].stride(0), up_row=rows[2].stride(0),
        gate_factor=float(gate_factor), up_factor=float(up_factor), at_zero=float(at_zero), SLOPE=SLOPES[activation],
    )  # fmt: skip
    return to_gate, to_up, product
