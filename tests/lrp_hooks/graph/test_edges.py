"""Exact edges against packed products, entry by entry, on every family; checks with teeth; mutations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import FAMILIES, VARIANTS, build, exact_float64, inputs
from smear import smeared
from torch import Tensor

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.errors import GraphError, RemovedError
from lrp_hooks.graph import collect, edges

CONTRAST = LogitDiff(5, 7)
Matrices = dict[tuple[int, int], Tensor]


def distance(ours: Matrices, theirs: Matrices) -> float:
    """Largest difference over all transitions, each relative to its largest edge."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[k] - theirs[k]).abs().max() / theirs[k].abs().max()) for k in ours)


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp", "gradient"])
@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
def test_float64_equals_packed_entry_by_entry(name: str, composite: str) -> None:
    model, ids = build(name), inputs(name)
    with exact_float64(), instrument(model, composite) as lrp:
        trace = lrp.trace(input_ids=ids)
        exact = trace.edge_matrices(CONTRAST)
        assert distance(exact, trace.edge_matrices(CONTRAST, method="packed")) < 1e-10
        relevance = trace.attribute(CONTRAST)
        for (below, _), matrix in exact.items():
            assert torch.allclose(matrix.sum(0), relevance.layers[0, below], rtol=1e-9, atol=1e-12)
            assert (matrix.triu(1) == 0).all(), "a token sends nothing to the future"


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_equals_packed(name: str) -> None:
    model, ids = build(name, dtype=torch.float32), inputs(name)
    with instrument(model) as lrp:
        trace = lrp.trace(input_ids=ids)
        assert distance(trace.edge_matrices(CONTRAST), trace.edge_matrices(CONTRAST, method="packed")) < 1e-5


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "qwen3"])
def test_bfloat16_is_as_close_to_float64_as_packed(name: str) -> None:
    ids = inputs(name)
    with instrument(build(name, dtype=torch.bfloat16)) as lrp:
        trace = lrp.trace(input_ids=ids)
        ours, theirs = trace.edge_matrices(CONTRAST), trace.edge_matrices(CONTRAST, method="packed")
    with instrument(build(name, dtype=torch.bfloat16).double()) as lrp:
        truth = lrp.trace(input_ids=ids).edge_matrices(CONTRAST)

    def error(matrices: Matrices) -> float:
        return sum(float((matrices[k] - truth[k]).abs().sum() / truth[k].abs().sum()) for k in truth)

    assert error(ours) <= 1.2 * error(theirs)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "gemma2"])
def test_a_row_of_a_padded_batch_has_its_own_edges(name: str, side: str) -> None:
    short, long = inputs(name, length=7, seed=1)[0], inputs(name, length=12)[0]
    gap = torch.zeros(5, dtype=torch.long)
    ids = torch.stack([long, torch.cat((gap, short) if side == "left" else (short, gap))])
    mask = (ids != 0).long()
    where = slice(5, 12) if side == "left" else slice(0, 7)
    with exact_float64(), instrument(build(name)) as lrp:
        alone = lrp.trace(input_ids=short[None]).edge_matrices(CONTRAST)
        trace = lrp.trace(input_ids=ids, attention_mask=mask)
        for method in ("exact", "packed"):
            batch = trace.edge_matrices(CONTRAST, row=1, method=method)
            assert distance({k: m[where, where] for k, m in batch.items()}, alone) < 1e-10
            inside = torch.zeros(12, 12, dtype=torch.bool)
            inside[where, where] = True
            assert all((m[~inside] == 0).all() for m in batch.values())


def test_checkpointing_gives_the_same_edges() -> None:
    ids = inputs("gpt2")
    with instrument(build("gpt2"), checkpoint=False) as lrp:
        kept = lrp.trace(input_ids=ids).edge_matrices(CONTRAST)
    with instrument(build("gpt2"), checkpoint=True) as lrp:
        assert distance(lrp.trace(input_ids=ids).edge_matrices(CONTRAST), kept) < 1e-12


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
def test_heads_and_paths_add_up(composite: str) -> None:
    with exact_float64(), instrument(build("qwen2"), composite) as lrp:
        trace = lrp.trace(input_ids=inputs("qwen2"))
        whole, by_head, by_path = (trace.edge_matrices(CONTRAST, by=by) for by in ("sum", "head", "path"))
        for pair, matrix in whole.items():
            value, key, query, rest = by_path[pair]
            assert torch.allclose(by_path[pair].sum(0), matrix, atol=1e-12)
            assert torch.allclose(by_head[pair].sum(0), value + key, atol=1e-12)
            assert torch.equal(query, torch.diag(query.diagonal()))
            assert torch.equal(rest, torch.diag(rest.diagonal()))
            assert (key.abs().max() > 0) == (composite == "attnlrp")


def test_row_sums_and_the_rest_have_teeth_on_a_bias_free_block() -> None:
    """rest_i = R_t^i - D_i and sum_i A[j, i] = R_t^j - (1 - c_v) D_j + 2 A_q[j, j] (docs/mathematics.md)."""
    seen: list[tuple[int, Any]] = []
    model, ids = build("llama-bias-free"), inputs("llama")
    with exact_float64(), instrument(model) as lrp:
        trace = lrp.trace(input_ids=ids)
        source = collect.TransitionSource(
            lrp.skeleton,
            lrp.tape,
            trace._record,
            lrp.block_knowledge,
            0,
            frozenset({0, 1, 2}),
            lambda block, made: seen.append((block, made)),
        )
        trace._listen(CONTRAST, source.on_point, frozenset({"edges"}))
        for block, made in seen:
            above = trace._record.latest.points[block + 1][0]
            assert torch.allclose(made.rest, above - made.kept, atol=1e-12)
            assert torch.allclose(made.dense().sum(1), above - 0.5 * made.kept + 2 * made.query, atol=1e-12)
    assert len(seen) == 3


def mutate(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Change the parts that go into a transition's attention call."""
    right = edges.transition

    def wrong(*args: Any, **kwargs: Any) -> Any:
        made = right(*args, **kwargs)
        return replace(made, call=replace(made.call, **{k: f(made.call) for k, f in changes.items()}))

    monkeypatch.setattr(collect, "transition", wrong)


MUTATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "tangents": ("qwen2", {"k_carry": lambda call: call.k, "v_carry": lambda call: call.v}),
    "key path": ("llama", {"key": lambda call: 0.0}),
    "softcap slope": ("gemma2", {"slope": lambda call: False}),
    "softcap": ("gemma2", {"softcap": lambda call: None}),
    "window": ("mistral", {"mask": lambda call: None, "interval": lambda call: None}),
    "scale": ("llama", {"scale": lambda call: call.scale * 1.1}),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_dropping_an_ingredient_is_noticed(mutation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, changes = MUTATIONS[mutation]
    with exact_float64(), instrument(build(name)) as lrp:
        trace = lrp.trace(input_ids=inputs(name))
        theirs = trace.edge_matrices(CONTRAST, method="packed")
        assert distance(trace.edge_matrices(CONTRAST), theirs) < 1e-10
        mutate(monkeypatch, **changes)
        assert distance(trace.edge_matrices(CONTRAST), theirs) > 0.01


def test_a_hidden_convolution_is_refused_by_exact_and_done_by_packed() -> None:
    with instrument(smeared(build("llama"), 1)) as lrp:
        assert len(lrp.trace(input_ids=inputs("llama", length=1)).edge_matrices(CONTRAST)) == 3  # nothing to mix yet
        trace = lrp.trace(input_ids=inputs("llama"))
        with pytest.raises(GraphError, match=r"model\.layers\.1 .* mixes tokens outside its attention"):
            trace.edge_matrices(CONTRAST)
        assert len(trace.edge_matrices(CONTRAST, layers=[2, 3])) == 1
        packed = trace.edge_matrices(CONTRAST, method="packed")
        relevance = trace.attribute(CONTRAST)
        assert torch.allclose(packed[1, 2].sum(0), relevance.layers[0, 1].to(packed[1, 2].dtype), atol=1e-5)


def test_spans_of_blocks_are_packed_and_chaining_is_no_substitute() -> None:
    with exact_float64(), instrument(build("llama")) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        span = trace.edge_matrices(CONTRAST, layers=[0, 2, 3], method="packed")
        assert list(span) == [(0, 2), (2, 3)]
        relevance = trace.attribute(CONTRAST)
        assert torch.allclose(span[0, 2].sum(0), relevance.layers[0, 0], atol=1e-10)


def test_bad_requests_are_clear_errors() -> None:
    lrp = instrument(build("llama"))
    trace = lrp.trace(input_ids=inputs("llama"))
    for options, message in (
        ({"layers": [0, 4]}, r"must lie in 0\.\.3"),
        ({"layers": [-1, 0]}, r"must lie in 0\.\.3"),
        ({"layers": [2, 1]}, "must ascend"),
        ({"layers": [1]}, "two residual points"),
        ({"layers": [0, 2]}, "method='packed'"),
        ({"by": "neuron"}, "choices are sum, head, path"),
        ({"by": "head", "method": "packed"}, "no heads or paths"),
        ({"method": "magic"}, "exact, packed"),
        ({"row": 1}, "row 1 is outside"),
    ):
        with pytest.raises(GraphError, match=message):
            trace.edge_matrices(CONTRAST, **options)
    assert trace._record.on_point is None
    lrp.remove()
    with pytest.raises(RemovedError):
        trace.edge_matrices(CONTRAST)
