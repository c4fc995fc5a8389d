"""Relevance reduction: x * g summed over the hidden dimension, in float32 whatever the dtype."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from lrp_kernels.relevance import reference

__all__ = ["relevance_sum"]


def relevance_sum(x: Tensor, grad: Tensor, *, backend: Literal["reference", "triton"] = "reference") -> Tensor:
    """sum_d x[..., d] * grad[..., d] in float32 (float64 for float64), shape [...]; shapes are broadcast.

    Source: gradient x input form of LRP (arXiv 2502.15886).
    """
    if backend == "triton":
        from lrp_kernels.relevance import triton

        return triton.relevance_sum(x, grad)
    return reference.relevance_sum(x, grad)
