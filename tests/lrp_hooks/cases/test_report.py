"""Comparison of models, tables, and the page of a sweep."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tiny import cases as tiny_cases
from tiny import loaded
from typer.testing import CliRunner

from lrp_hooks.cases.schema import write_cases
from lrp_hooks.cases.sweep.breakdown import Share
from lrp_hooks.cases.sweep.compare import compare
from lrp_hooks.cases.sweep.patterns import read_labels, suggestions
from lrp_hooks.cases.sweep.records import Attributed, Piece, Validated
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.cases.sweep.sweep import Plan, sweep
from lrp_hooks.cases.validation.validate import Flip, Rules
from lrp_hooks.cli import sweep as command
from lrp_hooks.cli.app import app
from lrp_hooks.cli.sweep import ModelSpec
from lrp_hooks.errors import CaseError, InputError, LrpError
from lrp_hooks.render.failures import Report, failures_page, write_report
from lrp_hooks.render.failures_tables import overview


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three cases with two models of one tokenizer."""
    out, cases = tmp_path_factory.mktemp("sweep"), tiny_cases(loaded(), 3)
    plan = Plan(("a", "b"), ("attnlrp", "gradient"), Rules(most=4, draws=1))
    sweep(cases, plan, Store(out), lambda name: loaded(0 if name == "a" else 1))
    return out


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    store = Store(folder)
    return Report(store.cases(), store.records(Attributed), store.records(Validated))


def row(case: str, model: str, value: float, tokenizer: str = "t") -> Attributed:
    return Attributed(case=case, model=model, composite="attnlrp", value=value, tokenizer=tokenizer)


def test_models_are_compared_case_by_case() -> None:
    rows = [row("x", "a", 2.0), row("y", "a", 1.0), row("x", "b", -1.0), row("y", "b", 3.0), row("z", "b", 1.0)]
    (made,) = compare(rows)
    assert [(c.case, c.first, c.other, c.corrected) for c in made.cases] == [("x", 2, -1, True), ("y", 1, 3, False)]
    assert made.corrected == 1
    (turned,) = compare(rows, ["b", "a"])
    assert (turned.first, turned.corrected) == ("b", 0)


def test_models_that_cannot_be_compared() -> None:
    with pytest.raises(CaseError, match="b has another tokenizer than a"):
        compare([row("x", "a", 1.0), row("x", "b", 1.0, "u")])
    with pytest.raises(CaseError, match="needs two models"):
        compare([row("x", "a", 1.0)])
    with pytest.raises(CaseError, match=r"no attribution with the model 'c'\. choices: a, b"):
        compare([row("x", "a", 1.0), row("x", "b", 1.0)], ["a", "c"])


def test_the_report_is_complete(report: Report, tmp_path: Path) -> None:
    paths = write_report(report, tmp_path)
    tables = {
        f"{name}.{suffix}" for name in ("cases", "flips", "segments", "rankings") for suffix in ("csv", "parquet")
    }
    assert {path.name for path in paths} == {"report.html", "report.md", *tables}
    rows = list(csv.DictReader(StringIO((tmp_path / "cases.csv").read_text())))
    assert [(r["case"], r["model"], r["rules"]) for r in rows] == [
        (record.case, record.model, record.composite) for record in report.attributed
    ]
    assert [float(r["difference"]) for r in rows] == [record.value for record in report.attributed]
    flips = list(csv.DictReader(StringIO((tmp_path / "flips.csv").read_text())))
    assert len(flips) == sum(len(v.validation.flips) for v in report.validated if v.validation)
    text = (tmp_path / "report.md").read_text()
    for row_ in report.rankings:
        assert f"| {row_.model} | neutral | {row_.ranking} | {row_.words.count} |" in text
    assert "needs" in overview(report)
    data = page_data((tmp_path / "report.html").read_text())
    assert [case["id"] for case in data["cases"]] == [case.id for case in report.cases]
    assert [len(case["panels"]) for case in data["cases"]] == [4, 4, 4]
    assert data["cases"][0]["panels"][0]["scores"] == list(report.attributed[0].scores)
    assert len(data["comparisons"][0]["points"]) == 3


def page_data(page: str) -> Any:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_texts_cannot_act_on_the_page_or_the_tables(report: Report, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\u202e\x1b[31m| **x** |"
    case = report.cases[0].model_copy(update={"id": "=1+1", "completion": bad, "response": bad})
    piece = Piece(id=1, text=bad)
    record = Attributed(
        case="=1+1", model="@m", composite="attnlrp", pieces=(piece,), scores=(1.0,), top_text="=2", error=bad
    )
    shown = Attributed(case="=1+1", model="@m", composite="attnlrp", pieces=(piece,), scores=(1.0,))
    page = failures_page(Report([case], [record, shown], []), title=bad)
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert page_data(page)["cases"][0]["panels"][0]["tokens"][0].startswith("<script>alert(1)</script>")
    write_report(Report([case], [record], []), tmp_path)
    for name in ("report.md", "cases.csv"):
        text = (tmp_path / name).read_text()
        assert "\x1b" not in text or name.endswith("csv")
    cells = next(csv.DictReader(StringIO((tmp_path / "cases.csv").read_text())))
    assert (cells["case"], cells["model"], cells["top"]) == ("'=1+1", "'@m", "'=2")
    assert "\n| **x**" not in (tmp_path / "report.md").read_text()


def test_patterns_are_suggested_with_their_evidence() -> None:
    shares = (
        Share(name="instruction", tokens=30, absolute=0.1, signed=-0.05),
        Share(name="query", tokens=70, absolute=0.9, signed=0.4),
    )
    flips = (
        Flip(ranking="attnlrp", replacement="pad", changed=3, words=("a", "b", "c")),
        Flip(ranking="attnlrp", replacement="neutral", changed=1, words=("a",)),
        Flip(ranking="gradient", replacement="neutral", changed=1, words=("b",)),
    )
    under, over = suggestions(shares, flips, "attnlrp")
    assert (under.pattern, over.pattern) == ("underweighted relevant", "overweighted irrelevant")
    assert "30% of the tokens, 10% of sum |R| and speaks for the contrast" in under.evidence
    assert "without 'a' (neutral)" in over.evidence
    strong = (shares[0].model_copy(update={"absolute": 0.5}), shares[1])
    assert suggestions(strong, flips[:1], "attnlrp") == ()
    against = (strong[0].model_copy(update={"signed": 0.2}), shares[1])
    assert [s.pattern for s in suggestions(against, (), "attnlrp")] == ["underweighted relevant"]


def test_a_persons_label_stands_beside_the_suggestion(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    assert read_labels(path) == {}
    rows = [{"case": "case/1", "label": "old"}, {"case": "case/1", "label": "wrong token", "note": "<b>"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    labelled = replace(report, labels=read_labels(path))
    data = page_data(failures_page(labelled))
    assert [case["label"] for case in data["cases"]] == [[], ["wrong token", "<b>"], []]
    write_report(labelled, tmp_path)
    rows = list(csv.DictReader(StringIO((tmp_path / "cases.csv").read_text())))
    assert {row["label"] for row in rows if row["case"] == "case/1"} == {"wrong token"}
    path.write_text('{"case": "case/1"}')
    with pytest.raises(CaseError, match="line 1: label: Field required"):
        read_labels(path)


def test_an_empty_report_is_a_page(tmp_path: Path) -> None:
    assert write_report(Report([], [], []), tmp_path)
    assert page_data((tmp_path / "report.html").read_text())["cases"] == []


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("demo", ModelSpec("demo")),
        ("a/b@step100", ModelSpec("a/b", "step100")),
        ("a/b@main:bfloat16", ModelSpec("a/b", "main", "bfloat16")),
        ("demo:float16", ModelSpec("demo", None, "float16")),
        ("C:/models/x", ModelSpec("C:/models/x")),
        ("@x", ModelSpec("@x")),
    ],
)
def test_models_are_named_with_revision_and_dtype(text: str, spec: ModelSpec) -> None:
    assert ModelSpec.parse(text) == spec


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(command, "load", lambda *_: loaded())
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_sweep_on_the_command_line(cli: Any, tmp_path: Path) -> None:
    cases = tiny_cases(loaded(), 2)
    unfound = cases[0].model_copy(update={"id": "unfound", "contrast": None})
    write_cases(tmp_path / "cases.jsonl", [*cases, unfound])
    words = (
        "sweep",
        "cases.jsonl",
        "--model",
        "tiny",
        "-o",
        "out",
        "--composite",
        "attnlrp",
        "--most",
        3,
        "--draws",
        1,
    )
    done = cli(*words)
    assert done.exit_code == 0, done.output
    assert "4/4 items" in done.output
    assert "Validation: words masked until the prediction changes" in done.output
    assert (tmp_path / "out" / "report.html").is_file()
    assert "0 items done by this process" in cli(*words).output


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (("--composite", "lrp0"), LrpError, "lrp0"),
        (("--replacement", "zero"), InputError, "unknown replacement 'zero'"),
        (("--where", "here"), InputError, "unknown part 'here'"),
        (("--min-difference", "1"), CaseError, "holds no case to sweep"),
    ],
)
def test_wrong_options_are_errors(cli: Any, tmp_path: Path, words: Any, error: Any, message: str) -> None:
    case = tiny_cases(loaded(), 1)[0].model_dump(mode="json", exclude_defaults=True)
    case["target"]["logit"] = case["contrast"]["logit"] = 1.0
    (tmp_path / "cases.jsonl").write_text(json.dumps(case))
    done = cli("sweep", "cases.jsonl", "--model", "tiny", "-o", "out", *words)
    assert isinstance(done.exception, error)
    assert message in str(done.exception)


def test_compare_on_the_command_line(cli: Any, folder: Path, tmp_path: Path) -> None:
    done = cli("compare", folder, "-o", "table.csv")
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(StringIO((tmp_path / "table.csv").read_text())))
    values = {(r.case, r.model): r.value for r in Store(folder).records(Attributed) if r.composite == "attnlrp"}
    for cells in rows:
        assert float(cells["a"]) == pytest.approx(values[cells["case"], "a"], abs=5e-4)
        assert float(cells["b"]) == pytest.approx(values[cells["case"], "b"], abs=5e-4)
    assert isinstance(cli("compare", folder, "-o", "table.txt").exception, LrpError)
    assert isinstance(cli("compare", tmp_path).exception, CaseError)
