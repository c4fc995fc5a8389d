"""What every picture of a graph shows and where: its columns, the gaps between them, sizes, the edges that fit.

The page lays its columns out again whenever the reader hides tokens or moves the threshold (`arrange` in
graph_view.js, which a test compares with this one); sizes are shared as the numbers in `SIZES`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrp_hooks.graph.model import AttributionGraph

GAP = 0.6
"""Width of a gap, in columns."""
NODE = (0.2, 0.42, 11.0)
"""Least and largest radius as shares of the spacing; the largest in pixels."""
EDGE = (0.5, 6.0, 0.7)
"""Least and largest width in pixels; the largest as a share of the largest radius."""
EDGE_POWER = 0.6
"""Width follows |weight| to this power, so that weak edges can be told apart."""
SIZES = {"gap": GAP, "node": NODE, "edge": EDGE, "edgePower": EDGE_POWER}
READABLE_EDGES = 300
"""Up to this many edges a graph is read without help; a page of more starts with the strongest."""
READABLE_COLUMNS = 60
SMOOTH_NODES, SMOOTH_EDGES = 5_000, 20_000
"""What a page draws smoothly (benchmarks/graph_page.py); larger graphs are shown by sentences first."""


@dataclass(frozen=True)
class Gap:
    """Tokens that are left out, at ``x`` columns from the left edge."""

    x: float
    tokens: int


@dataclass(frozen=True)
class Columns:
    """Columns that are shown, the centre of each in units of a column's width, the gaps between them."""

    shown: tuple[int, ...]
    x: tuple[float, ...]
    gaps: tuple[Gap, ...]
    width: float


def arrange(shown: Sequence[int], sizes: Sequence[int]) -> Columns:
    """Columns side by side, with a gap wherever tokens are left out. ``sizes``: tokens per column, of all columns."""
    x: list[float] = []
    gaps: list[Gap] = []
    right, following = 0.0, 0
    for column in (*shown, len(sizes)):
        skipped = sum(sizes[following:column])
        if skipped:
            gaps.append(Gap(right + GAP / 2, skipped))
            right += GAP
        if column < len(sizes):
            x.append(right + 0.5)
            right += 1
        following = column + 1
    return Columns(tuple(shown), tuple(x), tuple(gaps), right)


def columns_of(graph: AttributionGraph) -> Columns:
    """The columns that have a node."""
    return arrange(torch.unique(graph.nodes[:, 1]).tolist(), column_sizes(graph))


def column_sizes(graph: AttributionGraph) -> list[int]:
    """Tokens per column."""
    return [1] * len(graph.tokens) if graph.segments is None else [len(segment) for segment in graph.segments]


def special_columns(graph: AttributionGraph) -> Tensor:
    """[C] bool."""
    return torch.tensor(graph.special or (False,) * len(graph.tokens), dtype=torch.bool)


def strength_order(graph: AttributionGraph) -> Tensor:
    """Edges, strongest first."""
    return graph.weight.abs().argsort(descending=True, stable=True)


def scales(graph: AttributionGraph) -> tuple[float, float]:
    """The |R| and |weight| of the largest node and the widest edge.

    Special tokens lie outside the scale, as in heatmaps, unless nothing else is there: attention parks relevance on
    them that would make everything else look small.
    """
    special = special_columns(graph)
    row, column = graph.nodes.T
    node = _largest(graph.relevance[row, column], ~special[column])
    edge = _largest(graph.weight, ~special[graph.source] & ~special[graph.target])
    return node, edge


def _largest(values: Tensor, ordinary: Tensor) -> float:
    chosen = values[ordinary] if bool((values[ordinary] != 0).any()) else values
    return float(chosen.abs().max()) if bool((chosen != 0).any()) else 1.0


def start_threshold(graph: AttributionGraph) -> float:
    """The |weight| from which on a page shows edges at first: all, or about the `READABLE_EDGES` strongest."""
    if len(graph) <= READABLE_EDGES:
        return 0.0
    return float(graph.weight[strength_order(graph)[READABLE_EDGES - 1]].abs())


def is_smooth(graph: AttributionGraph) -> bool:
    """Whether a page can draw the graph without stutter."""
    return len(graph.nodes) <= SMOOTH_NODES and len(graph) <= SMOOTH_EDGES


def readable(graph: AttributionGraph, columns: int = READABLE_COLUMNS) -> AttributionGraph:
    """The strongest edges whose nodes, with the explained ones, fit into so many columns.

    Of many explained columns half of those columns show the most relevant.
    """
    graph = _fewer_finals(graph, max(1, columns // 2))
    order = strength_order(graph)
    seen = set(graph.positions)
    for place, (source, target) in enumerate(
        zip(graph.source[order].tolist(), graph.target[order].tolist(), strict=True)
    ):
        if len(seen | {source, target}) > columns:
            return graph.select(order[:place])
        seen |= {source, target}
    return graph


def _fewer_finals(graph: AttributionGraph, most: int) -> AttributionGraph:
    if len(graph.positions) <= most:
        return graph
    positions = torch.tensor(graph.positions)
    strongest = graph.relevance[-1, positions].abs().topk(most).indices
    kept = tuple(sorted(positions[strongest].tolist()))
    return replace(graph, positions=kept, position=kept[-1])


def point_name(point: float) -> str:
    """Where in the model a residual point is."""
    if point % 1:
        return f"between attention and MLP of block {int(point)}"
    return f"after block {int(point) - 1}" if point else "before block 0"


def node_radius(share: float, spacing: float) -> float:
    """Pixels, for a share of the largest |R| and the distance between neighbouring nodes: area follows |R|."""
    least, most, cap = NODE
    largest = min(most * spacing, cap)
    return float(largest * (least / most + (1 - least / most) * min(share, 1.0) ** 0.5))


def edge_width(share: float, spacing: float) -> float:
    """Pixels, for a share of the largest |weight|."""
    least, cap, relative = EDGE
    most = max(least, min(cap, relative * node_radius(1.0, spacing)))
    return float(least + (most - least) * min(share, 1.0) ** EDGE_POWER)
