"""The cuts of the graph suite: which edges they take, and that kept edges matter on a model where they must."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
import torch
from families import build, inputs

from benchmarks.edge_ranking import COUNTS, cut_both_ways, equal_rows, possible, ranked, rankings
from benchmarks.graph_faithfulness import SINGLES, TOP_PS, examine, matched, smoke_status, summary
from benchmarks.planted.paths import GRAPH_METHODS
from benchmarks.prompts import Prompt


def test_possible_edges_go_forward_and_spare_the_first_token() -> None:
    edges = possible(2, 4)
    assert edges == [(b, s, t) for b in range(2) for s, t in ((1, 2), (1, 3), (2, 3))]


def test_random_edges_are_as_many_per_block_and_all_different() -> None:
    pool = possible(3, 8)
    kept = [(0, 1, 2), (0, 1, 3), (2, 4, 5)]
    drawn = matched(kept, pool, Random(0))
    assert Counter(block for block, _, _ in drawn) == {0: 2, 2: 1}
    assert len(set(drawn)) == 3
    assert set(drawn) <= set(pool)
    assert matched(kept, pool, Random(1)) != drawn


@pytest.fixture(scope="module")
def case() -> tuple[Any, Prompt]:
    model, ids = build("llama", dtype=torch.float32), inputs("llama", length=9)
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    target, contrast = logits.topk(2).indices.tolist()
    lead = float(logits[target] - logits[contrast])
    return model, Prompt("test:1", tuple(ids[0].tolist()), target, contrast, lead, ())


@pytest.fixture(scope="module")
def found(case: tuple[Any, Prompt]) -> dict[str, Any]:
    from lrp_hooks import instrument

    model, prompt = case
    with instrument(model) as lrp:
        return examine(lrp, prompt)


def test_edges_are_ranked_by_size_and_read_as_target_from_source() -> None:
    weights = [torch.zeros(4, 4), torch.zeros(4, 4)]
    weights[0][2, 1], weights[1][3, 2], weights[1][3, 1] = 1.0, -3.0, 2.0
    weights[0][1, 2], weights[0][3, 0], weights[0][3, 3] = 9.0, 9.0, 9.0  # the future, the first token, itself
    order = ranked(weights, possible(2, 4))
    assert order[:3] == [(1, 2, 3), (1, 1, 3), (0, 1, 2)]
    assert sorted(order) == sorted(possible(2, 4))


def test_every_method_hands_over_as_many_edges_and_both_cuts_are_complements(case: tuple[Any, Prompt]) -> None:
    from lrp_hooks import LogitDiff, instrument

    model, prompt = case
    orders = rankings(model, [prompt])
    assert list(orders) == [method.name for method in GRAPH_METHODS]
    pool = sorted(possible(model.config.num_hidden_layers, len(prompt.ids)))
    assert all(sorted(order[prompt.name]) == pool for order in orders.values())
    assert len({tuple(order[prompt.name]) for order in orders.values()}) == len(orders)
    with instrument(model) as lrp:
        shares = cut_both_ways(lrp, prompt, {"attnlrp": orders["attnlrp"][prompt.name]})["attnlrp"]
        trace, target = lrp.trace(input_ids=torch.tensor([prompt.ids])), LogitDiff(prompt.target, prompt.contrast)
        kept = set(orders["attnlrp"][prompt.name][:8])
        cut = trace.ablate(target, edges=sorted(kept)).after / prompt.difference
        only = trace.ablate(target, edges=sorted(set(pool) - kept)).after / prompt.difference
    assert shares["cut_8"] == pytest.approx(cut, rel=1e-5)
    assert shares["only_8"] == pytest.approx(only, rel=1e-5)
    assert f"cut_{COUNTS[-1]}" not in shares  # this prompt has fewer edges


def test_equal_numbers_are_means_over_the_prompts_that_have_as_many() -> None:
    (row,) = equal_rows([{"m": {"cut_1": 0.2, "only_1": 0.5, "cut_2": 0.1}}, {"m": {"cut_1": 0.4, "only_1": 0.7}}])
    assert (row["method"], row["prompts"]) == ("m", 2)
    assert (row["cut_1"], row["only_1"], row["cut_2"]) == (pytest.approx(0.3), pytest.approx(0.6), 0.1)
    assert "only_2" not in row


def test_cutting_nothing_changes_nothing_and_the_sets_are_complements(found: dict[str, Any]) -> None:
    rows = found["rows"]
    assert [row["top_p"] for row in rows] == list(TOP_PS)
    assert [row["edges"] for row in rows] == sorted(row["edges"] for row in rows)
    assert all(0 < row["share"] <= 1 for row in rows)
    fullest = rows[-1]
    assert abs(fullest["others_cut"] - 1) < abs(rows[0]["others_cut"] - 1) + 1e-6


def test_single_cuts_hold_weight_and_change(found: dict[str, Any]) -> None:
    singles = found["singles"]
    assert len(singles) == SINGLES
    heavy, light = singles[: SINGLES // 2], singles[SINGLES // 2 :]
    assert min(abs(w) for w, _ in heavy) >= max(abs(w) for w, _ in light)
    assert all(change != 0 for _, change in heavy)


def test_the_summary_is_the_mean_over_prompts() -> None:
    def one(kept: float, sign: float) -> dict[str, Any]:
        row = {"edges": 3, "share": 0.5, "kept_cut": kept, "random_cut": 0.9, "others_cut": 0.8}
        singles = [[float(w), sign * -w] for w in range(1, SINGLES + 1)]
        return {"rows": [row | {"top_p": p} for p in TOP_PS], "singles": singles}

    rows = summary("attnlrp", [one(0.2, 1.0), one(0.4, 1.0)])
    assert len(rows) == len(TOP_PS)
    assert rows[0]["kept_cut"] == pytest.approx(0.3)
    assert rows[0]["kept_cut_interval"] == pytest.approx([0.2, 0.4])
    assert rows[0]["spearman"] == pytest.approx(1.0)
    assert rows[0]["signs"] == 1.0
    turned = summary("attnlrp", [one(0.2, -1.0)])[0]
    assert (turned["spearman"], turned["signs"]) == (pytest.approx(-1.0), 0.0)
    assert smoke_status(rows) == 0
    assert smoke_status([row | {"random_cut": 0.1} for row in rows]) == 1
