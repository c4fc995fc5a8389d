"""Graphs over other nodes than all points and tokens: mid and chosen points, segments; what edges consist of."""

from __future__ import annotations

import logging
from itertools import pairwise
from typing import Any

import pytest
import torch
from families import build, exact_float64, inputs
from smear import smeared
from torch import Tensor

from lrp_hooks import AttributionGraph, LogitDiff, instrument
from lrp_hooks.errors import GraphError, InputError
from lrp_hooks.segments import Segment, chunks, expand, sentences, single_tokens

CONTRAST = LogitDiff(5, 7)
EVERYTHING: dict[str, Any] = {"node_threshold": 0.0, "top_p": 1.0, "connected": False}


def matrix(graph: AttributionGraph, below: float) -> Tensor:
    """[C, C] edges out of the graph, dense."""
    edges, count = graph.between(below), graph.relevance.shape[1]
    dense = graph.weight.new_zeros(count, count)
    dense[graph.target[edges], graph.source[edges]] = graph.weight[edges]
    return dense


def towards_mid(lrp: Any, trace: Any, block: int) -> Tensor:
    """[T, T] edges from a block's input to its mid point, one target token at a time, by autograd through the block."""
    hidden, gradient = {}, {}

    def keep(point: int, x: Tensor, grad: Tensor) -> None:
        hidden[point], gradient[point] = x.detach(), grad.detach()

    trace._listen(CONTRAST, keep, frozenset())
    seen: list[Tensor] = []
    handle = lrp.skeleton.mid[block].register_forward_pre_hook(lambda _m, args: seen.append(args[0]))
    x = hidden[block].clone().requires_grad_()
    with torch.enable_grad(), lrp.tape.recording(None):
        out = trace._record.block_inputs[block].call(lrp.skeleton.blocks[block][1], x)
    handle.remove()
    (at_mid,) = torch.autograd.grad(out, seen[0], gradient[block + 1], retain_graph=True)
    rows = []
    for j in range(x.shape[1]):
        seed = torch.zeros_like(at_mid)
        seed[0, j] = at_mid[0, j]
        (grads,) = torch.autograd.grad(seen[0], x, seed, retain_graph=True)
        rows.append((x.detach() * grads).sum(-1)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "olmo2"])
def test_mid_points_split_attention_from_the_mlp(name: str) -> None:
    with exact_float64(), instrument(build(name)) as lrp:
        trace = lrp.trace(input_ids=inputs(name))
        graph = trace.graph(CONTRAST, mid=True, **EVERYTHING)
        relevance = trace.attribute(CONTRAST)
        assert graph.points == (0, 0.5, 1, 1.5, 2, 2.5, 3)
        assert torch.allclose(graph.relevance[1::2], relevance.mid[0].float(), atol=1e-6)
        for block in range(3):
            oracle = towards_mid(lrp, trace, block).float()
            assert torch.allclose(matrix(graph, block), oracle, atol=1e-6)
            assert torch.equal(matrix(graph, block + 0.5), torch.diag(relevance.mid[0, block].float()))
        assert [info.method for info in graph.transitions] == ["exact", "local"] * 3


def test_chosen_points_are_packed_where_blocks_lie_between() -> None:
    with exact_float64(), instrument(build("llama")) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        graph = trace.graph(CONTRAST, points=[0, 1.5, 2, 3], **EVERYTHING)
        packed = trace.edge_matrices(CONTRAST, layers=[0, 2, 3], method="packed")
        assert graph.points == (0, 1.5, 2, 3)
        assert [info.method for info in graph.transitions] == ["packed", "local", "exact"]
        assert torch.allclose(matrix(graph, 0), packed[0, 2].float(), atol=1e-6)
        assert torch.allclose(matrix(graph, 2), packed[2, 3].float(), atol=1e-6)
        whole = trace.graph(CONTRAST, points=[0, 3], **EVERYTHING)
        assert torch.allclose(matrix(whole, 0).sum(0), whole.relevance[0], atol=1e-5)


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("points", [(2, 3), (1.5, 2, 3)])
def test_a_graph_of_the_last_blocks_does_not_go_further_down(points: tuple[float, ...], checkpoint: bool) -> None:
    runs: list[int] = []
    with exact_float64(), instrument(build("llama"), checkpoint=checkpoint) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        before, whole = trace.attribute(CONTRAST), trace.graph(CONTRAST, mid=True, **EVERYTHING)
        handles = [
            block.input_layernorm.register_forward_pre_hook(lambda *_, number=number: runs.append(number))
            for number, (_, block) in enumerate(lrp.skeleton.blocks)
        ]
        part = trace.graph(CONTRAST, points=points, **EVERYTHING)
        assert sorted(trace._record.latest.points) == list(range(int(points[0]), 4))
        matrices = trace.edge_matrices(CONTRAST, layers=[2, 3])
        assert sorted(trace._record.latest.points) == [2, 3]
        assert min(runs, default=9) >= int(points[0])  # with checkpointing these are recomputed, and no others
        for handle in handles:
            handle.remove()
        after = trace.attribute(CONTRAST)  # nothing of the passes that ended early is left
    if points == (2, 3):
        assert torch.allclose(matrix(part, 2), matrices[2, 3].to(matrix(part, 2)), rtol=1e-6, atol=1e-12)
    else:
        assert torch.equal(matrix(part, 1.5), matrix(whole, 1.5))
    for row, point in enumerate(points):
        assert torch.equal(part.relevance[row], whole.relevance[whole.points.index(point)])
    for name in ("tokens", "layers", "value"):
        assert torch.equal(getattr(before, name), getattr(after, name))


def test_method_packed_gives_the_same_graph() -> None:
    with exact_float64(), instrument(build("qwen2")) as lrp:
        trace = lrp.trace(input_ids=inputs("qwen2"))
        exact, packed = (trace.graph(CONTRAST, method=method, top_p=0.9) for method in ("exact", "packed"))
    assert {info.method for info in packed.transitions} == {"packed"}
    for name in ("below", "source", "target"):
        assert torch.equal(getattr(exact, name), getattr(packed, name))
    assert torch.allclose(exact.weight, packed.weight, rtol=1e-5)


def test_a_block_without_closed_form_is_packed_and_said_so(caplog: pytest.LogCaptureFixture) -> None:
    with exact_float64(), instrument(smeared(build("llama"), 1)) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        with caplog.at_level(logging.WARNING, "lrp_hooks"):
            graph = trace.graph(CONTRAST, **EVERYTHING)
        assert "packed products are used for block 1" in caplog.text
        assert [info.method for info in graph.transitions] == ["exact", "packed", "exact"]
        oracle = trace.edge_matrices(CONTRAST, layers=[1, 2], method="packed")[1, 2]
        assert torch.allclose(matrix(graph, 1), oracle.float(), atol=1e-6)
        for refused in ({"method": "exact"}, {"detail": True}):
            with pytest.raises(GraphError, match="mixes tokens outside its attention"):
                trace.graph(CONTRAST, **refused)


@pytest.mark.parametrize("side", ["left", "right"])
def test_segments_sum_the_edges_of_their_tokens(side: str) -> None:
    ids = torch.cat([inputs("llama", length=9, seed=s) for s in (0, 1)])
    mask = torch.ones_like(ids)
    mask[1, slice(0, 2) if side == "left" else slice(7, 9)] = 0
    parts = (Segment("a", 0, 3), Segment("b", 3, 4), Segment("c", 4, 9))
    with exact_float64(), instrument(build("llama")) as lrp:
        trace = lrp.trace(input_ids=ids, attention_mask=mask)
        dense = trace.edge_matrices(CONTRAST, row=1)
        graph = trace.graph(CONTRAST, segments=parts, row=1, mid=True, **EVERYTHING)
        assert graph.tokens == ("a", "b", "c")
        assert graph.segments == parts
        assert graph.position == 2
        for below in range(3):
            want = torch.tensor(
                [[dense[below, below + 1][t.start : t.stop, s.start : s.stop].sum() for s in parts] for t in parts]
            )
            assert torch.allclose(matrix(graph, below), want.float(), atol=1e-6)
            assert torch.allclose(matrix(graph, below).sum(0), graph.relevance[2 * below], atol=1e-5)
            off = matrix(graph, below + 0.5) - torch.diag(matrix(graph, below + 0.5).diagonal())
            assert (off == 0).all()
        closer = trace.graph(CONTRAST, segments=expand(parts, 0, "abcdefghi"), row=1, **EVERYTHING)
        assert closer.tokens == ("a", "b", "c", "b", "c")
        assert torch.allclose(closer.relevance[:, :3].sum(1), graph.relevance[::2, 0], atol=1e-5)


def test_detail_says_which_paths_and_head_an_edge_takes() -> None:
    with exact_float64(), instrument(build("qwen2")) as lrp:
        trace = lrp.trace(input_ids=inputs("qwen2"))
        graph = trace.graph(CONTRAST, detail=True, mid=True, top_p=0.95)
        paths, heads = (trace.edge_matrices(CONTRAST, by=by) for by in ("path", "head"))
        detail = graph.detail
        assert detail is not None
        for row, (below, above) in enumerate(pairwise(graph.points)):
            edges = torch.nonzero(graph.below == row).flatten()
            j, i = graph.target[edges], graph.source[edges]
            if below % 1:
                assert (detail.head[edges] == -1).all()
                assert (detail.value[edges] == 0).all()
                continue
            pair = int(below), int(below) + 1
            for got, want in zip((detail.value, detail.key, detail.query), paths[pair], strict=False):
                assert torch.allclose(got[edges], want[j, i].float(), atol=1e-6)
            per_head = heads[pair][:, j, i]
            assert torch.equal(detail.head[edges], per_head.abs().argmax(0))
            assert torch.allclose(detail.head_weight[edges], per_head.gather(0, detail.head[edges][None])[0].float())
            assert above == below + 0.5
        assert torch.equal(graph.connected().detail.value, detail.value)  # type: ignore[union-attr]


def test_segments_by_size_and_sentence() -> None:
    texts = ["One", ".", " Two", "!", "\n", "and", " more", " words"]
    assert [(s.name, s.start, s.stop) for s in sentences(texts)] == [
        ("One.", 0, 2),
        ("Two!", 2, 4),
        ("", 4, 5),
        ("and more words", 5, 8),
    ]
    assert [(s.start, s.stop) for s in chunks(texts, 3)] == [(0, 3), (3, 6), (6, 8)]
    assert [len(s) for s in sentences(["a"] * 10, longest=4)] == [4, 4, 2]
    assert chunks(["word "] * 30, 30)[0].name == "word word word word wor…"
    assert [s.name for s in single_tokens(texts)] == texts


def test_bad_points_and_segments_are_clear_errors() -> None:
    with instrument(build("llama")) as lrp, instrument(build("gpt_neox")) as parallel:
        trace = lrp.trace(input_ids=inputs("llama"))
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            ({"points": [0, 2]}, "must end at 3"),
            ({"points": [0.25, 3]}, r"l \+ 0.5 its mid point"),
            ({"points": [0.5, 2, 3]}, "add residual point 1"),
            ({"points": [0, 3], "mid": True}, "mid=True goes with all points"),
            ({"points": [0, 3], "method": "exact"}, "several blocks apart"),
            ({"points": [0, 3], "detail": True}, "detail needs closed forms"),
            ({"method": "magic"}, "choices: auto, exact, packed"),
            ({"detail": True, "segments": [Segment("all", 0, 12)]}, "detail=False"),
        )
        for options, message in cases:
            with pytest.raises(GraphError, match=message):
                trace.graph(CONTRAST, **options)
        for segments, message in (
            ([Segment("a", 0, 5), Segment("b", 6, 12)], "gap before segment 'b'"),
            ([Segment("a", 0, 5), Segment("b", 4, 12)], "overlap before segment 'b'"),
            ([Segment("a", 0, 5)], "cover 5 tokens, the prompt has 12"),
        ):
            with pytest.raises(InputError, match=message):
                trace.graph(CONTRAST, segments=segments)
        with pytest.raises(InputError, match="holds no token"):
            Segment("nothing", 3, 3)
        with pytest.raises(InputError, match="outside 0"):
            expand([Segment("a", 0, 1)], 1, ["a"])
        other = parallel.trace(input_ids=inputs("gpt_neox"))
        for options in ({"mid": True}, {"points": [0, 0.5, 3]}):
            with pytest.raises(GraphError, match="in parallel"):
                other.graph(CONTRAST, **options)
        assert trace.graph(CONTRAST).row(3) == 3
        with pytest.raises(GraphError, match=r"residual point 0.5 is not in this graph. choices: 0, 1, 2, 3"):
            trace.graph(CONTRAST).row(0.5)
