"""The difference of two graphs: against dictionaries of edges, against the contrastive graph, and its bounds."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, inputs

from lrp_hooks import AttributionGraph, Logit, LogitDiff, instrument
from lrp_hooks.errors import GraphError
from lrp_hooks.graph.difference import difference
from lrp_hooks.graph.model import EdgeDetail, TransitionInfo
from lrp_hooks.segments import Segment

Key = tuple[int, int, int, int]
"""Row below, row above, source, target."""
FIRST, SECOND = Logit(5), Logit(7)
EVERYTHING = {"node_threshold": 0.0, "top_p": 1.0, "connected": False}


def graph_of(
    edges: dict[Key, float],
    rows: int = 3,
    width: int = 4,
    relevance: torch.Tensor | None = None,
    detail: EdgeDetail | None = None,
    **others: Any,
) -> AttributionGraph:
    columns = [torch.tensor([key[i] for key in edges], dtype=torch.int64) for i in range(4)]
    fields: dict[str, Any] = {
        "points": tuple(range(rows)),
        "position": width - 1,
        "tokens": tuple("abcdefghij"[:width]),
        "transitions": (),
    }
    return AttributionGraph(
        relevance=torch.zeros(rows, width) if relevance is None else relevance,
        below=columns[0],
        above=columns[1],
        source=columns[2],
        target=columns[3],
        weight=torch.tensor(list(edges.values()), dtype=torch.float32),
        detail=detail,
        **(fields | others),
    )


def keys_of(graph: AttributionGraph) -> list[Key]:
    columns = (graph.below, graph.above, graph.source, graph.target)
    return list(zip(*(c.tolist() for c in columns), strict=True))


def edges_of(graph: AttributionGraph) -> dict[Key, float]:
    edges = dict(zip(keys_of(graph), graph.weight.tolist(), strict=True))
    assert len(edges) == len(graph)
    return edges


def slow_difference(first: AttributionGraph, second: AttributionGraph) -> dict[Key, float]:
    ours, theirs = edges_of(first), edges_of(second)
    both = {key: ours.get(key, 0.0) - theirs.get(key, 0.0) for key in ours | theirs}
    return {key: weight for key, weight in both.items() if weight != 0}


def random_edges(draw: random.Random, rows: int, width: int) -> dict[Key, float]:
    pairs = [(b, a) for b in range(rows) for a in range(b + 1, rows) if a == b + 1 or draw.random() < 0.3]
    keys = [(b, a, s, t) for b, a in pairs for s in range(width) for t in range(width) if draw.random() < 0.4]
    draw.shuffle(keys)
    return {key: draw.choice([1.0, -0.5, 1e-30, draw.gauss(0, 1)]) for key in keys}


@pytest.mark.parametrize("seed", range(60))
def test_edges_equal_a_dictionary(seed: int) -> None:
    draw = random.Random(seed)
    rows, width = draw.randint(2, 5), draw.randint(1, 6)
    nodes = torch.randn(2, rows, width, generator=torch.Generator().manual_seed(seed))
    first = graph_of(random_edges(draw, rows, width), rows, width, nodes[0])
    second = graph_of(random_edges(draw, rows, width) if seed % 7 else {}, rows, width, nodes[1])
    made = difference(first, second)
    assert edges_of(made) == pytest.approx(slow_difference(first, second), rel=1e-6)
    assert edges_of(difference(second, first)) == {key: -weight for key, weight in edges_of(made).items()}
    assert torch.equal(made.relevance, nodes[0] - nodes[1])
    order = [(key[:2], -abs(weight)) for key, weight in edges_of(made).items()]
    assert order == sorted(order)
    assert {made.below.dtype, made.above.dtype, made.source.dtype, made.target.dtype} == {torch.int64}
    assert made.weight.dtype == torch.float32


def test_numbers_by_hand() -> None:
    first = graph_of({(0, 1, 0, 1): 3.0, (0, 1, 1, 1): 0.5, (1, 2, 1, 3): -1.0, (0, 2, 0, 3): 0.1})
    second = graph_of({(0, 1, 0, 1): 1.0, (0, 1, 1, 1): 0.5, (0, 1, 2, 2): -4.0})
    made = difference(first, second)
    assert list(edges_of(made).items()) == [
        ((0, 1, 2, 2), 4.0),
        ((0, 1, 0, 1), 2.0),
        ((0, 2, 0, 3), pytest.approx(0.1)),
        ((1, 2, 1, 3), -1.0),
    ]
    assert made.about["edges"] == {"only_first": 2, "only_second": 1, "unbounded": 3}


def test_a_graph_minus_itself_and_minus_nothing() -> None:
    graph = graph_of(random_edges(random.Random(1), 3, 4), relevance=torch.randn(3, 4))
    nothing = difference(graph, graph)
    assert len(nothing) == 0
    assert not nothing.relevance.any()
    assert nothing.about["edges"] == {"only_first": 0, "only_second": 0, "unbounded": 0}
    empty = graph_of({})
    assert edges_of(difference(graph, empty)) == edges_of(graph)
    assert edges_of(difference(empty, graph)) == {key: -weight for key, weight in edges_of(graph).items()}
    assert len(difference(empty, empty)) == 0


def test_large_keys_do_not_collide() -> None:
    rows, width = 3, 300_000
    last = width - 1
    texts = ("x",) * width
    first = graph_of({(1, 2, last, last): 2.0, (1, 2, last, 0): 1.0}, rows, width, tokens=texts)
    second = graph_of({(1, 2, 0, last): 1.0, (0, 1, last, last): 1.0}, rows, width, tokens=texts)
    assert edges_of(difference(first, second)) == slow_difference(first, second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": ("a", "b", "x", "d")}, "token 2 is 'c' in the first and 'x' in the second"),
        ({"width": 3}, "4 tokens in the first and 3 in the second"),
        ({"rows": 4}, "3 residual points in the first and 4 in the second"),
        ({"points": (0, 0.5, 1)}, r"residual point 1 is 1 in the first and 0\.5 in the second"),
        ({"position": 1}, "position 3 is explained in the first and 1 in the second"),
        ({"segments": tuple(Segment(n, i, i + 1) for i, n in enumerate("abcd"))}, "columns are tokens in the first"),
    ],
)
def test_graphs_that_do_not_match_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        difference(graph_of({}), graph_of({}, **change))


def test_segments_must_hold_the_same_tokens() -> None:
    cuts = [tuple(Segment(n, 2 * i, 2 * i + 2) for i, n in enumerate("abcd"))]
    cuts.append((*cuts[0][:3], Segment("d", 6, 9)))
    graphs = [graph_of({(0, 1, 0, 1): 1.0}, segments=cut) for cut in cuts]
    assert difference(graphs[0], graphs[0]).segments == cuts[0]
    with pytest.raises(GraphError, match=r"segment 3 is Segment\(name='d', start=6, stop=8\) in the first"):
        difference(*graphs)


def info(below: int, threshold: float, kept: int, total: int, **others: Any) -> TransitionInfo:
    numbers: dict[str, Any] = {"kept_mass": 5.0, "total_mass": 6.0, "dropped_relevance": 0.1}
    return TransitionInfo(below, below + 1, threshold, kept, total, **(numbers | others))


def test_transitions_carry_the_larger_threshold() -> None:
    first = graph_of({(0, 1, 0, 1): 3.0, (0, 1, 1, 1): -2.0}, transitions=(info(0, 2.0, 2, 7), info(1, 9.0, 1, 1)))
    second = graph_of(
        {(0, 1, 0, 1): 1.0},
        transitions=(info(0, 0.5, 3, 4, kept_mass=4.0, total_mass=4.5, dropped_relevance=0.3, method="packed"),),
    )
    made, unknown = difference(first, second).transitions
    assert (made.below, made.above, made.threshold, made.dropped_relevance) == (0, 1, 2.0, 0.3)
    assert (made.kept, made.kept_mass) == (2, 4.0)
    assert made.total == 2 + (7 - 2) + (4 - 1)  # the second holds one of the edges that it saw
    assert made.total_mass == 4.0 + (6.0 - 5.0) + (4.5 - 1.0)
    assert made.method == "exact, packed"
    assert (unknown.below, unknown.threshold) == (1, float("inf"))  # the second says nothing about this transition


def test_about_input_ids_and_special_columns() -> None:
    ids = torch.tensor([3, 1, 4, 1])
    ours = {"model": "M", "target": "a", "value": 2.5, "composite": "attnlrp"}
    first = graph_of({}, about=ours, input_ids=ids, special=(True, False, False, False))
    second = graph_of({}, about=ours | {"target": "b", "value": 1.0, "extra": [1]}, input_ids=ids.clone())
    made = difference(first, second)
    assert (made.about["first"], made.about["second"]) == (first.about, second.about)
    assert (made.about["model"], made.about["target"], made.about["value"]) == ("M", "(a) - (b)", 1.5)
    assert made.input_ids is not None
    assert made.special == (True, False, False, False)
    assert difference(first, replace(second, input_ids=ids + 1)).input_ids is None
    assert difference(first, replace(second, input_ids=None)).input_ids is None
    assert set(difference(graph_of({}), first).about) == {"first", "second", "edges"}


def detail_of(*edges: tuple[float, float, float, int, float]) -> EdgeDetail:
    value, key, query, head, weight = (torch.tensor(column) for column in zip(*edges, strict=True))
    return EdgeDetail(value, key, query, head, weight)


def test_paths_are_subtracted_and_heads_kept_where_they_agree() -> None:
    a, b, c, d, e = (0, 1, 0, 1), (0, 1, 1, 1), (0, 1, 2, 2), (0, 1, 3, 3), (1, 2, 0, 0)
    ours = detail_of(
        (1.0, 2.0, 0.0, 4, 3.0), (1.0, 0.0, 0.5, 2, 1.0), (5.0, 1.0, 0.0, 7, 6.0), (0.0, 0.0, 0.0, -1, 0.0)
    )
    theirs = detail_of((0.5, 1.0, 0.0, 4, 1.5), (0.5, 0.0, 0.0, 3, 0.5), (2.0, 0.0, 1.0, 6, 2.0))
    first = graph_of({a: 10.0, b: 9.0, c: 8.0, d: 7.0}, detail=ours)
    second = graph_of({a: 1.0, b: 3.0, e: 4.0}, detail=theirs)
    made = difference(first, second)
    assert made.detail is not None
    rows = zip(
        *(getattr(made.detail, n).tolist() for n in ("value", "key", "query", "head", "head_weight")), strict=True
    )
    assert dict(zip(keys_of(made), rows, strict=True)) == {
        a: (0.5, 1.0, 0.0, 4, 1.5),
        b: (0.5, 0.0, 0.5, -1, 0.0),  # two heads: neither is the difference's
        c: (5.0, 1.0, 0.0, 7, 6.0),
        d: (0.0, 0.0, 0.0, -1, 0.0),
        e: (-2.0, 0.0, -1.0, 6, -2.0),
    }
    assert difference(first, replace(second, detail=None)).detail is None
    assert difference(replace(first, detail=None), second).detail is None


@pytest.fixture(scope="module")
def trace() -> Any:
    return instrument(build("qwen2", dtype=torch.float32)).trace(input_ids=inputs("qwen2"))


def test_the_contrastive_graph_is_the_difference_of_two_logits(trace: Any, tmp_path: Path) -> None:
    made = difference(trace.graph(FIRST, **EVERYTHING), trace.graph(SECOND, **EVERYTHING))
    want = trace.graph(LogitDiff(5, 7), **EVERYTHING)
    assert torch.allclose(made.relevance, want.relevance, atol=1e-5)
    ours, theirs = edges_of(made), edges_of(want)
    assert max(abs(ours.get(key, 0.0) - theirs.get(key, 0.0)) for key in ours | theirs) < 1e-5
    assert made.about["value"] == pytest.approx(want.about["value"], abs=1e-5)
    loaded = AttributionGraph.load(made.save(tmp_path / "d.safetensors"))
    assert edges_of(loaded) == ours
    assert (loaded.about, loaded.transitions) == (made.about, made.transitions)


@pytest.mark.parametrize("connected", [False, True])
def test_what_pruning_hides_stays_within_the_bounds(trace: Any, connected: bool) -> None:
    """Edges into a node with edges in both graphs: off by less than the threshold, and missing below the sum."""
    graphs = [trace.graph(t, node_threshold=0.01, top_p=0.6, connected=connected) for t in (FIRST, SECOND)]
    made = difference(*graphs)
    truth = edges_of(trace.graph(LogitDiff(5, 7), **EVERYTHING))
    rows = [{(key[1], key[3]) for key in edges_of(graph)} for graph in graphs]
    bound = {info.below: info.threshold for info in made.transitions}
    sums = {a.below: a.threshold + b.threshold for a, b in zip(*(g.transitions for g in graphs), strict=True)}
    shown, checked = edges_of(made), 0
    for key, weight in truth.items():
        if (key[1], key[3]) in rows[0] & rows[1]:
            checked += 1
            limit = bound[key[0]] if key in shown else sums[key[0]]
            assert abs(weight - shown.get(key, 0.0)) < limit * (1 + 1e-5)
    assert checked > 30
    only = [set(edges_of(a)) - set(edges_of(b)) for a, b in (graphs, graphs[::-1])]
    unbounded = sum((key[1], key[3]) not in rows[1 - i] for i in (0, 1) for key in only[i])
    assert made.about["edges"] == {"only_first": len(only[0]), "only_second": len(only[1]), "unbounded": unbounded}
