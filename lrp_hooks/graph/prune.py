"""Streaming pruning of one transition's edges: a first pass counts, a second emits; the result equals a dense sort.

Either all edges with |A| above a threshold, or the smallest set that carries a share ``top_p`` of sum |A| (ties at the
boundary kept). No n x n array exists: the first pass gathers count and mass of |A| over logarithmic bins, the second
emits what lies above the boundary bin and settles that bin exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BINS_PER_OCTAVE = 64
LOWEST, HIGHEST = -149, 128  # exponents of float32
BINS = (HIGHEST - LOWEST) * BINS_PER_OCTAVE

Rows = Callable[[], Iterator[tuple[Tensor, Tensor]]]
"""Starts a pass over (row indices [R], edges [R, C])."""


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


def keep_above(rows: Rows, threshold: float) -> KeptEdges:
    """All edges with |A| > threshold. One pass."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    count, mass = 0, 0.0
    for index, edges in rows():
        size = edges.abs()
        count += int((size > 0).sum())
        mass += float(size.sum(dtype=torch.float64))
        parts.append(_emit(index, edges, size > threshold))
    return _kept(parts, count, mass)


def keep_top_p(rows: Rows, top_p: float) -> KeptEdges:
    """The smallest set of edges with sum |A| >= top_p * total, ties at its boundary kept. Two passes."""
    counts = torch.zeros(BINS, dtype=torch.int64)
    masses = torch.zeros(BINS, dtype=torch.float64)
    for _, edges in rows():
        size = edges.abs().flatten()
        size = size[size > 0]
        bins = _bin(size)
        counts += torch.bincount(bins, minlength=BINS).cpu()
        masses += torch.bincount(bins, size.double(), minlength=BINS).cpu()
    count, mass = int(counts.sum()), float(masses.sum())
    if not count:
        return _kept([], 0, 0.0)
    above = masses.flip(0).cumsum(0).flip(0)  # mass in this bin and the larger ones
    goal = top_p * mass
    reached = torch.nonzero(above >= goal * (1 - 1e-12)).flatten()
    boundary = int(reached[-1]) if len(reached) else int(torch.nonzero(counts)[0])
    parts, ties = [], []
    for index, edges in rows():
        size = edges.abs()
        bins = torch.where(size > 0, _bin(size), -1)
        parts.append(_emit(index, edges, bins > boundary))
        ties.append(_emit(index, edges, bins == boundary))
    larger = float(above[boundary + 1]) if boundary + 1 < BINS else 0.0
    parts += _settle(ties, goal - larger, top_p)
    return _kept(parts, count, mass)


Columns = tuple[Tensor, Tensor, Tensor]
"""Target, source and weight of some edges."""


def _settle(ties: list[Columns], missing: float, top_p: float) -> list[Columns]:
    """The edges of the boundary bin that are still needed: the largest, and all that equal the smallest of them."""
    target, source, weight = (torch.cat(column) for column in zip(*ties, strict=True))
    if top_p >= 1.0:
        return [(target, source, weight)]
    size = weight.abs().double()
    ordered, _ = size.sort(descending=True)
    enough = torch.nonzero(ordered.cumsum(0) >= missing * (1 - 1e-12)).flatten()
    smallest = ordered[int(enough[0])] if len(enough) else ordered[-1]
    keep = size >= smallest
    return [(target[keep], source[keep], weight[keep])]


def _bin(size: Tensor) -> Tensor:
    """Index of the logarithmic bin of positive sizes. Monotone in the size."""
    exponent = torch.log2(size.double()).sub_(LOWEST).mul_(BINS_PER_OCTAVE)
    return exponent.floor_().clamp_(0, BINS - 1).long()


def _emit(index: Tensor, edges: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    row, column = torch.nonzero(wanted, as_tuple=True)
    return index[row], column, edges[row, column]


def _kept(parts: list[Columns], count: int, mass: float) -> KeptEdges:
    if parts:
        target, source, weight = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    else:
        target = source = torch.zeros(0, dtype=torch.long)
        weight = torch.zeros(0)
    order = weight.abs().argsort(descending=True, stable=True)
    weight = weight[order]
    threshold = float(weight.abs()[-1]) if len(weight) else float("inf")
    return KeptEdges(target[order], source[order], weight, threshold, count, mass)
