"""The norm's constant scale and its gradient, each in one pass over [rows, width].

The values of a norm are not made here: they are the module's own, bit for bit (`reference.norm_forward`).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrp_kernels.launch import MAX_NORM, Launch, UnsupportedInput, blocks, check_dtype, power_of_two, run
from lrp_kernels.norm.spec import NormSpec


@triton.jit
def norm_scale_kernel(
    X, SCALE, n_rows, width, eps, CENTRED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    inside = (row < n_rows)[:, None] & (d < width)[None, :]
    x = tl.load(X + row[:, None] * width + d[None, :], mask=inside, other=0.0).to(tl.float32)
    if CENTRED:
        x = tl.where(inside, x - (tl.sum(x, 1) / width)[:, None], 0.0)
    tl.store(SCALE + row, tl.rsqrt(tl.sum(x * x, 1) / width + eps), mask=row < n_rows)


@triton.jit
def norm_backward_kernel(
    GRAD, WEIGHT, SCALE, OUT, n_rows, width, offset,
    CENTRED: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    inside = (row < n_rows)[:, None] & (d < width)[None, :]
    at = row[:, None] * width + d[None, :]
    out = tl.load(GRAD + at, mask=inside, other=0.0).to(tl.float32)
    if WEIGHT is not None:
        out *= (tl.load(WEIGHT + d, mask=d < width, other=0.0).to(tl.float32) + offset)[None, :]
    out *= tl.load(SCALE + row, mask=row < n_rows, other=0.0).to(tl.float32)[:, None]
    if CENTRED:
        out -= (tl.sum(out, 1) / width)[:, None]
    tl.store(OUT + at, out.to(OUT.dtype.element_ty), mask=inside)


def norm_scale(x: Tensor, spec: NormSpec) -> Tensor:
    """1/rms or 1/std of the last dimension, [..., 1] float32."""
    check_dtype("the input of a norm", x)
    flat, width = _flat(x), x.shape[-1]
    scale = x.new_empty(*x.shape[:-1], 1, dtype=torch.float32)
    launch = row_launch(width)
    run(
        norm_scale_kernel,
        (blocks(len(flat), launch.blocks["BLOCK_M"]),),
        launch,
        X=flat, SCALE=scale, n_rows=len(flat), width=width, eps=float(spec.eps), CENTRED=spec.centred,
    )  # fmt: skip
    return scale


def norm_backward(grad: Tensor, weight: Tensor | None, scale: Tensor, spec: NormSpec) -> Tensor:
    """grad * weight * scale, re-centred where the norm centres, in the dtype of ``grad`` [..., D]."""
    check_dtype("the gradient of a norm", grad)
    flat, width = _flat(grad), grad.shape[-1]
    if weight is not None and weight.shape != (width,):
        raise UnsupportedInput(f"the weight of a norm has the shape {list(weight.shape)}; the kernel takes [{width}]")
    out = grad.new_empty(grad.shape)
    launch = row_launch(width)
    run(
        norm_backward_kernel,
        (blocks(len(flat), launch.blocks["BLOCK_M"]),),
        launch,
        GRAD=flat, WEIGHT=None if weight is None else weight.contiguous(), SCALE=scale.contiguous(), OUT=out,
        n_rows=len(flat), width=width, offset=float(spec.weight_offset), CENTRED=spec.centred,
    )  # fmt: skip
    return out


def row_launch(width: int) -> Launch:
    """At least one whole row per program, 16 numbers per thread or more for wide ones."""
    columns = power_of_two(width)
    return Launch({"BLOCK_M": max(1, 2048 // columns), "BLOCK_D": columns}, warps=min(16, max(4, columns // 1024)))


def _flat(x: Tensor) -> Tensor:
    if x.shape[-1] > MAX_NORM:
        raise UnsupportedInput(f"a norm over {x.shape[-1]} numbers; the kernel takes up to {MAX_NORM}")
    return x.reshape(-1, x.shape[-1]).contiguous()
