"""Which heads the edges of a graph run through, and by which path: sums over the edges of every head."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.model import AttributionGraph


@dataclass(frozen=True)
class HeadSums:
    """One head of one block, over the kept edges of the graph; in logits.

    Attributes:
        size: sum over edges of |value + key + query|: how much the head moves, or keeps in place.
        between: the part of ``size`` on edges between different tokens.
        value, key, query: signed sums of each path.
        edges: how many edges it has a part in.
    """

    block: int
    head: int
    size: float
    between: float
    value: float
    key: float
    query: float
    edges: int


def head_sums(graph: AttributionGraph) -> list[HeadSums]:
    """The heads of all blocks, the largest ``size`` first; heads without an edge are left out.

    Raises:
        GraphError: the graph does not know its heads.
    """
    if graph.detail is None or graph.detail.heads is None:
        raise GraphError("the graph does not know the heads of its edges. do: trace.graph(..., detail='heads')")
    parts = graph.detail.heads.double()  # [E, H, 3]
    rows, heads = len(graph.points), parts.shape[1]
    whole = parts.sum(2)
    moved = whole.abs() * (graph.source != graph.target)[:, None]
    columns = torch.cat((whole.abs()[..., None], moved[..., None], parts, (whole != 0).double()[..., None]), 2)
    sums = torch.zeros(rows, heads, 6, dtype=torch.float64).index_add_(0, graph.below, columns)
    found = []
    for row, head in torch.nonzero(sums[..., 5]).tolist():
        size, between, value, key, query, edges = sums[row, head].tolist()
        found.append(HeadSums(int(graph.points[row]), head, size, between, value, key, query, int(edges)))
    return sorted(found, key=lambda one: -one.size)
