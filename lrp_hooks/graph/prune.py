"""Streaming pruning of one transition's edges; the result equals a dense sort.

Either all edges with |A| above a threshold, or the smallest set that carries a share ``top_p`` of sum |A| (ties at the
boundary kept). Rows arrive in blocks and are freed; no n x n array exists.

``top_p`` needs one pass: a histogram of |A| over logarithmic bins grows with every block, and of each block only edges
from a cut upwards are kept, where the cut carries more than ``top_p`` of the mass seen so far. When all blocks have
been seen the boundary is known; blocks whose cut turned out above it (their edges were small beside later ones) are
made once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lrp_hooks.ops import BIN_SHIFT, BINS

ROUNDING = 1 - 1e-12
"""Sums of the same edges in another order may miss a goal by this factor."""

Columns = tuple[Tensor, Tensor, Tensor]
"""Target, source and weight of some edges."""


@dataclass(frozen=True, eq=False)
class RowBlocks:
    """A transition's edges, block by block.

    Attributes:
        blocks: indices of target rows [R], each block ascending.
        edges: makes the edges [R, C] into one block; columns beyond C have none.
    """

    blocks: Sequence[Tensor]
    edges: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class KeptEdges:
    """The edges of one transition that pruning kept, strongest first, and what it saw.

    Attributes:
        target: [E] row j; source: [E] column i; weight: [E] signed, in logits.
        threshold: the smallest |A| kept; inf when nothing is.
        total_count, total_mass: non-zero edges and sum |A| before pruning.
    """

    target: Tensor
    source: Tensor
    weight: Tensor
    threshold: float
    total_count: int
    total_mass: float

    @property
    def kept_mass(self) -> float:
        return float(self.weight.abs().sum(dtype=torch.float64))


def keep_above(rows: RowBlocks, threshold: float) -> KeptEdges:
    """All edges with |A| > threshold."""
    parts: list[Columns] = []
    count, mass = 0, 0.0
    for block in rows.blocks:
        edges = rows.edges(block)
        size = edges.abs()
        count += int(torch.count_nonzero(size))
        mass += float(size.sum(dtype=torch.float64))
        parts.append(_emit(block, edges, size > threshold))
    return kept_edges(parts, count, mass)


def keep_top_p(rows: RowBlocks, top_p: float) -> KeptEdges:
    """The smallest set of edges with sum |A| >= top_p * total, ties at its boundary kept."""
    seen = Histogram(top_p)
    candidates, cuts = [], []
    for block in rows.blocks:
        edges = rows.edges(block)
        bins = seen.add(edges)
        cuts.append(seen.cut(seen.margin))
        candidates.append(_emit(block, edges, _from(cuts[-1], bins, edges)))
    if not seen.count:
        return kept_edges([], 0, 0.0)
    boundary = seen.cut(top_p)
    for number, block in enumerate(rows.blocks):
        if cuts[number] > boundary:
            edges = rows.edges(block)
            candidates[number] = _emit(block, edges, _from(boundary, _bins(edges.abs()), edges))
    kept = settle(_joined(candidates), boundary, seen.goal(boundary), top_p)
    return kept_edges([kept], seen.count, seen.total)


def keep_columns(edges: Columns, top_p: float, edge_threshold: float | None) -> KeptEdges:
    """The same for edges that are listed already (a transition in which tokens do not mix)."""
    weight = edges[2]
    size = weight.abs().double()
    count, mass = int(torch.count_nonzero(size)), float(size.sum())
    if not count:
        return kept_edges([], 0, 0.0)
    kept = above(edges, size > edge_threshold) if edge_threshold is not None else _largest(edges, top_p * mass, top_p)
    return kept_edges([kept], count, mass)


@dataclass(eq=False)
class Histogram:
    """Mass of |A| per logarithmic bin; bin 0 also holds the zeros."""

    top_p: float
    count: int = 0
    mass: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    @property
    def margin(self) -> float:
        """The share that candidates carry: halfway between ``top_p`` and everything."""
        return (1.0 + self.top_p) / 2

    @property
    def total(self) -> float:
        return float(self.mass.sum())

    def add(self, edges: Tensor) -> Tensor:
        """Count a block in; returns its bins, shaped like the edges."""
        size = edges.abs()
        bins = _bins(size)
        self.count += int(torch.count_nonzero(size))
        self.mass = self.mass.to(size.device)
        self.mass.scatter_add_(0, bins.flatten().long(), size.flatten().double())
        return bins

    def cut(self, share: float) -> int:
        """The highest bin such that it and the bins above carry ``share`` of the mass; 0 for everything."""
        if share >= 1.0:
            return 0
        above = self.mass.flip(0).cumsum(0).flip(0)
        reached = torch.nonzero(above >= share * above[0] * ROUNDING).flatten()
        return int(reached[-1]) if len(reached) and above[0] > 0 else 0

    def goal(self, boundary: int) -> float:
        """Mass that the boundary bin must still give."""
        return self.top_p * self.total - float(self.mass[boundary + 1 :].sum())


def _bins(size: Tensor) -> Tensor:
    """Logarithmic bins [.., int32] of sizes: the leading bits of the float32. Monotone in the size."""
    single = torch.empty_like(size, dtype=torch.float32).copy_(size)
    return single.view(torch.int32) >> BIN_SHIFT


def _from(cut: int, bins: Tensor, edges: Tensor) -> Tensor:
    """Mask of the edges in bin ``cut`` and above; never zeros."""
    return bins >= cut if cut else edges != 0


def settle(edges: Columns, boundary: int, missing: float, top_p: float) -> Columns:
    """Of edges from bin ``boundary`` upwards: all above the boundary bin, and those of it that are still needed."""
    bins = _bins(edges[2].abs())
    ties = _largest(above(edges, bins == boundary), missing, top_p)
    return _joined([above(edges, bins > boundary), ties])


def _largest(edges: Columns, missing: float, top_p: float) -> Columns:
    """The largest edges that together carry ``missing``, and all that equal the smallest of them."""
    if top_p >= 1.0 or not len(edges[2]):
        return above(edges, edges[2] != 0)
    size = edges[2].abs().double()
    ordered, _ = size.sort(descending=True)
    enough = torch.nonzero(ordered.cumsum(0) >= missing * ROUNDING).flatten()
    smallest = ordered[int(enough[0])] if len(enough) else ordered[-1]
    return above(edges, size >= smallest)


def above(edges: Columns, mask: Tensor) -> Columns:
    """The edges that a mask [E] names."""
    target, source, weight = edges
    return target[mask], source[mask], weight[mask]


def _joined(parts: Sequence[Columns]) -> Columns:
    target, source, weight = (torch.cat(column) for column in zip(*parts, strict=True))
    return target, source, weight


def _emit(index: Tensor, edges: Tensor, wanted: Tensor) -> Columns:
    row, column = torch.nonzero(wanted, as_tuple=True)
    return index[row], column, edges[row, column]


def kept_edges(parts: list[Columns], count: int, mass: float) -> KeptEdges:
    """Sorted, on the CPU; ``count`` and ``mass``: of all non-zero edges before pruning."""
    if parts:
        target, source, weight = (column.cpu() for column in _joined(parts))
    else:
        target = source = torch.zeros(0, dtype=torch.long)
        weight = torch.zeros(0)
    order = weight.abs().argsort(descending=True, stable=True)
    weight = weight[order]
    threshold = float(weight.abs()[-1]) if len(weight) else float("inf")
    return KeptEdges(target[order], source[order], weight, threshold, count, mass)
