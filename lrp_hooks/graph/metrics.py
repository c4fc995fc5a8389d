"""Metrics of an attribution graph: how many nodes and edges, how concentrated, how far back; per residual point.

Words (arXiv 2604.17761): relevance flows from the upper node of an edge down to the lower one, its source; as in the
network itself, the edge points upwards. The *incoming* edges of a node come from below (the node is their upper end),
its *outgoing* edges lead upwards (the node is their lower end). An edge is counted at the residual point of its upper
end, so the edge counts of the points add up to the graph's.

R is a node's relevance and w an edge's weight, both in logits. V are the nodes of the graph at the point: those with
an edge, and the final nodes. A position is a token's index; in a graph of segments it is the segment's, and distances
count segments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.graph.model import AttributionGraph

CARRIED = 0.9
SLACK = 1e-9  # rounding of cumulative shares: nine of ten equal nodes carry 90 %


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Metrics of one set V of nodes and the edges that end or start there.

    Sums are 0 and Gini coefficients are 0 when there is nothing to add up; means and shares of nothing are None.
    Gini(x) = sum_i (2i - n - 1) x_(i) / (n sum x) over the ascending x_(1) .. x_(n): 0 when all are equal, and for one
    value; towards 1 when one of many holds everything.

    Attributes:
        node_count: |V|.
        edge_count: |E|, the incoming edges.
        edge_node_ratio: |E| / |V|.
        sparsity: 1 - |V| / n over the n positions (of every point that is pooled).
        mean_fan_in, mean_fan_out: incoming and outgoing edges per node of V, nodes without any included; at one point
            ``mean_fan_in`` is ``edge_node_ratio``.
        total_relevance, mean_relevance, gini_relevance: of |R| over V.
        carrier_count: the fewest nodes of V that carry 90 % of sum |R| (to 1e-9).
        positive_count, negative_count: nodes of V with R > 0 and with R < 0.
        total_weight: sum |w| of the incoming edges.
        mean_outgoing_weight, gini_outgoing_weight: of |w| over the outgoing edges of all nodes of V together.
        mean_node_gini_in, mean_node_gini_out: mean over V of the Gini coefficient of one node's incoming (outgoing)
            |w|; nodes with one edge or none count as 0.
        verticality: share of the incoming sum |w| that comes from the node's own position.
        centre_of_mass: sum |R| position / sum |R| over V.
        mean_lookback: sum |w| (upper - lower position) / sum |w| over the incoming edges: weighted by |w|.
        lookback_zero_share: share of the incoming edges, counted, that come from the node's own position.
        hubs: (residual point, position) of the nodes whose degree, incoming and outgoing edges, exceeds the mean plus
            one (population) standard deviation of the degrees in V.
    """

    node_count: int
    edge_count: int
    edge_node_ratio: float | None
    sparsity: float
    mean_fan_in: float | None
    mean_fan_out: float | None
    total_relevance: float
    mean_relevance: float | None
    gini_relevance: float
    carrier_count: int
    positive_count: int
    negative_count: int
    total_weight: float
    mean_outgoing_weight: float | None
    gini_outgoing_weight: float
    mean_node_gini_in: float | None
    mean_node_gini_out: float | None
    verticality: float | None
    centre_of_mass: float | None
    mean_lookback: float | None
    lookback_zero_share: float | None
    hubs: tuple[tuple[float, int], ...]


@dataclass(frozen=True, kw_only=True)
class PointMetrics(Metrics):
    """The metrics of one residual point: 0 before the first block, l + 1 after block l, l + 0.5 at its mid point."""

    point: float


@dataclass(frozen=True, kw_only=True)
class GraphMetrics(Metrics):
    """The metrics of all residual points pooled: V are all nodes of the graph; every edge is incoming and outgoing.

    Not the means of the points' values: a Gini coefficient, the carriers, and the hubs are those of all nodes together.
    """

    point_count: int
    position_count: int


def graph_metrics(graph: AttributionGraph) -> tuple[PointMetrics, ...]:
    """The metrics of each residual point, ascending."""
    records = _measure(graph, torch.arange(len(graph.points)))
    return tuple(PointMetrics(point=p, **record) for p, record in zip(graph.points, records, strict=True))


def graph_summary(graph: AttributionGraph) -> GraphMetrics:
    """The metrics of the whole graph."""
    rows, width = graph.relevance.shape
    (record,) = _measure(graph, torch.zeros(rows, dtype=torch.int64))
    return GraphMetrics(point_count=rows, position_count=width, **record)


def as_table(metrics: Iterable[PointMetrics]) -> list[dict[str, float | None]]:
    """One row per residual point, all with the same columns; the hubs as their number, ``hub_count``."""
    names = [f.name for f in fields(PointMetrics) if f.name not in ("point", "hubs")]
    return [
        {"point": at.point, **{name: getattr(at, name) for name in names}, "hub_count": len(at.hubs)} for at in metrics
    ]


def gini(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """[groups] float64: sum_i (2i - n - 1) x_(i) / (n sum x) of the values >= 0 in each group; 0 for an empty sum."""
    order, count = _ranked(values, group), torch.bincount(group, minlength=groups)
    value, at = values[order], group[order]
    rank = 1 + torch.arange(len(order)) - _starts(count)[at]
    spread = _sum((2 * rank - count[at] - 1) * value, at, groups)
    total = _sum(value, at, groups)
    return torch.where(total > 0, spread / (count * total), 0.0).clamp(min=0.0)


@dataclass(frozen=True, eq=False)
class _Pool:
    """A graph's nodes in groups of residual points; nodes are numbered by (row, position).

    Attributes:
        row, position: [N] of each node; group: [N] its group, ascending.
        lower, upper: [E] node at each end of an edge; size: [E] float64, |w|.
        relevance: [N] float64, signed.
        count, capacity: [G] nodes and positions in each group.
    """

    row: Tensor
    position: Tensor
    group: Tensor
    lower: Tensor
    upper: Tensor
    size: Tensor
    relevance: Tensor
    count: Tensor
    capacity: Tensor

    def over_nodes(self, values: Tensor) -> Tensor:
        return _sum(values, self.group, len(self.count))

    def over_incoming(self, values: Tensor) -> Tensor:
        return _sum(values, self.group[self.upper], len(self.count))

    def over_outgoing(self, values: Tensor) -> Tensor:
        return _sum(values, self.group[self.lower], len(self.count))

    def degree(self, ends: Tensor) -> Tensor:
        return torch.bincount(ends, minlength=len(self.group))


def _pool(graph: AttributionGraph, group_of_row: Tensor) -> _Pool:
    width = graph.relevance.shape[1]
    lower, upper = graph.below * width + graph.source, graph.above * width + graph.target
    final = torch.tensor([row * width + column for row, column in graph.finals])
    held = torch.zeros(graph.relevance.numel(), dtype=torch.bool)
    held[torch.cat((lower, upper, final))] = True
    node, number = torch.nonzero(held).flatten(), held.cumsum(0) - 1
    group = group_of_row[node // width]
    capacity = torch.bincount(group_of_row) * width
    return _Pool(
        row=node // width,
        position=node % width,
        group=group,
        lower=number[lower],
        upper=number[upper],
        size=graph.weight.double().abs(),
        relevance=graph.relevance.flatten()[node].double(),
        count=torch.bincount(group, minlength=len(capacity)),
        capacity=capacity,
    )


def _measure(graph: AttributionGraph, group_of_row: Tensor) -> list[dict[str, Any]]:
    """The fields of `Metrics` for each group of rows (ascending)."""
    pool = _pool(graph, group_of_row)
    columns = {name: _plain(column) for name, column in (_shape(pool) | _relevance(pool) | _weights(pool)).items()}
    columns["hubs"] = _hubs(pool, graph.points)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _shape(pool: _Pool) -> dict[str, Tensor]:
    fan_in, fan_out = (pool.over_nodes(pool.degree(ends)) for ends in (pool.upper, pool.lower))
    return {
        "node_count": pool.count,
        "edge_count": fan_in.long(),
        "edge_node_ratio": fan_in / pool.count,
        "sparsity": 1 - pool.count.double() / pool.capacity,
        "mean_fan_in": fan_in / pool.count,
        "mean_fan_out": fan_out / pool.count,
    }


def _relevance(pool: _Pool) -> dict[str, Tensor]:
    size = pool.relevance.abs()
    total = pool.over_nodes(size)
    return {
        "total_relevance": total,
        "mean_relevance": total / pool.count,
        "gini_relevance": gini(size, pool.group, len(total)),
        "carrier_count": _carriers(pool, size, total),
        "positive_count": pool.over_nodes(pool.relevance > 0).long(),
        "negative_count": pool.over_nodes(pool.relevance < 0).long(),
        "centre_of_mass": pool.over_nodes(size * pool.position) / total,
    }


def _weights(pool: _Pool) -> dict[str, Tensor]:
    nodes, groups = len(pool.group), len(pool.count)
    incoming, each = pool.over_incoming(pool.size), torch.ones(len(pool.size))
    lookback = pool.position[pool.upper] - pool.position[pool.lower]
    of_node = {side: gini(pool.size, ends, nodes) for side, ends in (("in", pool.upper), ("out", pool.lower))}
    return {
        "total_weight": incoming,
        "mean_outgoing_weight": pool.over_outgoing(pool.size) / pool.over_outgoing(each),
        "gini_outgoing_weight": gini(pool.size, pool.group[pool.lower], groups),
        **{f"mean_node_gini_{side}": pool.over_nodes(of) / pool.count for side, of in of_node.items()},
        "verticality": pool.over_incoming(pool.size * (lookback == 0)) / incoming,
        "mean_lookback": pool.over_incoming(pool.size * lookback) / incoming,
        "lookback_zero_share": pool.over_incoming(lookback == 0) / pool.over_incoming(each),
    }


def _hubs(pool: _Pool, points: tuple[float, ...]) -> list[tuple[tuple[float, int], ...]]:
    """d > mean + std, in integers so that equality is equality: N d - S > 0 and (N d - S)^2 > N sum d^2 - S^2."""
    degree = pool.degree(pool.lower) + pool.degree(pool.upper)
    total = torch.zeros_like(pool.count).index_add_(0, pool.group, degree)
    squares = torch.zeros_like(pool.count).index_add_(0, pool.group, degree**2)
    above = pool.count[pool.group] * degree - total[pool.group]
    found = torch.nonzero((above > 0) & (above**2 > (pool.count * squares - total**2)[pool.group])).flatten()
    per_group = torch.tensor_split(found, torch.searchsorted(pool.group[found], torch.arange(1, len(pool.count))))
    nodes = ((pool.row[hubs].tolist(), pool.position[hubs].tolist()) for hubs in per_group)
    return [tuple((points[r], p) for r, p in zip(rows, positions, strict=True)) for rows, positions in nodes]


def _carriers(pool: _Pool, size: Tensor, total: Tensor) -> Tensor:
    """[G] how many nodes, largest |R| first, are needed for the share ``CARRIED`` of each group's total."""
    order = _ranked(-size, pool.group)
    at = pool.group[order]
    share = torch.where(total[at] > 0, size[order] / total[at], 0.0)
    before = share.cumsum(0) - share
    before = before - before[_starts(pool.count)[at]]
    return _sum((share > 0) & (before < CARRIED - SLACK), at, len(total)).long()


def _ranked(values: Tensor, group: Tensor) -> Tensor:
    """Indices that sort by group, and ascending within it."""
    order = values.argsort()
    return order[group[order].argsort(stable=True)]


def _starts(count: Tensor) -> Tensor:
    """Index of each group's first value, when values are sorted by group."""
    return count.cumsum(0) - count


def _sum(values: Tensor, group: Tensor, groups: int) -> Tensor:
    return torch.zeros(groups, dtype=torch.float64).index_add_(0, group, values.double())


def _plain(column: Tensor) -> list[Any]:
    """Python numbers; None for 0 / 0."""
    return [None if value != value else value for value in column.tolist()]
