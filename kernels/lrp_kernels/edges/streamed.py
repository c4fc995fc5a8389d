"""What is asked of all edges of one attention call at once, row block by row block: histogram, list, sums, details.

Everywhere ``diagonal`` [T] is added to A[j, j] (the query path and what is token-local), or None.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lrp_kernels.edges.call import AttentionCall, row_blocks
from lrp_kernels.edges.listed import are_few, head_edges, parts_of
from lrp_kernels.edges.reference import edge_rows
from lrp_kernels.edges.results import BIN_SHIFT, BINS, EdgeHistogram, EdgeList, EdgeParts
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


def edge_parts(call: AttentionCall, target: Tensor, source: Tensor) -> EdgeParts:
    """The parts of the edges target[E] <- source[E]: gathered where they are few of their rows' edges, otherwise the
    rows of all targets are made once more."""
    count = len(target)
    unique = torch.unique(target)
    if are_few(count, len(unique), call):
        return parts_of(head_edges(call, target, source))
    value, key, head_weight = (call.D.new_zeros(count) for _ in range(3))
    head = torch.zeros(count, dtype=torch.long, device=target.device)
    for block in row_blocks(unique, call.heads, call.length) if count else ():
        here = torch.nonzero(torch.isin(target, block)).flatten()
        made = edge_rows(call, block)
        row, column = torch.searchsorted(block, target[here]), source[here]
        last = made.value.shape[2]
        column, outside = column.clamp(max=last - 1), column >= last
        per_head = made.total()[:, row, column].masked_fill(outside, 0.0)  # [H, E']
        value[here] = made.value[:, row, column].sum(0).masked_fill(outside, 0.0).to(value.dtype)
        key[here] = per_head.sum(0).to(key.dtype) - value[here]
        head[here] = per_head.abs().argmax(0)
        head_weight[here] = per_head.gather(0, head[here][None])[0].to(head_weight.dtype)
    return EdgeParts(value, key, head, head_weight)


def _streamed(call: AttentionCall, rows: Tensor, diagonal: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    if not len(rows):
        return
    for block in row_blocks(rows, call.heads, call.length):
        edges = edge_sums(call, block)
        if diagonal is not None:
            edges[torch.arange(len(block), device=block.device), block] += diagonal[block].to(edges.dtype)
        yield block, edges
