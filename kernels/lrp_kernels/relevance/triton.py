"""The relevance reduction as one pass over both tensors, whatever their strides."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrp_kernels.launch import Launch, UnsupportedInput, blocks, check_dtype, power_of_two, rows_dense, run

MAX_LEADING = 3
"""Leading dimensions whose strides the kernel takes; more are copied together."""


@triton.jit
def relevance_kernel(
    X, GRAD, OUT, n_rows, width, second, third,
    x_0, x_1, x_2, grad_0, grad_1, grad_2,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows are numbered through the leading dimensions [first, second, third]."""
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    inside = row < n_rows
    i, j, k = row // (second * third), (row // third) % second, row % third
    x_at = X + (i * x_0 + j * x_1 + k * x_2)[:, None]
    grad_at = GRAD + (i * grad_0 + j * grad_1 + k * grad_2)[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for start in range(0, width, BLOCK_D):
        d = start + tl.arange(0, BLOCK_D)
        here = inside[:, None] & (d < width)[None, :]
        x = tl.load(x_at + d[None, :], mask=here, other=0.0).to(tl.float32)
        total += x * tl.load(grad_at + d[None, :], mask=here, other=0.0).to(tl.float32)
    tl.store(OUT + row, tl.sum(total, 1), mask=inside)


def relevance_sum(x: Tensor, grad: Tensor) -> Tensor:
    """sum_d x[..., d] * grad[..., d] in float32, shape [...]; see `reference.py`."""
    check_dtype("a tensor of relevance", x)
    check_dtype("its gradient", grad)
    try:
        x, grad = torch.broadcast_tensors(x, grad)  # a bias is the same at every token
    except RuntimeError as error:
        shapes = f"{list(x.shape)} and {list(grad.shape)}"
        raise UnsupportedInput(f"a tensor and its gradient differ in shape: {shapes}") from error
    leading = x.shape[:-1]
    out = x.new_empty(leading, dtype=torch.float32)
    x, grad = (_three(rows_dense(t)) for t in (x, grad))
    rows, width = math.prod(leading), x.shape[-1]
    launch = relevance_launch(width)
    run(
        relevance_kernel,
        (blocks(rows, launch.blocks["BLOCK_M"]),),
        launch,
        X=x, GRAD=grad, OUT=out, n_rows=rows, width=width, second=x.shape[1], third=x.shape[2],
        x_0=x.stride(0), x_1=x.stride(1), x_2=x.stride(2),
        grad_0=grad.stride(0), grad_1=grad.stride(1), grad_2=grad.stride(2),
    )  # fmt: skip
    return out


def relevance_launch(width: int) -> Launch:
    """About 4096 numbers a step."""
    columns = min(1024, power_of_two(width))
    return Launch({"BLOCK_M": max(1, 4096 // columns), "BLOCK_D": columns}, warps=4, stages=2)


def _three(x: Tensor) -> Tensor:
    """[first, second, third, D], a view wherever the strides allow it."""
    if x.dim() > MAX_LEADING + 1:
        return x.reshape(-1, *x.shape[-MAX_LEADING:])
    return x[(None,) * (MAX_LEADING + 1 - x.dim())]
