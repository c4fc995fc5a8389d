"""Removal curves, intervals, correlations and records, computed by hand on models whose answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import faithfulness
from benchmarks.intervals import mean_interval, pearson, ranks, spearman
from benchmarks.methods import METHODS
from benchmarks.prompts import Prompt, chat_prompts, content_positions, ioi_prompts
from benchmarks.removal import AOPC, GRID, MOST, Removal, area, blank_token, leave_one_out, removal
from benchmarks.resume import Records
from lrp_hooks.cases.answers.generate import encode_prompt

BLANK, WORTH = 0, [0.0, 4.0, -1.0, 3.0, 2.0, 1.0, 0.0]
"""What each token id adds to the logit difference; the blank adds nothing."""


class Adding(nn.Module):
    """The logit difference of tokens 1 and 0 is the sum of the tokens' worth."""

    def forward(self, ids: Tensor, **_: Any) -> Any:
        value = torch.tensor(WORTH)[ids].sum(1)
        return SimpleNamespace(logits=torch.stack((torch.zeros_like(value), value), -1)[:, None])


def prompt(*ids: int) -> Prompt:
    return Prompt("test:1", ids, 1, 0, sum(WORTH[i] for i in ids), tuple(range(1, len(ids) - 1)))


def test_leaving_one_out_gives_each_token_s_own_worth() -> None:
    found = leave_one_out(Adding(), prompt(6, 1, 2, 3, 4, 6), BLANK, together=3)
    assert found.tolist() == [4.0, -1.0, 3.0, 2.0]


def test_curves_fall_as_the_worth_says() -> None:
    """Twenty tokens of worth 1: each share of them removed takes that share of the difference."""
    flat = prompt(6, *[5] * 20, 6)
    made = removal(Adding(), flat, torch.zeros(22), BLANK)
    assert made.most_first == pytest.approx([1 - share for share in GRID], abs=1e-6)
    assert made.gap == pytest.approx(0.0, abs=1e-6)
    assert made.comprehensiveness == pytest.approx(sum(AOPC) / len(AOPC))
    assert made.sufficiency == pytest.approx(1 - sum(AOPC) / len(AOPC))
    assert made.turn == MOST + 1  # 20 tokens of worth 1 reach a tie, and a tie is no turn


def test_a_good_order_is_better_than_a_bad_one() -> None:
    ids = (6, *[1] * 2, *[5] * 16, *[2] * 2, 6)
    case, worth = prompt(*ids), torch.tensor([WORTH[i] for i in ids])
    good, bad = removal(Adding(), case, worth, BLANK), removal(Adding(), case, -worth, BLANK)
    assert good.gap > 0 > bad.gap
    assert good.gap == pytest.approx(-bad.gap)
    assert good.comprehensiveness > bad.comprehensiveness
    assert good.sufficiency < bad.sufficiency
    assert good.least_first[1] > 1.0  # without a token that spoke for the contrast the difference grows


def test_the_turn_is_the_first_that_makes_the_contrast_lead() -> None:
    case = prompt(6, 4, 2, 1, 3, 2, 2, 6)  # 2 - 1 + 4 + 3 - 1 - 1 = 6: below 0 without 4 and 3
    worth = torch.tensor([WORTH[i] for i in case.ids])
    assert removal(Adding(), case, worth, BLANK).turn == 2
    assert removal(Adding(), case, -worth, BLANK).turn == MOST + 1  # all removed is a tie


def test_the_area_is_that_of_trapezoids() -> None:
    assert area([1.0] * len(GRID)) == pytest.approx(1.0)
    assert area(GRID) == pytest.approx(0.5)


def test_ranks_and_correlations_by_hand() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0]).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1.0)
    assert pearson([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)
    assert pearson([1, 1, 1], [3, 1, 2]) == 0.0


def test_intervals_hold_the_mean_as_often_as_they_say() -> None:
    """95 % intervals of 40 numbers hold the true mean in about 95 of 100 draws."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(200):
        _, low, high = mean_interval(torch.randn(40, generator=generator).tolist())
        held += low <= 0.0 <= high
    assert 0.88 <= held / 200 <= 0.99
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="no value"):
        mean_interval([])


def test_records_survive_a_kill_and_belong_to_their_settings(tmp_path: Path) -> None:
    made: list[str] = []

    def make(name: str) -> Any:
        made.append(name)
        return [len(made)]

    records = Records("run", {"commit": "a"}, tmp_path)
    assert records.get("x", lambda: make("x")) == [1]
    with (tmp_path / "run.jsonl").open("a") as file:
        file.write('{"key": "y", "val')  # cut off
    again = Records("run", {"commit": "a"}, tmp_path)
    assert again.get("x", lambda: make("x")) == [1]
    assert again.get("y", lambda: make("y")) == [2]
    assert len(Records("run", {"commit": "a"}, tmp_path)) == 2
    assert len(Records("run", {"commit": "b"}, tmp_path)) == 0
    again.done()
    assert not (tmp_path / "run.jsonl").exists()


def test_a_summary_holds_means_intervals_and_sources(tmp_path: Path) -> None:
    flat = Removal(tuple(1 - s for s in GRID), tuple(1 - s for s in GRID), 3)
    records = [
        {"most_first": flat.most_first, "least_first": flat.least_first, "turn": turn, "agreement": a, "seconds": 1.0}
        | {"source": source}
        for turn, a, source in ((1, 0.2, "ioi"), (3, 0.4, "ioi"), (MOST + 1, 0.9, "gsm8k"))
    ]
    rows = faithfulness.summaries("x", records)
    assert [(row["source"], row["prompts"]) for row in rows] == [("all", 3), ("ioi", 2), ("gsm8k", 1)]
    assert rows[0]["agreement"] == pytest.approx(0.5)
    assert rows[1]["agreement_interval"] == pytest.approx([0.2, 0.4])
    assert rows[0]["median_turn"] == 3
    assert rows[0]["turned"] == pytest.approx(2 / 3)
    assert rows[0]["most_first"] == pytest.approx(0.5)


def test_a_map_no_better_than_chance_fails_the_smoke_profile() -> None:
    def rows(ours: float) -> list[dict[str, Any]]:
        return [{"method": m, "source": "all", "gap": g} for m, g in (("attnlrp", ours), ("random", 0.1))]

    assert faithfulness.smoke_status(rows(0.2)) == 0
    assert faithfulness.smoke_status(rows(0.05)) == 1


@pytest.mark.slow
def test_real_prompts_are_clear_and_their_maps_recorded(demo: Any, tmp_path: Path) -> None:
    found = next(ioi_prompts(demo))
    assert found.difference >= 1.0
    text = demo.tokenizer.decode(found.ids)
    assert text.count(demo.tokenizer.decode([found.contrast])[1:]) == 2
    assert text.count(demo.tokenizer.decode([found.target])[1:]) == 1
    records = Records("x", {}, tmp_path)
    blank = blank_token(demo.tokenizer)
    (ours,) = faithfulness.examine(demo.model, METHODS[0], [found], blank, records)
    single = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[1])["value"]
    assert len(single) == len(found.movable)
    assert ours["source"] == "ioi"
    assert len(ours["most_first"]) == len(GRID)
    assert ours["most_first"][-1] == ours["least_first"][-1]


@pytest.mark.slow
def test_only_a_person_s_own_words_are_removed_from_a_chat(demo: Any) -> None:
    text = "Name a fruit that is yellow and long."
    found = list(chat_prompts(demo, iter([("x:1", text), ("x:2", "word " * 200)])))
    assert [each.name for each in found] in ([], ["x:1"])  # a second choice may be near; too long is never taken
    ids = encode_prompt(demo.tokenizer, [{"role": "user", "content": text}])
    inside = content_positions(demo.tokenizer, ids, text)
    assert demo.tokenizer.decode([ids[i] for i in inside]) == text
    assert set(range(len(ids))) - set(inside)
