"""Metrics of a graph against the formulas in plain Python (loops, dicts, exact fractions), and numbers by hand."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import pytest
import torch
from families import build, inputs

from lrp_hooks import AttributionGraph, LogitDiff, instrument
from lrp_hooks.graph.metrics import GraphMetrics, PointMetrics, as_table, gini, graph_metrics, graph_summary
from lrp_hooks.segments import Segment

Edge = tuple[int, int, int, int, float]
"""Row below, row above, source, target, weight."""


def graph_of(
    edges: list[Edge],
    relevance: list[list[float]],
    position: int | None = None,
    points: tuple[float, ...] | None = None,
) -> AttributionGraph:
    columns = [torch.tensor([e[i] for e in edges], dtype=torch.int64) for i in range(4)]
    width = len(relevance[0])
    return AttributionGraph(
        relevance=torch.tensor(relevance),
        below=columns[0],
        above=columns[1],
        source=columns[2],
        target=columns[3],
        weight=torch.tensor([e[4] for e in edges], dtype=torch.float32),
        points=points or tuple(range(len(relevance))),
        position=width - 1 if position is None else position,
        tokens=tuple(str(i) for i in range(width)),
        transitions=(),
    )


# The formulas, slowly ------------------------------------------------------------------------------------------------


def slow_gini(values: Iterable[Fraction], alone: int = 0) -> Fraction:
    ordered = sorted(values)
    n, total = len(ordered), sum(ordered, Fraction(0))
    if n == 1:
        return Fraction(alone)
    if total == 0:
        return Fraction(0)
    return sum(((2 * i - n - 1) * x for i, x in enumerate(ordered, 1)), Fraction(0)) / (n * total)


def share(part: Any, whole: Any) -> Any:
    return None if whole == 0 else Fraction(part) / Fraction(whole)


def slow_metrics(graph: AttributionGraph, rows: set[int], wrong: str = "") -> dict[str, Any]:
    """Every field of `Metrics` for the nodes of some rows; ``wrong`` names one deliberate mistake."""
    width = len(graph.tokens)
    columns = (graph.below, graph.above, graph.source, graph.target, graph.weight)
    edges = [
        ((b, s), (a, t), Fraction(w) if wrong == "signed" else abs(Fraction(w)))
        for b, a, s, t, w in zip(*(c.tolist() for c in columns), strict=True)
    ]
    if wrong == "turned":
        edges = [(upper, lower, w) for lower, upper, w in edges]
    every = {(len(graph.points) - 1, graph.position)} | {e[0] for e in edges} | {e[1] for e in edges}
    if wrong == "without the final node":
        every = {e[0] for e in edges} | {e[1] for e in edges}
    if wrong == "all positions":
        every = {(r, p) for r in range(len(graph.points)) for p in range(width)}
    nodes = sorted(node for node in every if node[0] in rows)
    incoming = {node: [e for e in edges if e[1] == node] for node in nodes}
    outgoing = {node: [e for e in edges if e[0] == node] for node in nodes}
    into = [e for node in nodes for e in incoming[node]]
    out = [e[2] for node in nodes for e in outgoing[node]]
    relevance = {(r, p): Fraction(float(graph.relevance[r, p])) for r, p in nodes}
    size = {node: abs(value) for node, value in relevance.items()}
    if wrong == "signed relevance":
        size = relevance
    total, weight = sum(size.values(), Fraction(0)), sum((e[2] for e in into), Fraction(0))
    carried, carriers = Fraction(0), 0
    for value in sorted(size.values(), reverse=True):
        if carried < (Fraction(9, 10) - Fraction(1, 10**9)) * total:
            carried, carriers = carried + value, carriers + 1
    degree = {node: len(incoming[node]) + len(outgoing[node]) for node in nodes}
    mean = Fraction(sum(degree.values()), max(len(nodes), 1))
    free = 1 if wrong == "sample deviation" else 0
    variance = sum(((d - mean) ** 2 for d in degree.values()), Fraction(0)) / max(len(nodes) - free, 1)
    hubs = [node for node in nodes if degree[node] > mean and (degree[node] - mean) ** 2 > variance]
    alone = 1 if wrong == "one edge is unequal" else 0
    node_gini = {
        side: sum((slow_gini((e[2] for e in of[node]), alone) for node in nodes), Fraction(0))
        for side, of in (("in", incoming), ("out", outgoing))
    }
    back = [(1 if wrong == "unweighted lookback" else w, t - s) for (_, s), (_, t), w in into]
    return {
        "node_count": len(nodes),
        "edge_count": len(into),
        "edge_node_ratio": share(len(into), len(nodes)),
        "sparsity": 1 - Fraction(len(nodes), width * len(rows)),
        "mean_fan_in": share(sum(len(v) for v in incoming.values()), len(nodes)),
        "mean_fan_out": share(sum(len(v) for v in outgoing.values()), len(nodes)),
        "total_relevance": total,
        "mean_relevance": share(total, len(nodes)),
        "gini_relevance": slow_gini(size.values()),
        "carrier_count": carriers,
        "positive_count": sum(value > 0 for value in relevance.values()),
        "negative_count": sum(value < 0 for value in relevance.values()),
        "total_weight": weight,
        "mean_outgoing_weight": share(sum(out, Fraction(0)), len(out)),
        "gini_outgoing_weight": slow_gini(out),
        "mean_node_gini_in": share(node_gini["in"], len(nodes)),
        "mean_node_gini_out": share(node_gini["out"], len(nodes)),
        "verticality": share(sum((e[2] for e in into if e[0][1] == e[1][1]), Fraction(0)), weight),
        "centre_of_mass": share(sum((v * node[1] for node, v in size.items()), Fraction(0)), total),
        "mean_lookback": share(sum((w * d for w, d in back), Fraction(0)), sum((w for w, _ in back), Fraction(0))),
        "lookback_zero_share": share(sum(d == 0 for _, d in back), len(back)),
        "hubs": tuple((graph.points[r], p) for r, p in hubs),
    }


def agree(found: Any, want: dict[str, Any]) -> bool:
    """Equal field by field: counts, hubs and None exactly, the rest to 1e-9."""
    for name, value in want.items():
        mine = getattr(found, name)
        if isinstance(value, Fraction):
            if not (isinstance(mine, float) and mine == pytest.approx(float(value), rel=1e-9, abs=1e-12)):
                return False
        elif mine != value or type(mine) is not type(value):
            return False
    return True


def random_graph(seed: int) -> AttributionGraph:
    """1 to 5 points, 1 to 9 columns, few to all edges (some skip a point), values with ties, zeros and huge ranges."""
    draw = random.Random(seed)
    rows, width, density = draw.randint(1, 5), draw.randint(1, 9), draw.choice([0.0, 0.1, 0.4, 1.0])
    palette: list[list[float]] = [[1.0], [0.0], [0.5, -0.5, 0.0, 2.0], [1e-20, 1e10, -1.0], [-3.0, 0.125, 1e-3]]
    kind = draw.choice([None, *palette])

    def value() -> float:
        return draw.gauss(0, 1) ** 3 if kind is None else draw.choice(kind)

    pairs = [(b, a) for b in range(rows) for a in range(b + 1, rows) if a == b + 1 or draw.random() < 0.2]
    ends = [(b, a, s, t) for b, a in pairs for t in range(width) for s in range(t + 1) if draw.random() < density]
    draw.shuffle(ends)
    relevance = [[value() for _ in range(width)] for _ in range(rows)]
    points = draw.choice([None, tuple(0.5 * i for i in range(rows))])
    return graph_of([(*e, value()) for e in ends], relevance, draw.randrange(width), points)


# Tests ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", range(0, 400, 50))
def test_every_metric_equals_the_formulas(start: int) -> None:
    for seed in range(start, start + 50):
        graph = random_graph(seed)
        points = graph_metrics(graph)
        assert [m.point for m in points] == list(graph.points)
        for row, found in enumerate(points):
            want = slow_metrics(graph, {row})
            assert agree(found, want), (seed, row, found, want)
        every = set(range(len(graph.points)))
        assert agree(graph_summary(graph), slow_metrics(graph, every)), seed


@pytest.mark.parametrize(
    "wrong",
    [
        "signed",
        "turned",
        "without the final node",
        "all positions",
        "signed relevance",
        "sample deviation",
        "one edge is unequal",
        "unweighted lookback",
    ],
)
def test_the_comparison_notices_a_wrong_definition(wrong: str) -> None:
    graphs = [random_graph(seed) for seed in range(100)]
    rows = [(graph, row) for graph in graphs for row in range(len(graph.points))]
    assert any(not agree(graph_metrics(graph)[row], slow_metrics(graph, {row}, wrong)) for graph, row in rows)


def test_a_graph_of_a_model_has_the_same_metrics() -> None:
    trace = instrument(build("qwen2", dtype=torch.float32)).trace(input_ids=inputs("qwen2"))
    for connected in (True, False):
        graph = trace.graph(LogitDiff(5, 7), node_threshold=0.05, top_p=0.7, connected=connected)
        points = graph_metrics(graph)
        assert all(agree(found, slow_metrics(graph, {row})) for row, found in enumerate(points))
        assert sum(m.edge_count for m in points) == len(graph)
        assert sum(m.node_count for m in points) == len(graph.nodes) == graph_summary(graph).node_count
        assert points[-1].lookback_zero_share is not None


def test_numbers_by_hand() -> None:
    """Two points, four tokens: token 3 hears 1, 2 and 3 of weight 1, -2, 5; token 1 hears itself, weight -4."""
    edges = [(0, 1, 1, 3, 1.0), (0, 1, 2, 3, -2.0), (0, 1, 3, 3, 5.0), (0, 1, 1, 1, -4.0)]
    low, high = graph_metrics(graph_of(edges, [[7.0, 1.0, -1.0, 2.0], [0.0, -3.0, 5.0, 9.0]]))
    assert (low.node_count, low.edge_count, low.edge_node_ratio, low.sparsity) == (3, 0, 0.0, 0.25)
    assert (high.node_count, high.edge_count, high.edge_node_ratio, high.sparsity) == (2, 4, 2.0, 0.5)
    assert (low.mean_fan_in, low.mean_fan_out) == (0.0, pytest.approx(4 / 3))
    assert (high.mean_fan_in, high.mean_fan_out) == (2.0, 0.0)
    assert (low.total_relevance, low.positive_count, low.negative_count) == (4.0, 2, 1)
    assert low.gini_relevance == pytest.approx((-2 * 1 + 0 * 1 + 2 * 2) / (3 * 4))
    assert (high.mean_relevance, high.gini_relevance) == (6.0, pytest.approx((9 - 3) / (2 * 12)))
    assert (low.carrier_count, high.carrier_count) == (3, 2)
    assert (low.total_weight, high.total_weight) == (0.0, 12.0)
    assert (low.mean_outgoing_weight, high.mean_outgoing_weight) == (3.0, None)
    assert low.gini_outgoing_weight == pytest.approx((-3 * 1 - 1 * 2 + 1 * 4 + 3 * 5) / (4 * 12))
    assert low.mean_node_gini_out == pytest.approx(((4 - 1) / (2 * 5) + 0 + 0) / 3)
    assert high.mean_node_gini_in == pytest.approx((0 + (-2 * 1 + 2 * 5) / (3 * 8)) / 2)
    assert (low.verticality, high.verticality) == (None, pytest.approx((5 + 4) / 12))
    assert low.centre_of_mass == (1 * 1 + 1 * 2 + 2 * 3) / 4
    assert (low.mean_lookback, high.mean_lookback) == (None, pytest.approx((2 * 1 + 1 * 2) / 12))
    assert (low.lookback_zero_share, high.lookback_zero_share) == (None, 0.5)
    assert low.hubs == ((0, 1),)  # degrees 2, 1, 1: mean 4/3, standard deviation 0.47
    assert high.hubs == ()  # degrees 1, 3: 3 is mean + standard deviation exactly, not above


def test_ten_equal_nodes() -> None:
    """Nine carry 90 %; nothing is unequal, nobody is a hub."""
    (only,) = graph_metrics(graph_of([], [[0.1] * 10]))
    assert (only.node_count, only.carrier_count) == (1, 1)
    low, _ = graph_metrics(graph_of([(0, 1, i, i, 0.1) for i in range(10)], [[0.1] * 10] * 2))
    assert (low.node_count, low.carrier_count, low.hubs) == (10, 9, ())
    assert (low.gini_relevance, low.gini_outgoing_weight, low.centre_of_mass) == (0.0, 0.0, pytest.approx(4.5))


def test_gini_by_hand() -> None:
    values, group = torch.tensor([3.0, 0.0, 1.0, 5.0, 0.0, 0.0]), torch.tensor([0, 2, 0, 1, 2, 0])
    assert gini(values.double(), group, 4).tolist() == pytest.approx([(2 * 3 - 0) / (3 * 4), 0.0, 0.0, 0.0])
    crowd = torch.zeros(1000).double()
    crowd[0] = 1.0
    assert float(gini(crowd, torch.zeros(1000).long(), 1)) == pytest.approx(0.999)


def test_one_node_and_no_relevance() -> None:
    (only,) = graph_metrics(graph_of([], [[0.0]]))
    assert (only.node_count, only.edge_count, only.sparsity, only.hubs) == (1, 0, 0.0, ())
    assert (only.mean_relevance, only.gini_relevance, only.carrier_count) == (0.0, 0.0, 0)
    assert (only.centre_of_mass, only.verticality, only.mean_lookback, only.mean_outgoing_weight) == (None,) * 4
    empty, _ = graph_metrics(graph_of([], [[1.0, 2.0], [3.0, 4.0]]))
    assert (empty.node_count, empty.sparsity, empty.total_relevance) == (0, 1.0, 0.0)
    assert (empty.edge_node_ratio, empty.mean_relevance, empty.mean_node_gini_in) == (None,) * 3


def test_mid_points_and_segments_keep_their_names() -> None:
    edges = [(0, 1, 0, 1, 1.0), (1, 2, 1, 2, 3.0)]
    graph = graph_of(edges, [[1.0, 1.0, 2.0]] * 3, points=(0, 0.5, 1))
    object.__setattr__(graph, "segments", (Segment("a", 0, 100), Segment("b", 100, 101), Segment("c", 101, 200)))
    points = graph_metrics(graph)
    assert [m.point for m in points] == [0, 0.5, 1]
    assert [m.mean_lookback for m in points] == [None, 1.0, 1.0]  # in segments, not tokens
    assert points[1].centre_of_mass == 1.0
    assert [m.hubs for m in points] == [(), (), ()]
    assert graph_summary(graph).hubs == ((0.5, 1),)


def test_the_table_has_plain_numbers_and_the_same_columns() -> None:
    table = as_table(graph_metrics(random_graph(7)))
    assert all(list(row) == list(table[0]) for row in table)
    assert next(iter(table[0])) == "point"
    assert {type(value) for row in table for value in row.values()} <= {int, float, type(None)}
    assert set(table[0]) == (set(PointMetrics.__dataclass_fields__) - {"hubs"}) | {"hub_count"}
    file = io.StringIO()
    writer = csv.DictWriter(file, list(table[0]))
    writer.writerows(table)
    assert len(file.getvalue().splitlines()) == len(table)
    assert as_table([]) == []


def test_the_summary_pools_all_nodes() -> None:
    graph = random_graph(12)
    found = graph_summary(graph)
    assert isinstance(found, GraphMetrics)
    assert (found.point_count, found.position_count) == graph.relevance.shape
    assert found.edge_count == len(graph) > 0
    assert found.mean_fan_in == found.mean_fan_out == found.edge_node_ratio
