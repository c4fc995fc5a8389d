"""Every family against the float64 oracle, entry by entry; the ledger; and mutations that must be noticed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import FAMILIES, VARIANTS, VOCABULARY, build, exact_float64, inputs
from oracle import COMPOSITES, OracleResult, oracle
from torch import Tensor

from lrp_hooks import LogitDiff, Relevance, Role, instrument
from lrp_hooks.composites import ATTNLRP, CP_LRP, Composite, Match, Rule
from lrp_hooks.errors import UnclaimedModuleError
from lrp_hooks.rules.attention.softmax import share_attention
from lrp_hooks.rules.gated import share_product

WEIGHTS = torch.zeros(VOCABULARY, dtype=torch.float64)
WEIGHTS[5], WEIGHTS[7] = 1.0, -1.0
CONTRAST = LogitDiff(5, 7)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of two tables of scores, relative to the largest score."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def attribute(model: Any, composite: str | Composite, **inputs: Tensor) -> Relevance:
    with instrument(model, composite, unknown="gradient") as lrp:
        assert lrp.value_error == 0.0
        return lrp.trace(**inputs).attribute(CONTRAST, heads=True, neurons=True)


def assert_same(ours: Relevance, theirs: OracleResult, tolerance: float) -> None:
    assert distance(ours.tokens, theirs.tokens) < tolerance
    for point in range(theirs.layers.shape[1]):
        assert distance(ours.layers[:, point], theirs.layers[:, point]) < tolerance
    assert distance(ours.heads, theirs.heads) < tolerance
    for block, scores in enumerate(theirs.neurons):
        assert distance(ours.neurons[block], scores) < tolerance
    assert (ours.mid is None) == (theirs.mid is None)
    if theirs.mid is not None:
        assert distance(ours.mid, theirs.mid) < tolerance
    assert distance(ours.absorbed.attention, theirs.softmax) < tolerance or theirs.softmax.abs().max() < 1e-12
    above = torch.stack([ours.absorbed.above(p) for p in range(theirs.layers.shape[1])], 1)
    softmax = torch.stack([theirs.softmax[:, p:].sum(1) for p in range(theirs.layers.shape[1])], 1)
    assert (above - softmax - theirs.biases).abs().max() < tolerance * theirs.layers.abs().sum(2).max()
    assert distance(ours.value, theirs.value) < tolerance


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("name", [*FAMILIES, *VARIANTS])
def test_float64_equals_the_oracle_entry_by_entry(name: str, composite: str) -> None:
    model, ids = build(name), inputs(name)
    with exact_float64():
        theirs = oracle(model, ids, WEIGHTS, composite=composite)
        with torch.no_grad():
            assert distance(model(ids).logits, theirs.logits) < 1e-13, "the oracle computes another function"
        ours = attribute(model, composite, input_ids=ids)
    assert theirs.ledger.max() < 1e-12
    assert ours.ledger().max() < 1e-10
    assert_same(ours, theirs, 1e-10)


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("name", FAMILIES)
def test_float32_closes_the_ledger_at_every_residual_point(name: str, composite: str) -> None:
    model, ids = build(name, dtype=torch.float32), inputs(name)
    ours = attribute(model, composite, input_ids=ids)
    assert ours.ledger().max() < 1e-4
    theirs = oracle(model.double(), ids, WEIGHTS, composite=composite)
    assert_same(ours, theirs, 1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "cohere"])
def test_the_gradient_composite_is_the_plain_gradient(name: str) -> None:
    model, ids = build(name, dtype=torch.float64), inputs(name)
    with exact_float64():
        embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = model(inputs_embeds=embeds).logits[0, -1]
        (gradient,) = torch.autograd.grad(logits[5] - logits[7], embeds)
        ours = attribute(model, "gradient", input_ids=ids)
    assert distance(ours.tokens, (embeds * gradient).sum(-1).detach()) < 1e-12


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt2"])
def test_every_attention_implementation_gives_the_same_relevance(name: str, attention: str) -> None:
    model, ids = build(name, attn_implementation=attention), inputs(name)
    with exact_float64():
        assert_same(attribute(model, "attnlrp", input_ids=ids), oracle(model, ids, WEIGHTS), 1e-10)


def test_bias_free_cp_lrp_conserves() -> None:
    """sum R = value at every residual point. (Blind to most faults: the mutations below say to which.)"""
    model, ids = build("llama-bias-free"), inputs("llama")
    with exact_float64():
        ours = attribute(model, "cp-lrp", input_ids=ids)
    assert torch.allclose(ours.layers.sum(2), ours.value[:, None].expand(-1, 4), rtol=1e-12)


# Mutations: a rule removed or a factor changed must be seen by the ledger or by the entries -------------------------

Row = tuple[Match, Rule | None]
REMOVED: dict[str, tuple[str, Composite, Row]] = {
    "norm": ("llama", ATTNLRP, (Role.NORM, None)),
    "one norm": ("llama", ATTNLRP, ("*layers.1.post_attention_layernorm", None)),
    "layer norm": ("gpt2", ATTNLRP, (Role.NORM, None)),
    "qk-norm": ("qwen3", ATTNLRP, ("*.k_norm", None)),
    "activation": ("gpt2", ATTNLRP, (Role.ACTIVATION, None)),
    "gated product": ("llama", ATTNLRP, (Role.GATED, None)),
    "gated product in cp-lrp": ("llama", CP_LRP, (Role.GATED, None)),
}


@pytest.mark.parametrize("mutation", REMOVED)
def test_a_removed_rule_breaks_the_ledger_and_the_entries(mutation: str) -> None:
    name, composite, row = REMOVED[mutation]
    model, ids = build(name), inputs(name)
    with exact_float64():
        theirs = oracle(model, ids, WEIGHTS, composite=composite.name)
        ours = attribute(model, composite.extended("mutated", row), input_ids=ids)
    assert distance(ours.tokens, theirs.tokens) > 0.01
    assert ours.ledger().max() > 1e-3


def test_the_final_softcap_is_explained_before_the_cap() -> None:
    """Without its rule the ledger still closes, around another value: the walk and the entries notice."""
    model, ids = build("gemma2"), inputs("gemma2")
    plain = ATTNLRP.extended("mutated", (Role.FINAL_SOFTCAP, None))
    with pytest.raises(UnclaimedModuleError, match="Tanh"):
        instrument(model, plain)
    with exact_float64():
        ours, theirs = attribute(model, "attnlrp", input_ids=ids), oracle(model, ids, WEIGHTS)
        mutated = attribute(model, plain, input_ids=ids)
    assert distance(mutated.tokens, theirs.tokens) > 0.01
    capped = theirs.logits[0, -1, 5] - theirs.logits[0, -1, 7]
    assert ours.target_value.item() == pytest.approx(capped.item(), rel=1e-6)
    assert abs(ours.value.item() - capped.item()) > 0.01 * abs(capped.item())


CHANGED: dict[str, tuple[str, Row]] = {
    "query": ("llama", (Role.ATTENTION, share_attention(query=0.3, key=0.25, value=0.5))),
    "key": ("llama", (Role.ATTENTION, share_attention(query=0.25, key=0.2, value=0.5))),
    "value": ("llama", (Role.ATTENTION, share_attention(query=0.25, key=0.25, value=0.6))),
    "halves": ("llama", (Role.GATED, share_product(gate=0.4, up=0.6))),
    "softcap slope": ("gemma2", (Role.ATTENTION, share_attention(0.25, 0.25, 0.5, softcap_slope=False))),
}


@pytest.mark.parametrize("mutation", CHANGED)
def test_a_changed_factor_changes_entries_that_no_sum_can_see(mutation: str) -> None:
    name, row = CHANGED[mutation]
    model, ids = build(name), inputs(name)
    with exact_float64():
        theirs = oracle(model, ids, WEIGHTS)
        ours = attribute(model, ATTNLRP.extended("mutated", row), input_ids=ids)
    assert distance(ours.tokens, theirs.tokens) > 0.01


INGREDIENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "norm": ("llama", {"detach_norm": False}),
    "slope": ("llama", {"slope": False}),
    "softcap": ("gemma2", {"softcap_slope": False}),
    "query": ("llama", {"query": 0.0}),
    "key": ("llama", {"key": 0.0}),
    "value": ("llama", {"value": 1.0}),
    "gate": ("llama", {"gate": 1.0, "up": 0.0}),
}


@pytest.mark.parametrize("ingredient", INGREDIENTS)
def test_the_test_models_make_every_ingredient_visible(ingredient: str) -> None:
    """Meta-test: on default-initialised models several of these would change nothing."""
    name, change = INGREDIENTS[ingredient]
    model, ids = build(name), inputs(name)
    right = oracle(model, ids, WEIGHTS)
    wrong = oracle(model, ids, WEIGHTS, composite=replace(COMPOSITES["attnlrp"], **change))
    assert distance(wrong.tokens, right.tokens) > 0.01


# Batches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mistral", "cohere2"])
def test_a_padded_batch_gives_each_row_what_it_gives_alone(name: str, side: str) -> None:
    model = build(name, dtype=torch.float32)
    rows = [inputs(name, length=length, seed=length)[0] for length in (12, 7, 3)]
    ids, mask = pad(rows, side)
    with instrument(model) as lrp:
        batch = lrp.trace(input_ids=ids, attention_mask=mask).attribute(CONTRAST, heads=True)
        for row, alone in enumerate(rows):
            single = lrp.trace(input_ids=alone[None]).attribute(CONTRAST, heads=True)
            inside = mask[row].bool()
            assert distance(batch.tokens[row, inside], single.tokens[0]) < 1e-5
            assert distance(batch.layers[row][:, inside], single.layers[0]) < 1e-5
            assert distance(batch.heads[row][:, :, inside], single.heads[0]) < 1e-5
            assert distance(batch.value[row], single.value[0]) < 1e-5
            assert distance(batch.absorbed.above(0)[row], single.absorbed.above(0)[0]) < 1e-4
            assert (batch.tokens[row, ~inside] == 0).all()
            assert (batch.layers[row][:, ~inside] == 0).all()
        assert batch.ledger().max() < 1e-4


def pad(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    length = max(len(row) for row in rows)
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for i, row in enumerate(rows):
        where = slice(length - len(row), length) if side == "left" else slice(0, len(row))
        ids[i, where], mask[i, where] = row, 1
    return ids, mask


# Half precision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma", "nemotron", "qwen3", "olmo", "cohere"])
def test_half_precision_is_finite_also_at_zero_pre_activations(name: str, composite: str, dtype: torch.dtype) -> None:
    model, ids = build(name, dtype=dtype), inputs(name)
    with torch.no_grad():  # half of the MLP's pre-activations are exactly zero
        for path, parameter in model.named_parameters():
            if any(part in path for part in ("gate_proj", "c_fc", "mlp.up_proj")) and path.endswith(("weight", "bias")):
                half = parameter.shape[-1] // 2 if "c_fc" in path else parameter.shape[0] // 2
                (parameter[..., :half] if "c_fc" in path else parameter[:half]).zero_()
    ours = attribute(model, composite, input_ids=ids)
    exact = oracle(model.double(), ids, WEIGHTS, composite=composite)
    assert ours.tokens.dtype == torch.float32
    assert torch.isfinite(ours.tokens).all()
    assert torch.isfinite(ours.layers).all()
    # the budget: what rounding the weights' products to this dtype costs, a few dozen units in the last place
    assert distance(ours.tokens.double(), exact.tokens) < 64 * torch.finfo(dtype).eps


def test_float16_seeds_are_scaled_so_that_small_gradients_survive() -> None:
    model, ids = build("llama", dtype=torch.float16), inputs("llama")
    with torch.no_grad():
        model.lm_head.weight.mul_(2e-5)  # gradients of about 1e-6: below float16's normal range
    ours = attribute(model, "attnlrp", input_ids=ids)
    exact = oracle(model.double(), ids, WEIGHTS)
    assert distance(ours.tokens.double(), exact.tokens) < 0.05
