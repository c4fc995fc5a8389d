"""x * g summed over the hidden dimension, in float32 whatever the dtype (float64 for float64)."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_kernels.function import compute_dtype


def relevance_sum(x: Tensor, grad: Tensor) -> Tensor:
    """sum_d x[..., d] * grad[..., d], shape [...]; shapes are broadcast."""
    dtype = compute_dtype(x)
    scores: Tensor = torch.linalg.vecdot(x.to(dtype), grad.to(dtype))
    return scores
