"""Blocks that call attention several times: side by side (exact) or one on the other (refused)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import exact_float64

from benchmarks.tiny import tiny_ids, tiny_model
from lrp_hooks import LogitDiff, instrument
from lrp_hooks.errors import NoClosedFormError
from lrp_hooks.graph import parallel

pytestmark = pytest.mark.filterwarnings("ignore")

TARGET = LogitDiff(5, 7)


def error(composite: str) -> float:
    """Differential attention with biases on q, k and v, so that tangents differ from values."""
    with exact_float64():
        model = tiny_model("diffllama", torch.float64)
        for layer in model.model.layers:
            for name in ("q_proj", "k_proj", "v_proj"):
                old = getattr(layer.self_attn, name)
                new = torch.nn.Linear(old.in_features, old.out_features, dtype=torch.float64)
                new.weight.data.copy_(old.weight)
                torch.nn.init.normal_(new.bias, generator=torch.Generator().manual_seed(len(name)))
                setattr(layer.self_attn, name, new)
        with instrument(model, composite) as lrp:
            trace = lrp.trace(input_ids=tiny_ids())
            exact, packed = (trace.edge_matrices(TARGET, method=m) for m in ("exact", "packed"))  # type: ignore[arg-type]
            heads = trace.edge_matrices(TARGET, by="head")
    assert next(iter(heads.values())).shape[0] == 2 * model.config.num_attention_heads
    return max(float((exact[s] - packed[s]).abs().max() / packed[s].abs().max()) for s in packed)


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
def test_two_calls_side_by_side_are_one_with_twice_the_heads(composite: str) -> None:
    assert error(composite) < 1e-12


def test_the_tangents_of_each_call_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(given: Any, runs: list[Any]) -> Any:
        return runs[0].tangents

    monkeypatch.setattr(parallel, "_matching", first)
    assert error("attnlrp") > 0.01


def test_calls_one_on_the_other_are_refused() -> None:
    with (
        instrument(tiny_model("longcat_flash")) as lrp,
        pytest.raises(NoClosedFormError, match="one call on what another returned"),
    ):
        lrp.trace(input_ids=tiny_ids()).edge_matrices(TARGET)
