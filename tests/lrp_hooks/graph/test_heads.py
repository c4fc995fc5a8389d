"""Graphs that know the paths of every head: against dense matrices, summed, saved, subtracted, printed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from families import build, exact_float64, inputs

from lrp_hooks import AttributionGraph, LogitDiff, instrument
from lrp_hooks.errors import GraphError
from lrp_hooks.graph import io
from lrp_hooks.graph.difference import difference
from lrp_hooks.graph.heads import head_sums
from lrp_hooks.graph.model import EdgeDetail

CONTRAST = LogitDiff(5, 7)
WHOLE: dict[str, Any] = {"node_threshold": 0, "top_p": 1.0, "connected": False}


def graph_of(name: str = "llama", target: Any = CONTRAST, **options: Any) -> AttributionGraph:
    with exact_float64(), instrument(build(name)) as lrp:
        return lrp.trace(input_ids=inputs(name)).graph(target, detail="heads", **{**WHOLE, **options})


def heads_of(graph: AttributionGraph) -> torch.Tensor:
    assert graph.detail is not None
    assert graph.detail.heads is not None
    return graph.detail.heads


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp", "gradient"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss", "mistral", "qwen3", "olmo2", "deepseek_v3"])
def test_heads_and_paths_are_those_of_dense_matrices(name: str, composite: str) -> None:
    with exact_float64(), instrument(build(name), composite) as lrp:
        trace = lrp.trace(input_ids=inputs(name))
        graph = trace.graph(CONTRAST, detail="heads", **WHOLE)
        plain = trace.graph(CONTRAST, detail=True, **WHOLE)
        paths, by_head = (trace.edge_matrices(CONTRAST, by=by) for by in ("path", "head"))
    heads = heads_of(graph)
    for row, (below, above) in enumerate(pairwise(range(len(graph.points)))):
        edges = torch.nonzero(graph.below == row).flatten()
        j, i = graph.target[edges], graph.source[edges]
        for path in range(3):
            want = paths[below, above][path][j, i].double()
            assert torch.allclose(heads[edges, :, path].double().sum(1), want, atol=1e-6)
        attention = heads[edges, :, :2].double().sum(2)
        assert torch.allclose(attention.T, by_head[below, above][:, j, i].double(), atol=1e-6)
        assert (heads[edges][j != i][:, :, 2] == 0).all()  # the query path stays where it is
    assert graph.detail is not None
    assert plain.detail is not None
    assert plain.detail.heads is None
    for name in ("value", "key", "query", "head_weight"):
        assert torch.allclose(getattr(graph.detail, name), getattr(plain.detail, name), atol=1e-6)
    assert torch.equal(graph.detail.head, plain.detail.head)


def test_checkpointed_padded_and_half_precision_graphs_know_their_heads_too() -> None:
    model, ids = build("llama"), inputs("llama")
    with exact_float64(), instrument(model) as lrp:
        plain = lrp.trace(input_ids=ids).graph(CONTRAST, detail="heads", **WHOLE)
    with exact_float64(), instrument(model, checkpoint=True) as lrp:
        again = lrp.trace(input_ids=ids).graph(CONTRAST, detail="heads", **WHOLE)
    assert torch.allclose(heads_of(again), heads_of(plain), atol=1e-7)
    gap = torch.zeros(1, 3, dtype=torch.long)
    mask = torch.cat((gap, torch.ones_like(ids)), 1)
    with exact_float64(), instrument(model) as lrp:
        padded = lrp.trace(input_ids=torch.cat((gap, ids), 1), attention_mask=mask)
        shifted = padded.graph(CONTRAST, detail="heads", **WHOLE)
    assert torch.allclose(heads_of(shifted), heads_of(plain), atol=1e-6)
    with instrument(build("llama", dtype=torch.bfloat16)) as lrp:
        low = lrp.trace(input_ids=ids).graph(CONTRAST, detail="heads", **WHOLE)
    assert torch.isfinite(heads_of(low)).all()
    assert heads_of(low).dtype == torch.float32


def test_edges_keep_their_heads_when_they_are_chosen_saved_and_loaded(tmp_path: Path) -> None:
    graph = graph_of("qwen2", mid=True)
    heads = heads_of(graph)
    local = torch.tensor(graph.points)[graph.below] % 1 != 0
    assert (heads[local] == 0).all()
    assert (heads[~local] != 0).any()
    some = torch.arange(len(graph)) % 3 == 0
    assert torch.equal(heads_of(graph.select(some)), heads[some])
    loaded = AttributionGraph.load(graph.save(tmp_path / "g.safetensors"))
    assert torch.equal(heads_of(loaded), heads)
    assert graph.connected().detail is not None
    assert len(heads_of(graph.connected())) == len(graph.connected())


def test_a_file_with_heads_of_other_edges_is_damaged(tmp_path: Path) -> None:
    graph = graph_of()
    assert graph.detail is not None
    wrong = replace(graph, detail=replace(graph.detail, heads=heads_of(graph)[1:]))
    with pytest.raises(GraphError, match="heads of other edges"):
        io.load_graph(io.save_graph(wrong, tmp_path / "g.safetensors"))


def test_heads_are_subtracted_with_their_edges() -> None:
    first, second = graph_of(), graph_of(target=LogitDiff(9, 7))
    subtracted = difference(first, second)
    made = heads_of(subtracted)
    table = dict(zip(keys(subtracted), made, strict=True))
    ours, theirs = (dict(zip(keys(g), heads_of(g), strict=True)) for g in (first, second))
    zero = torch.zeros(made.shape[1:])
    for key, heads in table.items():
        assert torch.allclose(heads.double(), ours.get(key, zero).double() - theirs.get(key, zero), atol=1e-6)
    assert second.detail is not None
    plain = replace(second, detail=replace(second.detail, heads=None))
    assert difference(first, plain).detail.heads is None  # type: ignore[union-attr]


def keys(graph: AttributionGraph) -> list[tuple[int, ...]]:
    columns = (graph.below, graph.above, graph.source, graph.target)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_details_of_blocks_with_different_heads_are_joined() -> None:
    def part(edges: int, heads: int) -> EdgeDetail:
        zeros = torch.zeros(edges)
        return EdgeDetail(zeros, zeros, zeros, zeros.long(), zeros, torch.ones(edges, heads, 3))

    joined = EdgeDetail.joined([part(2, 3), part(1, 0), part(3, 5)]).heads
    assert joined is not None
    assert joined.shape == (6, 5, 3)
    assert joined[..., 0].sum(1).tolist() == [3, 3, 0, 5, 5, 5]


def test_sums_say_which_heads_carry_a_graph() -> None:
    graph = graph_of()
    heads = torch.zeros(len(graph), 2, 3)
    own, moved = ((graph.source == graph.target), (graph.source != graph.target))
    in_first, in_second = (torch.nonzero((graph.below == row) & moved).flatten() for row in (0, 1))
    at_home = torch.nonzero((graph.below == 1) & own).flatten()
    heads[in_first[0], 1] = torch.tensor([-3.0, 1.0, 0.0])  # 2 between tokens
    heads[in_second[:2], 0] = torch.tensor([1.0, 1.5, 0.0])
    heads[at_home[0], 0] = torch.tensor([0.5, 0.0, -1.0])
    assert graph.detail is not None
    found = head_sums(replace(graph, detail=replace(graph.detail, heads=heads)))
    rows = [(s.block, s.head, s.size, s.between, s.value, s.key, s.query, s.edges) for s in found]
    assert rows == [(1, 0, 5.5, 5.0, 2.5, 3.0, -1.0, 3), (0, 1, 2.0, 2.0, -3.0, 1.0, 0.0, 1)]
    with pytest.raises(GraphError, match="detail='heads'"):
        head_sums(replace(graph, detail=None))


def test_unknown_details_and_segments_are_refused() -> None:
    with instrument(build("llama")) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        with pytest.raises(GraphError, match=r"detail='all' is unknown. choices: False, True, 'heads'"):
            trace.graph(CONTRAST, detail="all")  # type: ignore[arg-type]


def test_the_command_line_prints_the_heads(run: Any, tmp_path: Path) -> None:
    folder = tiny.save(tmp_path / "model")
    out = tmp_path / "g.safetensors"
    words = ["graph", str(folder), "-p", "say no more", "-t", "a", "-c", "b", "--heads", "-o", str(out)]
    status, printed, err = run(*words)
    assert status == 0, err
    lines = [line.strip() for line in printed.splitlines()]
    table = lines[lines.index("heads") + 1 :]
    assert table[0].split() == ["block", "head", "Σ|w|", "between", "tokens", "value", "key", "query", "edges"]
    first = head_sums(AttributionGraph.load(out))[0]
    assert table[1].split()[:3] == [str(first.block), str(first.head), f"{first.size:.3f}"]
    assert run("graph", str(out))[1].count("between tokens") == 1  # a saved graph still knows them
