"""Attribution and graph of tiny models by the Triton kernels, in triton's interpreter, against plain PyTorch.

The models are float32, with masks of every kind: causal, sliding windows, padding on the left, softcaps, sinks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from families import build, exact_float64, inputs

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.errors import BackendError
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.ops.backend import set_backend
from lrp_hooks.rules.attention import fused

CONTRAST = LogitDiff(5, 7)
NAMES = ("llama", "mistral", "gpt2", "gemma2", "gpt_oss")
LOOSE = 20
"""Times the noise of float32 itself: kernels sum in another order, three layers deep."""


@pytest.fixture(autouse=True)
def _backend() -> Iterator[None]:
    yield
    set_backend("auto")


def batch(name: str, padded: bool) -> dict[str, Any]:
    ids = inputs(name, batch=2 if padded else 1)
    mask = torch.ones_like(ids)
    if padded:
        mask[1, :4] = 0
    return {"input_ids": ids, "attention_mask": mask}


def asked(model: Any, given: dict[str, Any], backend: str, **options: Any) -> tuple[Any, AttributionGraph]:
    """Relevance, and the graph of the last row."""
    set_backend(backend)
    with instrument(model) as lrp:
        trace = lrp.trace(**given)
        relevance = trace.attribute(CONTRAST, heads=True)
        row = len(given["input_ids"]) - 1
        return relevance, trace.graph(CONTRAST, node_threshold=0.0, connected=False, row=row, **options)


def weights(graph: AttributionGraph, length: int) -> torch.Tensor:
    """[transitions, T, T], zeros where nothing was kept."""
    dense = torch.zeros(len(graph.transitions), length, length)
    dense[graph.below, graph.target, graph.source] = graph.weight.float()
    return dense


@pytest.mark.parametrize("padded", [False, True], ids=["alone", "padded"])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_explained_by_kernels(name: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    right = fused.attention
    monkeypatch.setattr(fused, "attention", lambda *given: runs.append(1) or right(*given))
    given = batch(name, padded)
    with exact_float64():
        exact, exact_graph = asked(build(name), given, "reference", top_p=1.0)
    assert not runs
    plain, plain_graph = asked(build(name, dtype=torch.float32), given, "reference", top_p=1.0)
    made, graph = asked(build(name, dtype=torch.float32), given, "triton", top_p=1.0)
    assert len(runs) >= 3
    length = given["input_ids"].shape[1]
    for found, low, high in (
        (made.layers, plain.layers, exact.layers),
        (made.heads, plain.heads, exact.heads),
        (weights(graph, length), weights(plain_graph, length), weights(exact_graph, length)),
    ):
        noise = (low.double() - high.double()).abs().max()
        assert (found.double() - high.double()).abs().max() <= LOOSE * noise + 1e-6 * high.abs().max()
    assert float(made.ledger().max()) < 1e-4


@pytest.mark.parametrize("pruned", [{"top_p": 0.85}, {"top_p": 0.3}, {"edge_threshold": 0.02}], ids=str)
def test_pruning_in_the_kernels_is_pruning(pruned: dict[str, float]) -> None:
    given = batch("llama", False)
    model = build("llama", dtype=torch.float32)
    _, plain = asked(model, given, "reference", detail=True, **pruned)
    _, made = asked(model, given, "triton", detail=True, **pruned)
    assert [(t.kept, t.total) for t in made.transitions] == [(t.kept, t.total) for t in plain.transitions]
    for a, b in zip(made.transitions, plain.transitions, strict=True):
        assert (a.kept_mass, a.total_mass) == pytest.approx((b.kept_mass, b.total_mass), rel=1e-5)
    assert torch.allclose(weights(made, 12), weights(plain, 12), atol=1e-5)
    assert made.detail is not None
    assert plain.detail is not None
    order, theirs = (torch.argsort((g.below * 12 + g.target) * 12 + g.source) for g in (made, plain))
    assert torch.equal(made.detail.head[order], plain.detail.head[theirs])
    assert torch.allclose(made.detail.value[order], plain.detail.value[theirs], atol=1e-5)


def test_segments_by_kernels() -> None:
    from lrp_hooks.segments import chunks

    given, parts = batch("llama", False), chunks(["a"] * 12, 5)
    model = build("llama", dtype=torch.float32)
    _, plain = asked(model, given, "reference", segments=parts, top_p=1.0)
    _, made = asked(model, given, "triton", segments=parts, top_p=1.0)
    assert torch.allclose(weights(made, 3), weights(plain, 3), atol=1e-5)


def test_checkpointed_blocks_make_their_attention_again() -> None:
    given = batch("mistral", True)
    model = build("mistral", dtype=torch.float32)
    whole, _ = asked(model, given, "triton")
    set_backend("triton")
    with instrument(model, checkpoint=True) as lrp:
        again = lrp.trace(**given).attribute(CONTRAST)
    assert torch.allclose(again.layers, whole.layers, atol=1e-6)


@pytest.mark.parametrize("composite", ["cp-lrp", "gradient"])
def test_other_rules_by_kernels(composite: str) -> None:
    model, given = build("gemma2", dtype=torch.float32), batch("gemma2", False)
    found = []
    for backend in ("reference", "triton"):
        set_backend(backend)
        with instrument(model, composite) as lrp:
            found.append(lrp.trace(**given).attribute(CONTRAST).layers)
    assert torch.allclose(*found, atol=1e-4 * float(found[0].abs().max()))
    assert found[0].abs().max() > 0.1


def test_an_eager_function_that_is_another_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.models.llama.modeling_llama as llama

    right = llama.eager_attention_forward

    def halved(*args: Any, **kwargs: Any) -> Any:
        out, weights = right(*args, **kwargs)
        return 0.5 * out, weights

    monkeypatch.setattr(llama, "eager_attention_forward", halved)
    set_backend("triton")
    with pytest.raises(BackendError, match=r"halved of .* is another attention"):
        instrument(build("llama", dtype=torch.float32, attn_implementation="eager"))


def test_a_mask_that_is_no_interval_is_refused() -> None:
    model, ids = build("llama", dtype=torch.float32), inputs("llama")
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    mask[9, 4] = False
    set_backend("triton")
    with instrument(model) as lrp, pytest.raises(BackendError, match="not one interval of tokens per token"):
        lrp.model(input_ids=ids, attention_mask=mask[None, None])
