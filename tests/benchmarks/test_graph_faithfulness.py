"""The cuts of the graph suite: which edges they take, and that kept edges matter on a model where they must."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import pytest
import torch
from families import build, inputs

from benchmarks.graph_faithfulness import SINGLES, TOP_PS, examine, matched, possible, smoke_status, summary
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
def found() -> dict[str, Any]:
    from lrp_hooks import instrument

    model, ids = build("llama", dtype=torch.float32), inputs("llama", length=9)
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    target, contrast = logits.topk(2).indices.tolist()
    prompt = Prompt("test:1", tuple(ids[0].tolist()), target, contrast, float(logits[target] - logits[contrast]), ())
    with instrument(model) as lrp:
        return examine(lrp, prompt)


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
