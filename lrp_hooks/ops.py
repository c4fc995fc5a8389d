"""The one door to the operators: rules import from here, never from the kernels.

The reference operators (plain PyTorch) run everywhere; this module is where a faster backend is chosen once.
"""

from __future__ import annotations

from lrp_kernels.edges import AttentionCall, EdgeRows, edge_rows, edge_sums, row_blocks
from lrp_kernels.function import RuleFunction, compute_dtype
from lrp_kernels.gated import (
    ACTIVATIONS,
    Activation,
    gated_product,
    half_product,
    secant,
    slope_activation,
    tanh_slope,
)
from lrp_kernels.norm import NormSpec, detached_norm, frozen_norm, norm_forward, norm_scale
from lrp_kernels.relevance import relevance_sum

BACKEND = "reference"
"""Which implementation runs; reported by `lrp-hooks doctor`."""

__all__ = [
    "ACTIVATIONS",
    "BACKEND",
    "Activation",
    "AttentionCall",
    "EdgeRows",
    "NormSpec",
    "RuleFunction",
    "compute_dtype",
    "detached_norm",
    "edge_rows",
    "edge_sums",
    "frozen_norm",
    "gated_product",
    "half_product",
    "norm_forward",
    "norm_scale",
    "relevance_sum",
    "row_blocks",
    "secant",
    "slope_activation",
    "tanh_slope",
]
