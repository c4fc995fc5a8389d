"""The census's own checks on one type per pattern, and the committed table. The whole census: benchmarks.families."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from families import exact_float64

from benchmarks.families import NOTICED, RESULT, TABLE, Result, examine, table
from benchmarks.tiny import TYPES, tiny_config, tiny_ids, tiny_model
from lrp_hooks import LogitDiff, Role, instrument
from lrp_hooks.composites import ATTNLRP
from lrp_hooks.errors import UnclaimedModuleError, UnsupportedModelError

pytestmark = pytest.mark.filterwarnings("ignore")

PATTERNS = {
    "phimoe": "a bank of experts",
    "llama4_text": "experts with a forward of their own, behind a router",
    "bloom": "attention outside the interface, with ALiBi",
    "falcon": "scaled_dot_product_attention called directly",
    "gptj": "attention written out",
    "bert": "a norm of the embeddings, below the first block",
    "lfm2": "short convolutions",
    "recurrent_gemma": "a gated linear recurrence",
    "mamba": "a state space without attention",
    "bamba": "state-space and attention blocks",
    "qwen3_next": "gated delta nets, gated attention output, gated shared expert",
    "rwkv": "linear attention and token shifts",
    "gemma4_text": "inputs per layer, keys and values shared across layers",
    "apertus": "an activation with parameters",
    "axk2": "gated norms before the attention",
}


@pytest.mark.parametrize("kind", PATTERNS)
def test_one_type_of_every_pattern_is_certified(kind: str) -> None:
    result = examine(kind)
    assert result.status == "certified", result.reason
    assert result.removed, "no rule was taken away"
    assert min(result.removed.values()) >= NOTICED


REFUSED = {
    "gemma3n_text": "several residual streams",
    "hrm_text": "several times per forward",
    "xlnet": "no list of blocks",
    "blt": "ScatterReduce",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_understood_is_refused_by_name(kind: str) -> None:
    with pytest.raises((UnsupportedModelError, UnclaimedModuleError), match=REFUSED[kind]):
        instrument(tiny_model(kind))


def test_relevance_that_flows_around_a_residual_point_is_in_the_ledger() -> None:
    model, ids = tiny_model("gemma4_text"), tiny_ids()
    with instrument(model) as lrp:
        relevance = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7))
    around = relevance.absorbed.around
    assert around is not None
    assert around[:, :-1].abs().min() > 0
    assert (around[:, -1] == 0).all()
    assert relevance.ledger().max() < 1e-4


@pytest.mark.parametrize("kind", ["qwen2_moe", "gpt_oss", "gptj", "bamba", "qwen3_next", "lfm2"])
def test_checkpointing_gives_the_same_relevance(kind: str) -> None:
    model, ids = tiny_model(kind), tiny_ids()
    found = []
    for checkpoint in (False, True):
        with instrument(model, checkpoint=checkpoint) as lrp:
            found.append(lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7)))
    assert torch.allclose(found[0].layers, found[1].layers, rtol=1e-5, atol=1e-6)
    assert found[1].ledger().max() < 1e-4


@pytest.mark.parametrize(
    "kind", ["qwen2_moe", "gpt_oss", "gptj", "bloom", "lfm2", "mamba", "qwen3_next", "recurrent_gemma"]
)
def test_a_row_of_a_batch_has_the_relevance_it_has_alone(kind: str) -> None:
    model, rows = tiny_model(kind), torch.cat([tiny_ids(seed=seed) for seed in (0, 1)])
    with instrument(model) as lrp:
        both = lrp.trace(input_ids=rows).attribute(LogitDiff(5, 7))
        for row in (0, 1):
            alone = lrp.trace(input_ids=rows[row : row + 1]).attribute(LogitDiff(5, 7))
            assert torch.allclose(both.layers[row], alone.layers[0], rtol=1e-4, atol=1e-5)
    assert both.ledger().max() < 1e-4


def test_what_decides_how_a_state_space_mixes_is_a_constant() -> None:
    """Mutation: Mamba's operations by their rules, with B, C and the step width carrying relevance."""
    ids = tiny_ids()
    with exact_float64():
        model = tiny_model("mamba", torch.float64)
        by_operation = dict(ATTNLRP.rows)[Role.INLINE]
        with instrument(model) as lrp:
            right = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7))
        with instrument(model, ATTNLRP.extended("moving", (Role.MIXER, by_operation)), unknown="gradient") as lrp:
            wrong = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7))
    assert float((wrong.tokens - right.tokens).abs().max() / right.tokens.abs().max()) > 0.01


def committed() -> tuple[list[Result], dict[str, Any]]:
    data = json.loads(RESULT.read_text())
    return [Result(**row) for row in data["types"]], data["versions"]


def test_the_committed_census_covers_every_type_and_nothing_failed() -> None:
    results, _ = committed()
    assert [r.kind for r in results] == list(TYPES)
    assert {r.status for r in results} <= {"certified", "refused", "not built"}
    assert all(r.reason for r in results if r.status != "certified")
    assert sum(r.status == "certified" for r in results) >= 150


def test_the_committed_table_is_that_of_the_committed_results() -> None:
    assert TABLE.read_text() == table(*committed())


def test_tiny_configs_keep_every_kind_of_layer() -> None:
    assert len(set(tiny_config("qwen3_next").layer_types)) == 2
    assert len(set(tiny_config("gemma4_text").layer_types)) == 2
