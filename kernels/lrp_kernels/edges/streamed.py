"""What is asked of all edges of one attention call at once, row block by row block: histogram, list, sums.

Everywhere ``diagonal`` [T] is added to A[j, j] (the query path and what is token-local), or None.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lrp_kernels.edges.call import AttentionCall, row_blocks
from lrp_kernels.edges.results import BIN_SHIFT, BINS, EdgeHistogram, EdgeList
from lrp_kernels.edges.summed import edge_sums


def edge_histogram(call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None) -> EdgeHistogram:
    """Histogram of the edges into ``rows`` [R] (ascending)."""
    count = torch.zeros(BINS, dtype=torch.int64, device=rows.device)
    mass = torch.zeros(BINS, dtype=torch.float64, device=rows.device)
    for _, edges in _streamed(call, rows, diagonal):
        size = edges[edges != 0].abs()
        bins = size.float().view(torch.int32) >> BIN_SHIFT
        count += torch.bincount(bins, minlength=BINS)
        mass += torch.bincount(bins, size.double(), minlength=BINS)
    return EdgeHistogram(count, mass)


def edge_list(call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None, *, at_least: float = 0.0) -> EdgeList:
    """Non-zero edges into ``rows`` with |A| >= ``at_least``."""
    parts = []
    for block, edges in _streamed(call, rows, diagonal):
        row, column = torch.nonzero((edges.abs() >= at_least) & (edges != 0), as_tuple=True)
        parts.append((block[row], column, edges[row, column]))
    if not parts:
        return EdgeList(rows.new_zeros(0), rows.new_zeros(0), call.D.new_zeros(0))
    target, source, weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return EdgeList(target, source, weight)


def edge_totals(call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(sum over columns [R], sum over the given rows [T]) of the edges, float64."""
    row_sums, column_sums = [], torch.zeros(call.k.shape[1], dtype=torch.float64, device=rows.device)
    for _, edges in _streamed(call, rows, diagonal):
        row_sums.append(edges.sum(1, dtype=torch.float64))
        column_sums[: edges.shape[1]] += edges.sum(0, dtype=torch.float64)
    return torch.cat(row_sums) if row_sums else column_sums[:0], column_sums


def _streamed(call: AttentionCall, rows: Tensor, diagonal: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    if not len(rows):
        return
    for block in row_blocks(rows, call.heads, call.length):
        edges = edge_sums(call, block)
        if diagonal is not None:
            edges[torch.arange(len(block), device=block.device), block] += diagonal[block].to(edges.dtype)
        yield block, edges
