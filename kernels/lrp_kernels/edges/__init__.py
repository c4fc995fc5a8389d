"""Edges of one attention call, in closed form, row by row: never an n x n array."""

from __future__ import annotations

from lrp_kernels.edges.reference import AttentionCall, EdgeRows, edge_rows, row_blocks

__all__ = ["AttentionCall", "EdgeRows", "edge_rows", "row_blocks"]
