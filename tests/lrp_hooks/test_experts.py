"""Mixtures of experts against the float64 oracle, entry by entry; every implementation; mutations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import EXPERTS, VOCABULARY, build, exact_float64, inputs
from oracle import OracleResult, oracle
from torch import Tensor

from lrp_hooks import LogitDiff, Relevance, Role, instrument
from lrp_hooks.composites import ATTNLRP, CP_LRP, Composite, Match, Rule
from lrp_hooks.rules import experts, inline
from lrp_hooks.rules.inline.claim import Shares, claim_operations

WEIGHTS = torch.zeros(VOCABULARY, dtype=torch.float64)
WEIGHTS[5], WEIGHTS[7] = 1.0, -1.0
CONTRAST = LogitDiff(5, 7)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def attribute(model: Any, composite: str | Composite, unknown: Any = "error", **inputs: Tensor) -> Relevance:
    with instrument(model, composite, unknown=unknown) as lrp:
        assert lrp.value_error == 0.0
        return lrp.trace(**inputs).attribute(CONTRAST, heads=True)


def assert_same(ours: Relevance, theirs: OracleResult, tolerance: float) -> None:
    assert distance(ours.tokens, theirs.tokens) < tolerance
    for point in range(theirs.layers.shape[1]):
        assert distance(ours.layers[:, point], theirs.layers[:, point]) < tolerance
    assert distance(ours.heads, theirs.heads) < tolerance
    assert distance(ours.mid, theirs.mid) < tolerance
    above = torch.stack([ours.absorbed.above(p) for p in range(theirs.layers.shape[1])], 1)
    softmax = torch.stack([theirs.softmax[:, p:].sum(1) for p in range(theirs.layers.shape[1])], 1)
    assert (above - softmax - theirs.biases).abs().max() < tolerance * theirs.layers.abs().sum(2).max()
    assert distance(ours.value, theirs.value) < tolerance


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("name", EXPERTS)
def test_float64_equals_the_oracle_entry_by_entry(name: str, composite: str) -> None:
    model, ids = build(name), inputs(name)
    with exact_float64():
        theirs = oracle(model, ids, WEIGHTS, composite=composite)
        with torch.no_grad():
            assert distance(model(ids).logits, theirs.logits) < 1e-12, "the oracle computes another function"
        ours = attribute(model, composite, input_ids=ids)
    assert theirs.ledger.max() < 1e-12
    assert ours.ledger().max() < 1e-10
    assert_same(ours, theirs, 1e-10)


@pytest.mark.parametrize("implementation", ["eager", "batched_mm", "grouped_mm"])
@pytest.mark.parametrize("name", EXPERTS)
def test_every_experts_implementation_gives_each_row_what_it_gives_alone(name: str, implementation: str) -> None:
    """Banks regroup their tokens by expert; what their biases absorb is booked to the right row all the same."""
    model = build(name, dtype=torch.float32, experts_implementation=implementation)
    ids = torch.cat([inputs(name, seed=seed) for seed in (0, 1)])
    with instrument(model) as lrp:
        both = lrp.trace(input_ids=ids).attribute(CONTRAST, heads=True)
    assert both.ledger().max() < 1e-4
    theirs = oracle(model.double(), ids, WEIGHTS)
    assert_same(both, theirs, 1e-4)


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("name", EXPERTS)
def test_exact_edges_equal_packed_ones(name: str, composite: str) -> None:
    with exact_float64(), instrument(build(name), composite) as lrp:
        trace = lrp.trace(input_ids=inputs(name))
        exact, packed = trace.edge_matrices(CONTRAST), trace.edge_matrices(CONTRAST, method="packed")
        assert max(distance(exact[pair], packed[pair]) for pair in exact) < 1e-10


def moving_routing(site: Any) -> Any:
    """The bank's operations by their rules, but the routing weights carry relevance: the half rule."""
    return claim_operations(site, Shares(0.5, softmax=False))


Row = tuple[Match, Rule | None]
MUTATIONS: dict[str, tuple[str, Composite, Row]] = {
    "bank without its rule": ("mixtral", ATTNLRP, (Role.EXPERTS, None)),
    "bank without its rule, cp-lrp": ("mixtral", CP_LRP, (Role.EXPERTS, None)),
    "renormalised routing moves": ("deepseek_v3", ATTNLRP, (Role.EXPERTS, moving_routing)),
    "uneven gate": ("mixtral", ATTNLRP, (Role.EXPERTS, experts.constant_routing(gate=0.4))),
    "uneven clamped gate": ("gpt_oss", ATTNLRP, (Role.EXPERTS, experts.constant_routing(gate=0.4))),
    "gate not constant in cp-lrp": ("gpt_oss", CP_LRP, (Role.EXPERTS, experts.constant_routing(gate=0.5))),
    "uneven shared gate": ("qwen2_moe", ATTNLRP, (Role.INLINE, inline.by_operation(gate=0.4))),
    "shared gate without its rule": ("qwen2_moe", ATTNLRP, (Role.INLINE, None)),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_mutation_is_noticed(mutation: str) -> None:
    name, composite, row = MUTATIONS[mutation]
    model, ids = build(name), inputs(name)
    with exact_float64():
        theirs = oracle(model, ids, WEIGHTS, composite=composite.name)
        ours = attribute(model, composite.extended("mutated", row), "gradient", input_ids=ids)
    assert distance(ours.tokens, theirs.tokens) > 1e-3  # they agree to 1e-10
