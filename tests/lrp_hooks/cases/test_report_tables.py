"""The tables of a sweep as CSV and as Parquet: the same rows, with types that do not depend on what is in them."""

from __future__ import annotations

import csv
from io import BytesIO, StringIO
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from lrp_hooks.cases.schema import Case, CaseToken
from lrp_hooks.cases.sweep.breakdown import Share
from lrp_hooks.cases.sweep.records import Attributed, Validated
from lrp_hooks.cases.validation.validate import Flip, Validation
from lrp_hooks.render import failures_data
from lrp_hooks.render.failures import Report, write_report

HOSTILE = '=1+1,"\n\ud800é'
TYPES = {
    "cases": {"case": "string", "position": "int64", "difference": "double", "ledger": "double", "label": "string"},
    "flips": {"draw": "int64", "passes": "bool", "passed": "int64", "words": "list<element: string>"},
    "segments": {"part": "string", "tokens": "int64", "absolute": "double", "signed": "double"},
    "rankings": {"cases": "int64", "words_median": "double", "passed": "double", "more_words_high": "double"},
}


def report() -> Report:
    """Two cases under one model; the second has no position, no ledger, and does not change."""
    cases = [
        Case(id="a", prompt="x", position=3, target=CaseToken(id=1, text=HOSTILE), contrast=CaseToken(id=2, text=" b")),
        Case(id="b", prompt="y", target=CaseToken(id=1), contrast=CaseToken(id=2)),
    ]
    shares = (Share(name="query", tokens=2, absolute=0.1 + 0.2, signed=-0.25),)
    attributed = [
        Attributed(case="a", model="m", composite="attnlrp", value=1.5, ledger=1e-6, shares=shares, scores=(1.0, 0.5)),
        Attributed(case="b", model="m", composite="attnlrp", value=0.1 + 0.2),
    ]
    flips = (
        Flip(ranking="attnlrp", replacement="neutral", changed=2, overtaken=None, passes=True, words=("so", HOSTILE)),
        Flip(ranking="random", replacement="neutral", draw=1, changed=None, words=()),
    )
    return Report(
        cases, attributed, [Validated(case="a", model="m", validation=Validation(words=4, most=4, flips=flips))]
    )


@pytest.mark.parametrize("number", range(4))
def test_parquet_and_csv_hold_the_same_rows_and_parquet_has_types(number: int) -> None:
    table = failures_data.tables(report())[number]
    read = parquet.read_table(BytesIO(failures_data.as_parquet(table)))
    rows = list(csv.reader(StringIO(failures_data.as_csv(table))))
    assert rows[0] == read.column_names == list(table.types)
    assert len(rows) - 1 == read.num_rows == len(table.rows) == (2, 2, 1, 2)[number]
    types = {name: str(read.schema.field(name).type) for name in TYPES[table.name]}
    assert types == TYPES[table.name]
    assert read.schema.metadata[b"lrp_hooks.sweep.tables"] == b"1"


def test_parquet_keeps_values_and_texts() -> None:
    cases, flips, segments, rankings = (
        parquet.read_table(BytesIO(failures_data.as_parquet(table))).to_pylist()
        for table in failures_data.tables(report())
    )
    assert [row["position"] for row in cases] == [3, None]
    assert [row["difference"] for row in cases] == [1.5, 0.1 + 0.2]
    assert [row["ledger"] for row in cases] == [1e-6, None]
    assert cases[0]["target"] == '=1+1,"\n⟨U+D800⟩é'  # no apostrophe: nothing reads a typed text as a formula
    assert cases[1]["target"] is None
    assert [(row["changed"], row["overtaken"], row["passes"]) for row in flips] == [(2, None, True), (None, None, None)]
    assert flips[0]["words"] == ["so", '=1+1,"\n⟨U+D800⟩é']
    assert [(row["ranking"], row["passes"], row["passed"]) for row in rankings] == [
        ("attnlrp", 1.0, None),
        ("random", None, None),
    ]
    assert (segments[0]["absolute"], segments[0]["signed"]) == (0.1 + 0.2, -0.25)


def test_a_table_without_rows_has_the_same_types() -> None:
    for full, empty in zip(failures_data.tables(report()), failures_data.tables(Report([], [], [])), strict=True):
        schemas = [parquet.read_schema(BytesIO(failures_data.as_parquet(table))) for table in (full, empty)]
        assert schemas[0].equals(schemas[1])


def test_without_pyarrow_there_are_csv_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures_data, "find_spec", lambda name: None if name == "pyarrow" else pytest.fail(name))
    write_report(report(), tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.html", "report.md", "cases.csv", "flips.csv", "segments.csv", "rankings.csv"}
