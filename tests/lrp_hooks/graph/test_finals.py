"""Graphs with several final nodes: of targets and heads that read several positions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import networkx
import pytest
import torch
from dense_graphs import dense
from families import build, exact_float64, inputs
from safetensors import safe_open
from safetensors.torch import save_file

from lrp_hooks import AttributionGraph, LogitDiff, LogProb, SequenceLogProb, SequenceLogProbDiff, instrument
from lrp_hooks.errors import GraphError
from lrp_hooks.graph.difference import difference
from lrp_hooks.graph.export import to_circuit_tracer, to_networkx
from lrp_hooks.graph.export.columns import tabulate
from lrp_hooks.graph.export.influence import influence
from lrp_hooks.graph.io import FORMAT
from lrp_hooks.graph.metrics import graph_metrics
from lrp_hooks.render.graph_layout import readable
from lrp_hooks.render.graph_page import page_data
from lrp_hooks.segments import chunks

WHOLE: Any = {"node_threshold": 0, "top_p": 1.0}


@pytest.fixture(scope="module")
def lrp() -> Iterator[Any]:
    with exact_float64(), instrument(build("qwen2", dtype=torch.float64)) as instrumentation:
        yield instrumentation


def hand(
    edges: list[tuple[int, int, int, float]], last: list[float], positions: tuple[int, ...], **changes: Any
) -> AttributionGraph:
    """(point below, source, target, weight) per edge; R at the last point."""
    below, source, target, weight = zip(*edges, strict=True)
    points = max(below) + 2
    values: dict[str, Any] = {
        "relevance": torch.tensor([[0.0] * len(last)] * (points - 1) + [last]),
        "below": torch.tensor(below),
        "above": torch.tensor(below) + 1,
        "source": torch.tensor(source),
        "target": torch.tensor(target),
        "weight": torch.tensor(weight),
        "points": tuple(range(points)),
        "position": positions[-1],
        "positions": positions,
        "tokens": tuple("abcdefgh"[: len(last)]),
        "special": (False,) * len(last),
        "transitions": (),
        "about": {"target": "log p(tokens 2:4)", "value": 1.0},
    }
    return AttributionGraph(**{**values, **changes})


EDGES = [
    (0, 0, 1, 3.0),
    (0, 1, 1, -1.0),
    (0, 2, 2, 5.0),
    (1, 1, 3, 2.0),
    (1, 2, 3, 6.0),
    (1, 1, 2, 1.0),
    (1, 0, 0, 9.0),
]
TWO = hand(EDGES, [0.0, 0.0, -1.0, 3.0], (2, 3))


@pytest.mark.parametrize("mid", [False, True])
def test_the_graph_of_a_span_is_the_sum_of_its_positions_graphs(lrp: Any, mid: bool) -> None:
    """A span's log-probability is a sum, and relevance and edges are linear in the gradient."""
    ids = inputs("qwen2")
    trace = lrp.trace(input_ids=ids)
    span = trace.graph(SequenceLogProb(5, 9), mid=mid, **WHOLE)
    parts = [trace.graph(LogProb(int(ids[0, p + 1]), position=p), mid=mid, **WHOLE) for p in range(4, 8)]
    assert span.positions == (4, 5, 6, 7)
    assert [part.positions for part in parts] == [(4,), (5,), (6,), (7,)]
    expected, relevance = sum(map(dense, parts)), sum(part.relevance.double() for part in parts)
    rounding = 8 * torch.finfo(torch.float32).eps  # of a graph's float32 numbers
    assert (dense(span) - expected).abs().max() <= rounding * sum(dense(part).abs() for part in parts).max()
    assert (span.relevance - relevance).abs().max() <= rounding * sum(p.relevance.abs() for p in parts).max()
    assert span.about["value"] == pytest.approx(sum(part.about["value"] for part in parts), rel=1e-9)
    assert len(span) > 0


def test_a_span_in_a_padded_batch_has_the_positions_of_its_row(lrp: Any) -> None:
    ids = inputs("qwen2", batch=2)
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    graph = lrp.trace(input_ids=ids, attention_mask=mask).graph(SequenceLogProb(-2), row=1, **WHOLE)
    alone = lrp.trace(input_ids=ids[1:, 3:]).graph(SequenceLogProb(-2), **WHOLE)
    assert (graph.positions, alone.positions) == ((9, 10), (6, 7))
    assert torch.allclose(dense(graph)[:, 3:, 3:], dense(alone), atol=1e-6)


def test_each_half_of_two_continuations_has_its_graph(lrp: Any) -> None:
    prompt, target, contrast = inputs("qwen2")[0], torch.tensor([5, 6, 9]), torch.tensor([7])
    trace = lrp.trace_continuations(prompt, target, contrast)
    graphs = [trace.graph(SequenceLogProbDiff(), row=row, **WHOLE) for row in (0, 1)]
    assert [graph.positions for graph in graphs] == [(11, 12, 13), (11,)]
    for graph, span, sign in zip(graphs, (target, contrast), (1, -1), strict=True):
        alone = lrp.trace(input_ids=torch.cat((prompt, span))[None]).graph(SequenceLogProb(12), **WHOLE)
        length = len(alone.tokens)
        assert torch.allclose(dense(graph)[:, :length, :length], sign * dense(alone), atol=1e-6)


def test_segments_that_hold_the_positions_are_the_final_nodes(lrp: Any) -> None:
    trace = lrp.trace(input_ids=inputs("qwen2"))
    parts = chunks(["a"] * 12, 3)
    graph = trace.graph(SequenceLogProb(5, 9), segments=parts, **WHOLE)
    assert graph.positions == (1, 2)
    tokens = dense(trace.graph(SequenceLogProb(5, 9), **WHOLE))
    summed = tokens.reshape(3, 4, 3, 4, 3).sum((2, 4))
    assert torch.allclose(dense(graph), summed, atol=1e-5)


def test_the_connected_part_reaches_any_final_node() -> None:
    graph = TWO.connected()
    kept = set(zip(graph.below.tolist(), graph.source.tolist(), graph.target.tolist(), strict=True))
    assert kept == {(0, 0, 1), (0, 1, 1), (0, 2, 2), (1, 1, 3), (1, 2, 3), (1, 1, 2)}
    only = replace(TWO, positions=(2,), position=2).connected()
    assert set(zip(only.below.tolist(), only.target.tolist(), strict=True)) == {(0, 1), (1, 2)}


def test_the_strongest_paths_to_any_final_node_equal_enumeration() -> None:
    """Strength: the final node's share of sum |R| (1/4 and 3/4) times the shares of the edges."""
    weights = {(b, s, t): abs(w) for b, s, t, w in EDGES}
    into: dict[tuple[int, int], float] = {}
    for (below, _, target), weight in weights.items():
        into[below, target] = into.get((below, target), 0.0) + weight
    expected = []
    for a, b, c in itertools.product(range(4), range(4), (2, 3)):
        share = {2: 0.25, 3: 0.75}[c]
        for below, source, target in ((0, a, b), (1, b, c)):
            share *= weights.get((below, source, target), 0.0) / into.get((below, target), 1.0)
        if share:
            expected.append((share, (a, b, c)))
    found = TWO.strongest_paths(20)
    assert [path.strength for path in found] == pytest.approx(sorted((s for s, _ in expected), reverse=True))
    assert {tuple(t for _, t in path.nodes) for path in found} == {way for _, way in expected}
    assert sum(path.strength for path in found) == pytest.approx(1.0)
    assert TWO.strongest_paths(2) == found[:2]
    assert [path.sign for path in found if path.nodes[-1][1] == 2] == [1, -1], "R < 0 there, its edge is positive"


def test_every_final_node_counts_as_a_node() -> None:
    lonely = hand(EDGES[:1], [1.0, 1.0, 0.0, 2.0], (0, 1, 3))
    assert lonely.nodes.tolist() == [[0, 0], [1, 0], [1, 1], [1, 3]]
    assert [point.node_count for point in graph_metrics(lonely)] == [1, 3]
    assert lonely.finals == ((1, 0), (1, 1), (1, 3))
    assert lonely.final == (1, 3)
    assert lonely.final_shares == (0.25, 0.25, 0.5)


def test_exports_name_every_final_node() -> None:
    made = to_circuit_tracer(TWO)
    logits = {node["ctx_idx"]: node for node in made["nodes"] if node["is_target_logit"]}
    assert {column: node["token_prob"] for column, node in logits.items()} == {2: 0.25, 3: 0.75}
    assert len({node["layer"] for node in logits.values()}) == 1
    assert 'Output "log p(tokens 2:4)" at d = +3.000 logits' in logits[3]["clerp"]
    assert {link["target"] for link in made["links"]} >= {node["node_id"] for node in logits.values()}
    nodes, edges = tabulate(TWO)
    passing = dict(zip(nodes.id, influence(nodes, edges, {7: 0.25, 8: 0.75}).tolist(), strict=True))
    by_hand = {"0:0": 0.328125, "0:1": 0.109375, "0:2": 0.5625, "1:1": 0.4375, "1:2": 0.5625, "2:2": 0.25, "2:3": 0.75}
    assert {name: share for name, share in passing.items() if share} == by_hand
    graph = to_networkx(TWO)
    assert isinstance(graph, networkx.DiGraph)
    assert (graph.graph["final"], graph.graph["finals"]) == ("2:3", '["2:2", "2:3"]')
    assert {"1:0", "1:1", "1:3"} <= set(to_networkx(hand(EDGES[:1], [1.0, 1.0, 0.0, 2.0], (0, 1, 3))))


def test_the_page_and_the_figure_show_all_final_nodes_or_the_largest() -> None:
    assert page_data(TWO, "", "red-blue")["positions"] == [2, 3]
    wide = hand([(0, i, i, float(i + 1)) for i in range(8)], [float(i + 1) for i in range(8)], tuple(range(8)))
    drawn = readable(wide, columns=4)
    assert drawn.positions == (6, 7)
    assert set(drawn.nodes[:, 1].tolist()) == {4, 5, 6, 7}


def test_a_saved_graph_keeps_its_positions_and_older_files_are_read(tmp_path: Path) -> None:
    path = TWO.save(tmp_path / "two.safetensors")
    assert AttributionGraph.load(path).positions == (2, 3)
    one = replace(TWO, positions=(3,)).save(tmp_path / "one.safetensors")
    with safe_open(one, "pt") as file:
        header, tensors = file.metadata()[FORMAT], {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    old = header.replace('"version": 3', '"version": 2').replace('"positions": [3], ', "")
    assert old.count("positions") == 0
    save_file(tensors, tmp_path / "old.safetensors", {FORMAT: old})
    loaded = AttributionGraph.load(tmp_path / "old.safetensors")
    assert (loaded.position, loaded.positions) == (3, (3,))
    wrong = {FORMAT: header.replace('"positions": [3]', '"positions": [3, 2]')}
    save_file(tensors, tmp_path / "bad.safetensors", wrong)
    with pytest.raises(GraphError, match=r"damaged.*must ascend"):
        AttributionGraph.load(tmp_path / "bad.safetensors")


def test_graphs_of_other_positions_have_no_difference() -> None:
    with pytest.raises(GraphError, match=r"positions 2, 3 are explained in the first and 3 in"):
        difference(TWO, replace(TWO, positions=(3,)))
    assert len(difference(TWO, replace(TWO, weight=2 * TWO.weight))) == len(TWO)
    assert difference(TWO, replace(TWO, weight=2 * TWO.weight)).positions == (2, 3)


def test_a_target_at_one_position_has_one_final_node(lrp: Any) -> None:
    trace = lrp.trace(input_ids=inputs("qwen2"))
    assert trace.graph(LogitDiff(5, 7)).positions == (11,)
    assert trace.attribute(LogitDiff(5, 7)).position is not None
    assert trace.attribute(SequenceLogProb(5)).position is None
