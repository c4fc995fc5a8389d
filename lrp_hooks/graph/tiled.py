"""Pruning of one transition by the edge kernels: a histogram first, then only the edges that matter leave the kernel.

The result is that of `prune`, up to the rounding of sums in another order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrp_hooks.graph.prune import Columns, Histogram, KeptEdges, above, kept_edges, settle
from lrp_hooks.ops import BIN_SHIFT, AttentionCall, EdgeHistogram, edge_histogram, edge_list

ON_THE_CPU = 1 << 18
"""Listed edges up to which the CPU is as quick as a GPU, which it need not wait for."""


@dataclass(frozen=True, eq=False)
class TiledEdges:
    """The edges of one transition, to be counted or listed tile by tile.

    Attributes:
        rows: [R] target rows, ascending; diagonal: [T], added to A[j, j].
    """

    call: AttentionCall
    rows: Tensor
    diagonal: Tensor

    def histogram(self) -> EdgeHistogram:
        """On the CPU, in one copy: what is read off it costs no further wait for the GPU."""
        made = edge_histogram(self.call, self.rows, self.diagonal)
        count, mass = torch.stack((made.count.double(), made.mass)).cpu()
        return EdgeHistogram(count.long(), mass)

    def listed(self, at_least: float, expected: int) -> Columns:
        """Non-zero edges with |A| >= ``at_least``, on the CPU if they are few; ``expected``: about how many."""
        found = edge_list(self.call, self.rows, self.diagonal, at_least=at_least, expected=expected)
        columns = found.target, found.source, found.weight
        return columns if len(found.weight) > ON_THE_CPU else (columns[0].cpu(), columns[1].cpu(), columns[2].cpu())


def tiles_above(edges: TiledEdges, threshold: float) -> KeptEdges:
    """All edges with |A| > threshold."""
    seen = edges.histogram()
    expected = int(seen.count[_bin(threshold) :].sum())
    found = edges.listed(threshold, expected)
    found = above(found, found[2].abs() > threshold)
    return kept_edges([found], int(seen.count.sum()), float(seen.mass.sum()))


def tiles_top_p(edges: TiledEdges, top_p: float) -> KeptEdges:
    """The smallest set of edges with sum |A| >= top_p * total, ties at its boundary kept."""
    made = edges.histogram()
    seen = Histogram(top_p, int(made.count.sum()), made.mass)
    if not seen.count:
        return kept_edges([], 0, 0.0)
    boundary = seen.cut(top_p)
    found = edges.listed(_least(boundary), int(made.count[boundary:].sum()))
    return kept_edges([settle(found, boundary, seen.goal(boundary), top_p)], seen.count, seen.total)


def _bin(size: float) -> int:
    """The bin of |A|: the leading bits of its float32."""
    return int(torch.tensor(size, dtype=torch.float32).view(torch.int32)) >> BIN_SHIFT


def _least(number: int) -> float:
    """The smallest |A| of a bin."""
    return float(torch.tensor(number << BIN_SHIFT, dtype=torch.int32).view(torch.float32))
