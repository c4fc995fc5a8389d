"""Pruning equals a dense sort; the graph's connected part, paths and decomposition; files that lie."""

from __future__ import annotations

import itertools
import json
import platform
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, inputs
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

import lrp_hooks
from lrp_hooks import AttributionGraph, LogitDiff, instrument
from lrp_hooks.errors import GraphError
from lrp_hooks.graph.prune import RowBlocks, keep_above, keep_columns, keep_top_p

CONTRAST = LogitDiff(5, 7)


def stream(matrix: Tensor, block: int = 7) -> RowBlocks:
    """The matrix in blocks of rows."""
    return RowBlocks(torch.arange(matrix.shape[0]).split(block), lambda rows: matrix[rows])


def matrices() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(31, 29, generator=generator)
    return {
        "random": normal,
        "heavy-tailed": normal.pow(7),
        "huge range": normal.sign() * torch.exp(20 * normal),
        "constant": torch.full((31, 29), -0.25),
        "ties": normal.mul(2).round() / 2,
        "zero": torch.zeros(31, 29),
        "one edge": torch.zeros(31, 29).index_put((torch.tensor(3), torch.tensor(4)), torch.tensor(2.0)),
        "tiny": normal * 1e-40,
        "rows that fall": normal * torch.exp(-torch.arange(31.0))[:, None],
        "rows that rise": normal * torch.exp(torch.arange(31.0))[:, None],
        "many small rows at the end": normal.abs()
        * torch.cat((torch.full((7,), 9.0), torch.full((24,), 1.0)))[:, None],
    }


def dense_top_p(matrix: Tensor, top_p: float) -> set[tuple[int, int]]:
    """Sort everything, cut where the mass is reached, keep ties."""
    size = matrix.abs().double()
    ordered = size.flatten().sort(descending=True).values
    ordered = ordered[ordered > 0]
    if not len(ordered):
        return set()
    if top_p == 1.0:  # nothing is small enough to be left out
        return {(int(j), int(i)) for j, i in torch.nonzero(size)}
    enough = torch.nonzero(ordered.cumsum(0) >= top_p * ordered.sum() * (1 - 1e-12)).flatten()
    smallest = ordered[int(enough[0])] if len(enough) else ordered[-1]
    return {(int(j), int(i)) for j, i in torch.nonzero(size >= smallest)}


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.85, 0.999, 1.0])
@pytest.mark.parametrize("name", matrices())
def test_streaming_top_p_equals_sort_and_cut(name: str, top_p: float) -> None:
    matrix = matrices()[name]
    kept = keep_top_p(stream(matrix), top_p)
    found = set(zip(kept.target.tolist(), kept.source.tolist(), strict=True))
    assert found == dense_top_p(matrix, top_p)
    assert torch.equal(kept.weight, matrix[kept.target, kept.source])
    assert kept.total_count == int((matrix != 0).sum())
    assert kept.total_mass == pytest.approx(float(matrix.abs().double().sum()), rel=1e-9)
    assert kept.kept_mass >= top_p * kept.total_mass * (1 - 1e-6)
    assert (kept.weight.abs().diff() <= 0).all()


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.85, 1.0])
@pytest.mark.parametrize("name", matrices())
def test_listed_edges_are_cut_like_a_matrix(name: str, top_p: float) -> None:
    matrix = matrices()[name]
    index = torch.cartesian_prod(torch.arange(31), torch.arange(29))
    kept = keep_columns((index[:, 0], index[:, 1], matrix.flatten()), top_p, None)
    assert set(zip(kept.target.tolist(), kept.source.tolist(), strict=True)) == dense_top_p(matrix, top_p)
    above = keep_columns((index[:, 0], index[:, 1], matrix.flatten()), top_p, 0.3)
    assert sorted(above.weight.tolist()) == sorted(matrix[matrix.abs() > 0.3].tolist())


def test_a_block_is_made_again_only_when_its_cut_was_too_high() -> None:
    made: list[int] = []

    def edges(rows: Tensor) -> Tensor:
        made.append(int(rows[0]))
        return matrix[rows]

    blocks = torch.arange(31).split(7)
    matrix = torch.randn(31, 29, generator=torch.Generator().manual_seed(0))
    keep_top_p(RowBlocks(blocks, edges), 0.85)
    assert made == [0, 7, 14, 21, 28]
    made.clear()
    matrix[:7] = 0
    matrix[:7, :29] = torch.eye(7, 29) * 50  # a few huge edges first: the cut is far above what the rest needs
    keep_top_p(RowBlocks(blocks, edges), 0.85)
    assert made == [0, 7, 14, 21, 28, 0]


@pytest.mark.parametrize("name", matrices())
def test_a_global_threshold_keeps_what_is_above_it(name: str) -> None:
    matrix = matrices()[name]
    kept = keep_above(stream(matrix), 0.3)
    want = {(int(j), int(i)) for j, i in torch.nonzero(matrix.abs() > 0.3)}
    assert set(zip(kept.target.tolist(), kept.source.tolist(), strict=True)) == want


@pytest.fixture(scope="module")
def lrp() -> Any:
    return instrument(build("qwen2", dtype=torch.float32))


def test_the_graph_holds_the_strongest_exact_edges(lrp: Any) -> None:
    trace = lrp.trace(input_ids=inputs("qwen2"))
    dense = trace.edge_matrices(CONTRAST)
    graph = trace.graph(CONTRAST, node_threshold=0.0, top_p=0.7, connected=False)
    relevance = trace.attribute(CONTRAST)
    assert torch.allclose(graph.relevance, relevance.layers[0])
    for (below, above), matrix in dense.items():
        edges = graph.between(below)
        found = set(zip(graph.target[edges].tolist(), graph.source[edges].tolist(), strict=True))
        assert found == dense_top_p(matrix, 0.7)
        assert (graph.above[edges] == above).all()
        assert torch.allclose(graph.weight[edges], matrix[graph.target[edges], graph.source[edges]], atol=1e-6)
        info = graph.transitions[below]
        assert info.kept == len(edges)
        assert info.kept_mass / info.total_mass >= 0.7
        assert info.dropped_relevance == pytest.approx(0.0, abs=1e-6)


def test_rows_of_weak_nodes_are_dropped_and_their_share_recorded(lrp: Any) -> None:
    trace = lrp.trace(input_ids=inputs("qwen2"))
    relevance = trace.attribute(CONTRAST).layers[0]
    total = relevance.abs().sum(1)
    for unit, threshold in (("logits", 0.2), ("value", 0.1), ("layer", 0.05)):
        graph = trace.graph(CONTRAST, node_threshold=threshold, node_unit=unit, top_p=1.0, connected=False)
        scale = {"logits": torch.ones(4), "value": torch.full((4,), abs(graph.about["value"])), "layer": total}[unit]
        for info in graph.transitions:
            strong = relevance[info.above].abs() > threshold * scale[info.above]
            dropped = relevance[info.above][~strong].abs().sum() / total[info.above]
            assert info.dropped_relevance == pytest.approx(float(dropped), abs=1e-5)
            targets = set(graph.target[graph.between(info.below)].tolist())
            assert targets <= set(torch.nonzero(strong).flatten().tolist())


def test_progress_counts_transitions(lrp: Any) -> None:
    steps: list[tuple[int, int]] = []
    lrp.trace(input_ids=inputs("qwen2")).graph(CONTRAST, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def graph_of(edges: list[tuple[int, int, int, float]], length: int = 4, position: int = 3) -> AttributionGraph:
    """(point below, source, target, weight) per edge."""
    columns = [torch.tensor([e[i] for e in edges]) for i in range(4)]
    points = max(e[0] for e in edges) + 2
    return AttributionGraph(
        relevance=torch.zeros(points, length),
        below=columns[0],
        above=columns[0] + 1,
        source=columns[1],
        target=columns[2],
        weight=columns[3].float(),
        points=tuple(range(points)),
        position=position,
        tokens=tuple("abcd"[:length]),
        special=(False,) * length,
        transitions=(),
    )


EDGES = [(0, 0, 1, 3.0), (0, 1, 1, -1.0), (0, 2, 2, 5.0), (1, 1, 3, 2.0), (1, 3, 3, 2.0), (1, 2, 2, 9.0)]


def test_the_connected_part_reaches_the_final_node() -> None:
    graph = graph_of(EDGES).connected()
    assert sorted(zip(graph.below.tolist(), graph.source.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 1), (1, 3)]
    up = graph_of(EDGES).descendants(0, 2)
    assert sorted(zip(up.below.tolist(), up.source.tolist(), strict=True)) == [(0, 2), (1, 2)]
    assert graph.nodes.tolist() == [[0, 0], [0, 1], [1, 1], [1, 3], [2, 3]]


def test_the_strongest_paths_equal_enumeration(lrp: Any) -> None:
    hand = graph_of(EDGES).strongest_paths(5)
    assert [(p.strength, [t for _, t in p.nodes]) for p in hand] == [(0.375, [0, 1, 3]), (0.125, [1, 1, 3])]
    graph = lrp.trace(input_ids=inputs("qwen2", length=6)).graph(CONTRAST, node_threshold=0, top_p=0.95)
    incoming: dict[tuple[int, int], float] = {}
    weights: dict[tuple[int, int, int], float] = {}
    for below, source, target, weight in zip(graph.below, graph.source, graph.target, graph.weight, strict=True):
        key = (int(below), int(source), int(target))
        weights[key] = abs(float(weight))
        incoming[key[0] + 1, key[2]] = incoming.get((key[0] + 1, key[2]), 0.0) + weights[key]
    every = []
    for way in itertools.product(range(6), repeat=3):
        nodes = (*way, graph.position)
        strength = 1.0
        for point in range(3):
            key = (point, nodes[point], nodes[point + 1])
            strength *= weights.get(key, 0.0) / incoming.get((point + 1, nodes[point + 1]), 1.0)
        every.append(strength)
    best = sorted((s for s in every if s > 0), reverse=True)[:8]
    assert [p.strength for p in graph.strongest_paths(8)] == pytest.approx(best, rel=1e-5)
    turned = replace(graph_of(EDGES), relevance=torch.tensor([[3.0, 1, 5, 2], [9, 2, -9, 2], [0, 0, 0, -1.0]]))
    # the final node is negative and its edges are positive: each path turns there, the second once more
    assert [(p.sign, [t for _, t in p.nodes]) for p in turned.strongest_paths(5)] == [(1, [0, 1, 3]), (-1, [1, 1, 3])]
    with pytest.raises(GraphError, match="count = 0"):
        graph.strongest_paths(0)


def test_the_decomposition_adds_up() -> None:
    parts = graph_of([(0, 0, 2, 1.0), (0, 1, 2, -3.0), (0, 2, 2, 5.0), (0, 3, 3, 7.0)]).decomposition(1, 2)
    assert (parts.own, parts.first, parts.others, parts.total) == (5.0, 1.0, -3.0, 3.0)


def test_a_saved_graph_is_the_same_graph(lrp: Any, tmp_path: Path) -> None:
    graph = lrp.trace(input_ids=inputs("qwen2")).graph(CONTRAST)
    loaded = AttributionGraph.load(graph.save(tmp_path / "g.safetensors"))
    for name in ("relevance", "below", "above", "source", "target", "weight", "input_ids"):
        assert torch.equal(getattr(loaded, name), getattr(graph, name))
    assert (loaded.tokens, loaded.transitions, loaded.about) == (graph.tokens, graph.transitions, graph.about)
    assert loaded.position == graph.position


def test_a_graph_says_where_it_comes_from(lrp: Any, tmp_path: Path) -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, "a")))
    tokenizer.name_or_path = "somebody/words"
    config = lrp.model.config
    known = {package: metadata.version(package) for package in ("torch", "transformers")}
    for name, commit, called in (("", None, "Qwen2ForCausalLM"), ("somebody/model", "c0ffee", "somebody/model")):
        config.name_or_path, config._commit_hash = name, commit
        graph = lrp.trace(input_ids=inputs("qwen2")).graph(CONTRAST, tokenizer=tokenizer if name else None)
        about = AttributionGraph.load(graph.save(tmp_path / "g.safetensors")).about
        assert about == graph.about
        assert about["model"] == called
        versions = about["origin"].pop("versions")
        expected = {"name": name, "revision": commit, "tokenizer": "somebody/words"} if name else {}
        assert about["origin"] == {"class": "Qwen2ForCausalLM", **expected}
        assert versions == {**known, "python": platform.python_version(), "lrp_hooks": lrp_hooks.__version__}
    config.name_or_path = str(tmp_path)
    assert lrp.trace(input_ids=inputs("qwen2")).graph(CONTRAST).about["model"] == tmp_path.name
    config.name_or_path = ""


def test_files_that_lie_are_named(lrp: Any, tmp_path: Path) -> None:
    good = lrp.trace(input_ids=inputs("qwen2")).graph(CONTRAST).save(tmp_path / "g.safetensors")
    data = good.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for content, message in (
        (data[: len(data) // 2], "damaged"),
        (b"", "damaged"),
        (b"\x80\x04pickle", "damaged"),
        (data.replace(b'\\"version\\": 3', b'\\"version\\": 9'), "version 9; this package reads versions 2 and 3"),
        (data.replace(b'\\"position\\": 11', b'\\"position\\": 99'), "position outside"),
    ):
        bad.write_bytes(content)
        assert content != data
        with pytest.raises(GraphError, match=message):
            AttributionGraph.load(bad)
    save_file({"x": torch.zeros(1)}, bad)
    with pytest.raises(GraphError, match="holds no attribution graph"):
        AttributionGraph.load(bad)
    save_file({"x": torch.zeros(1)}, bad, {"lrp_hooks.graph": json.dumps({"format": "lrp_hooks.graph", "version": 2})})
    with pytest.raises(GraphError, match="damaged"):
        AttributionGraph.load(bad)
    with pytest.raises(GraphError, match="there is no file"):
        AttributionGraph.load(tmp_path / "nowhere.safetensors")


def test_impossible_graphs_are_clear_errors(lrp: Any) -> None:
    trace = lrp.trace(input_ids=inputs("qwen2"))
    for options, message in (
        ({"top_p": 0.0}, "must lie in"),
        ({"top_p": 1.5}, "must lie in"),
        ({"node_threshold": -1.0}, "must not be negative"),
        ({"edge_threshold": -1.0}, "must not be negative"),
        ({"node_unit": "percent"}, "choices: logits, value, layer"),
        ({"node_threshold": 1e9}, "no edge is left with node_threshold=1000000000.0"),
        ({"edge_threshold": 1e9}, "edge_threshold=1000000000.0"),
        ({"row": 3}, "row 3 is outside"),
    ):
        with pytest.raises(GraphError, match=message):
            trace.graph(CONTRAST, **options)
