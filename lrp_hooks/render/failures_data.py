"""The tables of a sweep for other programs: cases, flips, segments and rankings as CSV and, with types, as Parquet.

A row is one case under one model and, where they differ, one rule set; of rankings, all cases of one model. Both
formats hold the same rows and columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrp_hooks.cases.validation.statistics import Estimate
    from lrp_hooks.render.failures import Report

FORMAT, VERSION = "lrp_hooks.sweep.tables", "1"
TEXT, WHOLE, REAL, YES_NO, TEXTS = "string", "int64", "float64", "bool", "list<string>"
_FORMULA, _NUMBER = re.compile(r"[=+\-@\t\r]"), re.compile(r"[+-]?[0-9.]+")


@dataclass(frozen=True)
class Columns:
    """A table with a type per column; every cell may be None.

    Attributes:
        name: of the file, without its suffix.
        types: Arrow's name of the type, by column.
        rows: cells in the columns' order.
    """

    name: str
    types: dict[str, str]
    rows: list[list[Any]]


def tables(report: Report) -> tuple[Columns, ...]:
    """All of them."""
    return cases(report), flips(report), segments(report), rankings(report)


def cases(report: Report) -> Columns:
    """One row per case, model and rules; logits, seconds, and the ledger relative to sum |R|."""
    known = {case.id: case for case in report.cases}
    types = {
        **dict.fromkeys(("case", "source", "kind"), TEXT),
        "position": WHOLE,
        **dict.fromkeys(("target", "contrast", "model", "rules"), TEXT),
        **dict.fromkeys(("difference", "target_logit", "contrast_logit"), REAL),
        "top": TEXT,
        "ledger": REAL,
        "tokens": WHOLE,
        "seconds": REAL,
        **dict.fromkeys(("suggested", "label", "error"), TEXT),
    }
    rows = []
    for r in report.attributed:
        case = known[r.case]
        said = (case.target and case.target.text, case.contrast and case.contrast.text)
        about = [r.case, case.source, case.kind, case.position, *said, r.model, r.composite]
        found = [r.value, r.target_logit, r.contrast_logit, r.top_text, r.ledger, len(r.scores), r.seconds]
        label = report.labels.get(r.case)
        patterns = "; ".join(each.pattern for each in report.suggestions(r))
        rows.append([*about, *found, patterns, label and label.label, r.error])
    return Columns("cases", types, rows)


def flips(report: Report) -> Columns:
    """One row per case, model, replacement and ranking."""
    types = {
        **dict.fromkeys(("case", "model", "replacement", "ranking"), TEXT),
        **dict.fromkeys(("draw", "changed", "overtaken"), WHOLE),
        "passes": YES_NO,
        **dict.fromkeys(("passed", "most"), WHOLE),
        "words": TEXTS,
        "unjudged": TEXT,
    }
    rows = [
        [
            *(r.case, r.model, f.replacement, f.ranking, f.draw, f.changed, f.overtaken, f.passes, f.passed, v.most),
            *(list(f.words), v.unjudged or v.failure),
        ]
        for r in report.validated
        if (v := r.validation) is not None
        for f in v.flips
    ]
    return Columns("flips", types, rows)


def segments(report: Report) -> Columns:
    """One row per case, model, rules and part of the prompt."""
    names = dict.fromkeys(("case", "model", "rules", "part"), TEXT)
    types = {**names, "tokens": WHOLE, "absolute": REAL, "signed": REAL}
    rows: list[list[Any]] = [
        [r.case, r.model, r.composite, s.name, s.tokens, s.absolute, s.signed]
        for r in report.attributed
        for s in r.shares
    ]
    return Columns("segments", types, rows)


def rankings(report: Report) -> Columns:
    """One row per model, replacement and ranking: means over cases with their 95 % intervals."""
    names = ("words", "flipped", "contrast_words", "contrast_leads", "passes", "passed_words", "passed", "more_words")
    intervals = {f"{name}{suffix}": REAL for name in names for suffix in ("", "_low", "_high")}
    types = {
        **dict.fromkeys(("model", "replacement", "ranking"), TEXT),
        **dict.fromkeys(("cases", "judged"), WHOLE),
        "words_median": REAL,
        **intervals,
    }
    rows: list[list[Any]] = []
    for r in report.rankings:
        about = [r.model, r.replacement, r.ranking, r.words.count, 0 if r.passes is None else r.passes.count, r.middle]
        until = (r.words, r.changed, r.overtaken_words, r.overtaken, r.passes, r.passed_words, r.passed, r.difference)
        rows.append([*about, *(number for each in until for number in _interval(each))])
    return Columns("rankings", types, rows)


def _interval(value: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if value is None else (value.mean, value.low, value.high)


def as_csv(table: Columns) -> str:
    """Comma-separated; lists joined by spaces."""
    rows = [[" ".join(cell) if isinstance(cell, list) else cell for cell in row] for row in table.rows]
    return csv_text(list(table.types), rows)


def csv_text(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated; a text that a spreadsheet would take for a formula gets an apostrophe."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[_inert(cell) for cell in row] for row in rows])
    return out.getvalue()


def _inert(cell: Any) -> Any:
    return "'" + cell if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def parquet_available() -> bool:
    """Is pyarrow, of the extra ``export``, installed?"""
    return find_spec("pyarrow") is not None


def as_parquet(table: Columns) -> bytes:
    """One typed file, also of a table without rows; texts are unchanged but for lone surrogates (`mark_for_utf8`).

    Raises:
        GraphError: pyarrow is not installed.
    """
    from lrp_hooks.graph.export.digraph import require
    from lrp_hooks.graph.export.tables import write_parquet

    arrow, out = require("pyarrow"), BytesIO()
    types = {
        **{kind: arrow.type_for_alias(kind) for kind in (TEXT, WHOLE, REAL, YES_NO)},
        TEXTS: arrow.list_(arrow.string()),
    }
    cells = {name: [_utf8(row[i]) for row in table.rows] for i, name in enumerate(table.types)}
    columns = {name: arrow.array(cells[name], type=types[kind]) for name, kind in table.types.items()}
    write_parquet(columns, {FORMAT: VERSION}, out)
    return out.getvalue()


def _utf8(cell: Any) -> Any:
    from lrp_hooks.graph.export.text import mark_for_utf8

    if isinstance(cell, list):
        return [mark_for_utf8(text) for text in cell]
    return mark_for_utf8(cell) if isinstance(cell, str) else cell
