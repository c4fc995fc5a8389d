"""Edges of one attention call, in closed form, row by row: never an n x n array."""

from __future__ import annotations

from lrp_kernels.edges.call import AttentionCall, row_blocks
from lrp_kernels.edges.reference import EdgeRows, edge_rows
from lrp_kernels.edges.summed import edge_sums

__all__ = ["AttentionCall", "EdgeRows", "edge_rows", "edge_sums", "row_blocks"]
