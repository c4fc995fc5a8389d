"""The long-context benchmark: what it makes of its rows, and that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import long

ROW = long.Row("demo", 4096, "attribution", 10.0, 1500.0, 500.0, None, 0.5, 1, "abc")


def rows(power: float, stage: str = "attribution") -> list[long.Row]:
    lengths = (1024, 4096, 8192, 32_768)
    return [replace(ROW, tokens=n, added=0.1 * n**power, stage=stage) for n in lengths]


def test_the_slope_is_that_of_the_range_of_the_bar() -> None:
    assert long.slope(rows(1.0)) == pytest.approx(1.0)
    assert long.slope(rows(2.0)) == pytest.approx(2.0)
    bent = [replace(r, added=1e9) if r.tokens < long.SLOPE_FROM else r for r in rows(1.0)]
    assert long.slope(bent) == pytest.approx(1.0)
    assert long.slope(rows(1.0)[:2]) is None


def test_what_misses_its_bar_is_said() -> None:
    assert long.faults(rows(1.0) + rows(1.04, "graph")) == []
    assert long.faults(rows(1.0) + rows(1.2, "graph")) == ["memory of graph: slope 1.200, at most 1.05"]
    large = replace(ROW, tokens=32_768, stage="graph", peak=6001.0)
    assert long.faults([large]) == ["the graph of 32,768 tokens takes 6,001 MB, at most 6,000"]


def test_a_peak_above_its_budget_is_said() -> None:
    row = replace(ROW, model="small", stage="graph in 1 x least", added=500.0, budget=490.0)
    assert long.faults([row]) == []  # what a first call loads is no activation
    assert long.faults([replace(row, budget=470.0)]) == [
        "graph in 1 x least of 4,096 tokens adds 500 MB, its budget 470"
    ]
    assert [long.budget_share(s) for s in ("graph", "offloaded", "graph in 1.5 x least")] == [None, 1.0, 1.5]
    assert "| small | 4,096 | graph in 1 x least | 490 | 500 | 102% |" in long.page([row])
    asked = {s for p in long.points() for s in p.stages if s.endswith(" x least")}
    assert {long.budget_share(s) for s in asked} == set(long.BUDGETS)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "RESULT", tmp_path / "long.json")
    every = list(long.missing((), "", ""))
    assert every == list(long.points())
    long.keep(replace(ROW, model="small", tokens=long.LONGEST))
    long.keep(ROW)
    left = list(long.missing((), "", ""))
    assert long.Point("demo", 4096, ("attribution",)) not in left
    assert long.Point("small", long.LONGEST, ("top graph",)) in left
    assert len(left) == len(every) - 1
    assert [p.stages for p in long.missing((4096,), "demo", "graph")] == [("graph",)]
    long.keep(replace(ROW, seconds=11.0))
    kept = json.loads(long.RESULT.read_text())["rows"]
    assert [(r["model"], r["seconds"]) for r in kept] == [("demo", 11.0), ("small", 10.0)]


def test_bytes_per_token_and_layer() -> None:
    assert replace(ROW, tokens=1024, added=30.0).bytes_per_token_and_layer == pytest.approx(1024.0)
    assert replace(ROW, model="small", tokens=1024, added=4.0).bytes_per_token_and_layer == pytest.approx(1024.0)


def test_the_page_is_made_from_the_results() -> None:
    assert long.PAGE.read_text() == long.page(long.known())
    assert long.faults(long.known()) == []
