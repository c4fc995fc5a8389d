"""Relevance reduction: x * g summed over the hidden dimension, in float32 whatever the dtype."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_kernels.function import compute_dtype

__all__ = ["relevance_sum"]


def relevance_sum(x: Tensor, grad: Tensor) -> Tensor:
    """sum_d x[..., d] * grad[..., d] in float32 (float64 for float64), shape [...].

    Source: gradient x input form of LRP (arXiv 2502.15886).
    """
    dtype = compute_dtype(x)
    scores: Tensor = torch.linalg.vecdot(x.to(dtype), grad.to(dtype))
    return scores
