"""Models and checkpoints on the same cases: outcomes, trajectories, parts by outcome, and what is refused."""

from __future__ import annotations

import csv
import json
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, complaints, needs_chromium
from typer.testing import CliRunner

from lrp_hooks.cases.schema import Case, CaseToken
from lrp_hooks.cases.sweep.breakdown import Share
from lrp_hooks.cases.sweep.compare import compare, outcome_shares, trajectory
from lrp_hooks.cases.sweep.records import Attributed, Item, Piece
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.cli.app import app
from lrp_hooks.errors import CaseError
from lrp_hooks.render.failures import Report, failures_page
from lrp_hooks.render.failures_compare import comparison_table, page_data, short_names
from lrp_hooks.render.failures_tables import markdown, overview

VALUES = {
    "m@2": {"p": 3.0, "q": 1.0, "r": -1.0, "s": -2.0},
    "m@1": {"p": 2.0, "q": -0.5, "r": 0.25, "s": -1.0},
    "m@3": {"q": -3.0, "p": 0.0, "r": 2.0},
}


def row(case: str, model: str, value: float, tokenizer: str = "t", **fields: Any) -> Attributed:
    made = {"composite": "attnlrp", "target_logit": value + 7, "contrast_logit": 7.0, **fields}
    return Attributed(case=case, model=model, value=value, tokenizer=tokenizer, **made)


def records() -> list[Attributed]:
    """Four cases of three checkpoints, the last of which lacks one; the part "query" has what |difference| says."""
    return [
        row(case, model, value, shares=(Share(name="query", tokens=1, absolute=abs(value) / 4, signed=value / 4),))
        for model, values in VALUES.items()
        for case, value in values.items()
    ]


def cases() -> list[Case]:
    return [Case(id=name, prompt="x", target=CaseToken(id=1), contrast=CaseToken(id=2)) for name in "pqrs"]


def test_what_becomes_of_an_error() -> None:
    near, far = compare(records())
    assert {case.case: case.outcome for case in near.cases} == {
        "p": "not corrected",
        "q": "corrected",
        "r": "newly wrong",
        "s": "right in both",
    }
    assert (near.corrected, dict(far.counts)) == (1, {"not corrected": 1, "corrected": 1, "newly wrong": 1})
    assert comparison_table([near, far])["rows"] == [
        ["m@2", "m@1", "4", "1", "1", "1", "1"],
        ["m@2", "m@3", "3", "1", "1", "1", "0"],
    ]


def test_a_trajectory_follows_the_cases_that_all_models_have() -> None:
    made = trajectory(records(), ["m@1", "m@2", "m@3"])
    assert made is not None
    assert made.models == ("m@1", "m@2", "m@3")
    assert made.cases == {"p": (2.0, 3.0, 0.0), "q": (-0.5, 1.0, -3.0), "r": (0.25, -1.0, 2.0)}
    assert [each.mean for each in made.means] == pytest.approx([1.75 / 3, 1.0, -1 / 3])
    assert [each.mean for each in made.wrong] == pytest.approx([2 / 3, 2 / 3, 2 / 3])  # 0 prefers neither: an error
    assert trajectory([row("p", "a", 1.0), row("q", "b", 1.0)]) is None


def test_parts_of_the_prompt_by_outcome() -> None:
    near, _ = compare(records())
    groups = outcome_shares(records(), near)
    found = {g.outcome: [(r.model, r.absolute.mean, r.signed.mean, r.absolute.count) for r in g.rows] for g in groups}
    assert found["corrected"] == [("m@2", 0.25, 0.25, 1), ("m@1", 0.125, -0.125, 1)]
    assert found["not corrected"] == [("m@2", 0.75, 0.75, 1), ("m@1", 0.5, 0.5, 1)]
    assert [(g.outcome, g.cases) for g in groups] == [(name, 1) for name in found]


def test_other_input_tokens_are_counted() -> None:
    def piece(number: int) -> tuple[Piece, ...]:
        return (Piece(id=number, text="x"),)

    rows = [row("p", "a", 1.0, pieces=piece(1)), row("q", "a", 1.0, pieces=piece(1))]
    (made,) = compare([*rows, row("p", "b", 1.0, pieces=piece(1)), row("q", "b", 1.0, pieces=piece(2))])
    assert made.retokenized == 1
    assert "b sees other input tokens in 1 of 2 cases" in comparison_table([made])["note"]


def test_tokenizers_that_differ_are_refused_and_the_report_says_so() -> None:
    rows = [row("p", "a", 1.0), row("p", "b", 1.0, "u"), row("p", "c", 1.0), row("p", "d", 1.0, "v")]
    words = "b has another tokenizer than a: .* cannot be compared.*--model a --model c.*without b or b, d"
    with pytest.raises(CaseError, match=words):
        compare(rows)
    assert [each.other for each in compare(rows, ["c", "a"])] == ["a"]
    report = Report(cases(), rows, [])
    assert (report.comparisons, report.trajectory) == ([], None)
    assert "another tokenizer" in page_data(report)["incomparable"]
    for text in (markdown(report), overview(report)):
        assert "not compared: b has another tokenizer than a" in text
    assert Report(cases(), rows[:1], []).incomparable == ""


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["a/m@1", "a/m@2:bfloat16"], ["1", "2:bfloat16"]),
        (["a/m@1", "a/n@1"], ["m@1", "n@1"]),
        (["/x/y/a", "/x/z/b"], ["y/a", "z/b"]),
        (["a", "a/b"], ["a", "a/b"]),
        (["a/m@1"], ["a/m@1"]),
        ([], []),
    ],
)
def test_short_names_keep_what_differs(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep whose models were asked for in an order that is not the alphabet's, the last one in a later run."""
    store = Store(tmp_path / "sweep")
    for models in (["m@2", "m@1"], ["m@1", "m@3"]):
        store.open(cases(), {}, models)
    for record in records():
        store.write(Item("attribute", record.model, record.case, "attnlrp"), record)
    return store.folder


def test_models_stay_in_the_order_in_which_they_were_asked_for(folder: Path) -> None:
    store = Store(folder)
    assert store.models() == ["m@2", "m@1", "m@3"]
    assert list(dict.fromkeys(record.model for record in store.records(Attributed))) == ["m@2", "m@1", "m@3"]
    assert Store(folder).cases() == cases()


def test_compare_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    words = ["--model", "m@1", "--model", "m@2", "--model", "m@3", "-o", str(tmp_path / "t.csv")]
    done = CliRunner().invoke(app, ["compare", str(folder), *words, "-o", str(tmp_path / "t.html")])
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert said.index("m@1 3 +0.58 [") < said.index("m@2 3 +1.00 [")
    assert "Parts of the prompt by what m@2 makes of the errors of m@1" in done.output
    table = list(csv.DictReader(StringIO((tmp_path / "t.csv").read_text())))
    assert list(table[0]) == ["case", "m@1", "m@2", "m@3", *(f"m@{i}: {part}" for i in (1, 2, 3) for part in PARTS)]
    found = {cells["case"]: cells for cells in table}
    assert (found["q"]["m@3"], found["q"]["m@3: target"], found["q"]["m@3: contrast"]) == ("-3.000", "+4.000", "+7.000")
    assert found["s"]["m@3"] == found["s"]["m@3: target"] == ""
    page = (tmp_path / "t.html").read_text()
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert data["trajectory"]["models"] == ["1", "2", "3"]
    assert [row[0] for row in data["trajectory"]["cases"]] == ["p", "q", "r"]
    assert [each["other"] for each in data["comparisons"]] == ["m@2", "m@3"]


PARTS = ("target", "contrast")


@needs_chromium
def test_the_page_draws_the_trajectory_and_its_points_open_cases(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(failures_page(Report(cases(), records(), [])), encoding="utf-8")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        wrong = complaints(page)
        page.goto(path.as_uri())
        canvas = page.locator("#plots .card", has_text="From model to model").locator("canvas")
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        # the last of three columns of 150 pixels, behind 52 of the axis; q has the least value of all, -3
        lowest = {"x": 52 + 2.5 * 150, "y": 340 - 46 - 8}
        page.mouse.move(box["x"] + lowest["x"], box["y"] + lowest["y"])
        assert page.text_content("#tip") == "q3: \u22123.00 logits"
        page.mouse.move(box["x"] + 52 + 0.5 * 150, box["y"] + 16)  # and p the largest, 3
        assert page.text_content("#tip") == "p2: +3.00 logits"
        canvas.click(position=lowest)
        assert page.text_content("#case h2").startswith("q: why")
        bars = page.locator("#plots .bars", has_text="By what m@1 makes of the errors of m@2")
        assert bars.locator("th").all_text_contents() == [
            "corrected (1)",
            "not corrected (1)",
            "newly wrong (1)",
            "right in both (1)",
        ]
    assert not wrong
