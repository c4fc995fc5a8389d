"""Every kind of question on the GPU, about one llama."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import VOCABULARY, exact_float64, inputs
from gpu.compared import (
    CONTRAST,
    WHOLE,
    Answer,
    agree,
    dense,
    edge_parts,
    explanation,
    long_llama,
    relevance_parts,
    twins,
)
from torch import Tensor

from lrp_hooks import (
    AttributionGraph,
    DemeanedLogit,
    Logit,
    LogitDiff,
    LogProb,
    MaxLogit,
    Rank,
    SequenceLogProb,
    SequenceLogProbDiff,
    TopKMeanLogit,
    Verdict,
    instrument,
)
from lrp_hooks.ops import backend as backends
from lrp_hooks.ops import backend_name
from lrp_hooks.patching import masks
from lrp_hooks.segments import chunks

IDS = inputs("llama", length=19)
TARGETS: list[Any] = [
    Logit(5),
    Logit(5, position=7),
    CONTRAST,
    LogitDiff(5, (7, 9)),
    LogitDiff(Rank(1), Rank(2), position=-3),
    MaxLogit(),
    DemeanedLogit(5),
    TopKMeanLogit(5, k=4),
    LogProb(5),
    SequenceLogProb(4),
    SequenceLogProb(6, 11),
]


def gap(logits: Tensor) -> Tensor:
    """A user's own target."""
    return logits[:, 5] - logits[:, 7:9].mean(-1)


def padded(side: str, length: int = 24, missing: int = 6) -> dict[str, Tensor]:
    """Two sequences, the first padded."""
    ids = torch.arange(2 * length).remainder(VOCABULARY - 3).view(2, length) + 1
    seen = torch.ones_like(ids)
    seen[0, slice(None, missing) if side == "left" else slice(-missing, None)] = 0
    return {"ids": ids, "attention_mask": seen}


def trace_question(ask: Callable[[Any], Answer], ids: Tensor = IDS) -> Any:
    """A question of one trace of the prompt."""
    return lambda lrp, at: ask(lrp.trace(input_ids=ids.to(at)))


def test_the_kernels_are_what_auto_runs(gpu: str, caplog: pytest.LogCaptureFixture) -> None:
    assert backend_name() == "triton on the GPU (auto)"
    backends._say_once.cache_clear()
    agree(twins("llama"), gpu, explanation(IDS), backends=("auto", "triton"))
    assert "instead of the Triton kernels" not in caplog.text


def test_heads_and_neurons(device: str) -> None:
    def ask(trace: Any) -> Answer:
        return relevance_parts(trace.attribute(CONTRAST, heads=True, neurons=True))

    agree(twins("llama"), device, trace_question(ask), backends=("auto", "reference"))


def test_several_targets_of_one_trace(device: str) -> None:
    def ask(trace: Any) -> Answer:
        made = [*trace.attribute(TARGETS), trace.attribute(gap)]
        parts = {f"{i}, {name}": x for i, one in enumerate(made) for name, x in relevance_parts(one).items()}
        return parts | {"logits": trace.logits(), "logits at 3": trace.logits(3)}

    agree(twins("llama"), device, trace_question(ask))


def test_the_graph_of_a_span(device: str) -> None:
    agree(twins("llama"), device, explanation(IDS, SequenceLogProb(6, 11)))


def test_two_continuations(device: str) -> None:
    def ask(lrp: Any, at: str) -> Answer:
        prompt, first, second = IDS[0, :9].to(at), IDS[0, 9:12].to(at), IDS[0, 12:17].to(at)
        trace = lrp.trace_continuations(prompt, first, second)
        return relevance_parts(trace.attribute(SequenceLogProbDiff()))

    agree(twins("llama"), device, ask)


def test_embeddings_instead_of_tokens(device: str) -> None:
    def ask(lrp: Any, at: str) -> Answer:
        embedded = lrp.model.get_input_embeddings()(IDS.to(at))
        return relevance_parts(lrp.trace(inputs_embeds=embedded).attribute(CONTRAST))

    agree(twins("llama"), device, ask)


def test_backward_by_hand(device: str) -> None:
    def ask(lrp: Any, at: str) -> Answer:
        logits = lrp.model(input_ids=IDS.to(at)).logits
        (logits[0, -1, 5] - logits[0, -1, 7]).backward()
        return relevance_parts(lrp.relevance())

    agree(twins("llama"), device, ask)


@pytest.mark.parametrize("row", [0, 1])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_oss", "deepseek_v3", "mistral", "phi3-window"])
def test_a_padded_batch(name: str, side: str, row: int, device: str) -> None:
    agree(twins(name), device, explanation(**padded(side), row=row))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3", "cohere2"])
def test_masks_as_intervals(name: str, side: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "MASK_ENTRIES", 1)
    agree(twins(name), device, explanation(**padded(side)), backends=("auto", "reference"), checkpoint=True)


@pytest.mark.parametrize("length", [1, 2, 127, 129, 300, 517])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_lengths_across_blocks(name: str, length: int, device: str) -> None:
    models = twins(name, max_position_embeddings=1024, **({"sliding_window": 100} if name == "gemma2" else {}))
    agree(models, device, explanation(inputs(name, length=length)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
def test_a_longer_prompt_in_half_precision(dtype: torch.dtype, device: str) -> None:
    agree(long_llama(dtype), device, explanation(inputs("llama", length=300)))


@pytest.mark.parametrize("width", [16, 40, 64, 72, 128, 192, 256])
def test_head_dimensions(width: int, device: str) -> None:
    """192 and 256 are too wide for the attention kernel in float32: plain PyTorch takes over."""
    agree(long_llama(head_dim=width), device, explanation(inputs("llama", length=131)))


# Graphs --------------------------------------------------------------------------------------------------------------


def both_graphs(name: str, device: str, **options: Any) -> tuple[AttributionGraph, AttributionGraph]:
    """Made on the device, and on the CPU in float64."""
    models = twins(name)

    def made(model: Any, at: str) -> AttributionGraph:
        with instrument(model) as lrp:
            graph: AttributionGraph = lrp.trace(input_ids=IDS.to(at)).graph(CONTRAST, **options)
        return graph

    with exact_float64():
        exact = made(models.wide, "cpu")
    return made(models.low.to(device), device), exact


def keys(graph: AttributionGraph) -> set[tuple[int, int, int, int]]:
    columns = (graph.below, graph.above, graph.source, graph.target)
    return set(zip(*(column.tolist() for column in columns), strict=True))


@pytest.mark.parametrize("options", [{}, {"mid": True}, {"edge_threshold": 0.05}, {"detail": True}], ids=str)
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "deepseek_v3"])
def test_the_pruned_graph_keeps_the_same_edges(name: str, options: dict[str, Any], device: str) -> None:
    ours, exact = both_graphs(name, device, **options)
    assert keys(ours) == keys(exact)
    assert [t.kept for t in ours.transitions] == [t.kept for t in exact.transitions]
    scale = float(exact.weight.abs().max())
    order, theirs = in_order(ours), in_order(exact)
    assert (ours.weight[order] - exact.weight[theirs]).abs().max() < 1e-4 * scale
    assert (ours.relevance - exact.relevance).abs().max() < 1e-4 * float(exact.relevance.abs().max())
    if ours.detail is not None and exact.detail is not None:
        for part in ("value", "key", "query"):
            mine, other = getattr(ours.detail, part)[order], getattr(exact.detail, part)[theirs]
            assert (mine - other).abs().max() < 1e-4 * scale
        assert torch.equal(ours.detail.head[order], exact.detail.head[theirs])


def in_order(graph: AttributionGraph) -> Tensor:
    """Indices of the edges by row, target and source."""
    length = graph.relevance.shape[1]
    return ((graph.below * length + graph.target) * length + graph.source).argsort()


def test_paths(device: str) -> None:
    ours, exact = (graph.strongest_paths(5) for graph in both_graphs("llama", device))
    assert [(path.nodes, path.sign) for path in ours] == [(path.nodes, path.sign) for path in exact]
    assert [path.strength for path in ours] == pytest.approx([path.strength for path in exact], rel=1e-4)


def test_a_graph_is_saved_and_read(device: str, tmp_path: Path) -> None:
    with instrument(twins("llama").low.to(device)) as lrp:
        graph = lrp.trace(input_ids=IDS.to(device)).graph(CONTRAST, detail=True)
    assert {x.device.type for x in (graph.weight, graph.relevance, graph.below, graph.target)} == {"cpu"}
    read = AttributionGraph.load(graph.save(tmp_path / "graph.safetensors"))
    assert keys(read) == keys(graph)
    assert torch.equal(read.weight, graph.weight)
    assert torch.equal(read.relevance, graph.relevance)
    assert torch.equal(read.nodes, graph.nodes)
    assert read.about == graph.about


def test_segments(device: str) -> None:
    def ask(trace: Any) -> Answer:
        return edge_parts(trace.graph(CONTRAST, segments=chunks(["x"] * 19, 4), **WHOLE))

    agree(twins("llama"), device, trace_question(ask))


@pytest.mark.parametrize("by", ["sum", "head", "path"])
@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "deepseek_v3"])
def test_edge_matrices(name: str, by: str, device: str) -> None:
    def ask(trace: Any) -> Answer:
        return {str(pair): edges for pair, edges in trace.edge_matrices(CONTRAST, by=by).items()}

    agree(twins(name), device, trace_question(ask))


def test_packed_products(device: str) -> None:
    def ask(trace: Any) -> Answer:
        made = trace.edge_matrices(CONTRAST, layers=[0, 1, 3], method="packed")
        return {str(pair): edges for pair, edges in made.items()}

    agree(twins("llama"), device, trace_question(ask))


def test_parts_of_nodes_and_edges_between_neurons(device: str) -> None:
    def ask(trace: Any) -> Answer:
        parts = trace.refine(CONTRAST, [(2, 7), (3, 18)])
        return {f"{part.point}, {part.token}": part.dimensions for part in parts}

    agree(twins("llama"), device, trace_question(ask))
    with instrument(twins("llama").low.to(device)) as lrp:
        assert lrp.trace(input_ids=IDS.to(device)).neuron_edges(CONTRAST, 2, 18, [1, 5]) is not None


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_ablation(attention: str, device: str) -> None:
    cuts: list[dict[str, Any]] = [
        {"edges": [(1, 9, 11), (0, 2, 18, 1)]},
        {"tokens": [4, 6]},
        {"heads": [(1, 2), (2, 0)]},
    ]

    def ask(trace: Any) -> Answer:
        made = [trace.ablate(CONTRAST, **cut) for cut in cuts]
        values = {f"after {i}": torch.tensor(cut.after, dtype=torch.float64) for i, cut in enumerate(made)}
        return values | {f"logits {i}": cut.logits for i, cut in enumerate(made)}

    agree(twins("llama", attention=attention), device, trace_question(ask))


def test_a_graphs_edges_are_cut(device: str) -> None:
    with instrument(twins("llama").low.to(device)) as lrp:
        trace = lrp.trace(input_ids=IDS.to(device))
        edges = trace.graph(CONTRAST).attention_edges()[:5]
        assert trace.ablate(CONTRAST, edges=edges).change != 0


# What is believed ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "deepseek_v3", "mixtral"])
def test_the_certificate(name: str, device: str) -> None:
    with instrument(twins(name).low.to(device)) as lrp:
        made = lrp.certify(CONTRAST, input_ids=IDS.to(device))
        assert lrp.report() is not None
    assert made.verdict is Verdict.CERTIFIED
    assert made.leak == ""


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "deepseek_v3", "gpt2"])
def test_the_ledger_closes(name: str, device: str) -> None:
    models, ledgers = twins(name), []
    for at in ("cpu", device):
        with instrument(models.low.to(at)) as lrp:
            ledgers.append(float(lrp.trace(input_ids=IDS.to(at)).attribute(CONTRAST).ledger().max()))
    assert ledgers[1] <= 8 * (ledgers[0] + 4 * torch.finfo(torch.float32).eps)


def test_dense_is_what_the_matrices_say(device: str) -> None:
    with instrument(twins("llama").low.to(device)) as lrp:
        trace = lrp.trace(input_ids=IDS.to(device))
        edges, made = trace.edge_matrices(CONTRAST), dense(trace.graph(CONTRAST, **WHOLE))
    for (below, _), matrix in edges.items():
        assert (made[below] - matrix.cpu()).abs().max() <= 1e-5 * matrix.abs().max()
