"""Edges of one attention call, in closed form, row by row or tile by tile: never an n x n array."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from lrp_kernels.edges import listed, streamed, summed
from lrp_kernels.edges.call import AttentionCall, row_blocks
from lrp_kernels.edges.reference import EdgeRows, edge_rows
from lrp_kernels.edges.results import BIN_SHIFT, BINS, EdgeHistogram, EdgeList, EdgeParts, HeadEdges

__all__ = [
    "BINS",
    "BIN_SHIFT",
    "AttentionCall",
    "EdgeHistogram",
    "EdgeList",
    "EdgeParts",
    "EdgeRows",
    "HeadEdges",
    "edge_histogram",
    "edge_list",
    "edge_parts",
    "edge_rows",
    "edge_sums",
    "edge_totals",
    "head_edges",
    "row_blocks",
]

Backend = Literal["reference", "triton"]


def _kernels(backend: Backend) -> Any:
    if backend == "reference":
        return streamed
    from lrp_kernels.edges import triton

    return triton


def edge_sums(call: AttentionCall, rows: Tensor, *, backend: Backend = "reference") -> Tensor:
    """[R, C] edges into the query rows [R] (ascending), summed over heads; columns beyond C have none."""
    if backend == "reference":
        return summed.edge_sums(call, rows)
    made: Tensor = _kernels(backend).edge_sums(call, rows)
    return made


def edge_histogram(
    call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None, *, backend: Backend = "reference"
) -> EdgeHistogram:
    """Count and mass of non-zero edges into ``rows`` over bins of |A|; ``diagonal`` [T] is added to A[j, j]."""
    made: EdgeHistogram = _kernels(backend).edge_histogram(call, rows, diagonal)
    return made


def edge_list(
    call: AttentionCall,
    rows: Tensor,
    diagonal: Tensor | None = None,
    *,
    at_least: float = 0.0,
    expected: int = 1 << 16,
    backend: Backend = "reference",
) -> EdgeList:
    """Non-zero edges into ``rows`` with |A| >= ``at_least``, by row, column; ``diagonal`` [T] is added to A[j, j].

    ``expected``: how many the triton kernel reckons with (a histogram knows); when there are more it runs again.
    """
    if backend == "reference":
        return streamed.edge_list(call, rows, diagonal, at_least=at_least)
    made: EdgeList = _kernels(backend).edge_list(call, rows, diagonal, at_least=at_least, expected=expected)
    return made


def edge_totals(
    call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None, *, backend: Backend = "reference"
) -> tuple[Tensor, Tensor]:
    """(sum over columns [R], sum over the given rows [T]) in float64; ``diagonal`` [T] is added to A[j, j]."""
    made: tuple[Tensor, Tensor] = _kernels(backend).edge_totals(call, rows, diagonal)
    return made


def edge_parts(call: AttentionCall, target: Tensor, source: Tensor, *, backend: Backend = "reference") -> EdgeParts:
    """Value and key path, the strongest head and its signed share, of the edges target[E] <- source[E]."""
    if backend == "reference":
        return listed.edge_parts(call, target, source)
    made: EdgeParts = _kernels(backend).edge_parts(call, target, source)
    return made


def head_edges(call: AttentionCall, target: Tensor, source: Tensor) -> HeadEdges:
    """Value and key path of the edges target[E] <- source[E] per head, gathered by PyTorch on any device."""
    return listed.head_edges(call, target, source)
