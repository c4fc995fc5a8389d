"""The tables of a sweep's report, for people: on the terminal, in Markdown, and on the page."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any

from lrp_hooks.cases.validation.statistics import Estimate, unjudged, verdict
from lrp_hooks.render import failures_compare
from lrp_hooks.render.failures_data import csv_text
from lrp_hooks.tokens import visible

if TYPE_CHECKING:
    from lrp_hooks.render.failures import Report

NOTE = (
    "Words are masked from the one that supports the target most; a case that does not change, or never passes, counts "
    "with the most words that were masked. An answer passes when it ends by itself and repairs the one that failed: an "
    "instruction more is followed, and none is broken that was. In brackets: 95 % bootstrap interval over cases."
)


def validation_table(report: Report) -> dict[str, Any]:
    """Words until the prediction changes, until the contrast leads and until the answer passes; in how many cases."""
    rows = [
        [
            visible(row.model),
            row.replacement,
            row.ranking,
            str(row.words.count),
            str(row.words),
            f"{row.middle:.3g}",
            _percent(row.changed),
            str(row.overtaken_words),
            _percent(row.overtaken),
            _of(row.passes),
            "" if row.passed_words is None else str(row.passed_words),
            _of(row.passed),
            "" if row.difference is None else _signed(row.difference),
        ]
        for row in report.rankings
    ]
    head = [
        *("model", "masked by", "ranking", "cases", "words to flip", "median", "flipped"),
        *("words until contrast leads", "contrast leads", "passes at the change"),
        *("words until it passes", "passes", "words more than the first"),
    ]
    filled = [any(row[i] for row in rows) or not rows for i in range(len(head))]  # what was not asked has no column
    head, rows = list(compress(head, filled)), [list(compress(row, filled)) for row in rows]
    return {"title": "Validation: words masked until the prediction changes", "head": head, "rows": rows, "note": NOTE}


def segment_table(report: Report) -> dict[str, Any]:
    """Relevance by part of the prompt."""
    rows = [
        [
            visible(row.model),
            row.composite,
            visible(row.name),
            str(row.absolute.count),
            f"{row.tokens:.0f}",
            _percent(row.absolute),
            f"{row.signed.mean:+.1%} [{row.signed.low:+.1%}, {row.signed.high:+.1%}]",
        ]
        for row in report.shares
    ]
    head = ["model", "rules", "part", "cases", "tokens", "share of sum |R|", "for the target (+) or the contrast (-)"]
    note = (
        "Mean over the cases that have the part. Signed: sum of R over sum |R|. In brackets: 95 % bootstrap interval "
        "over cases."
    )
    return {"title": "Where the relevance comes from", "head": head, "rows": rows, "note": note}


def case_table(report: Report) -> dict[str, Any]:
    """One row per case."""
    rows = [
        [
            visible(case.id),
            case.kind or "",
            "" if case.position is None else str(case.position),
            repr(visible((case.target and case.target.text) or "")),
            repr(visible((case.contrast and case.contrast.text) or "")),
            "" if case.delta_logit is None else f"{case.delta_logit:+.2f}",
            {True: "yes", False: "no", None: ""}[case.passes],
        ]
        for case in report.cases
    ]
    head = ["case", "found by", "position", "target", "contrast", "difference (logits)", "repair passes all"]
    return {"title": "Cases", "head": head, "rows": rows, "note": ""}


def verdicts(report: Report) -> list[str]:
    """Does the first ranking need the fewest words, in a sentence per model and replacement; what was not judged."""
    return [visible(line) for line in (*verdict(report.rankings), *unjudged(report.validated))]


def overview(report: Report) -> str:
    """For the terminal."""
    tables = [validation_table(report), segment_table(report), *failures_compare.tables(report)]
    return "\n".join([*(aligned(t) for t in tables if t["rows"]), *verdicts(report), *_remarks(report)])


def markdown(report: Report, title: str = "") -> str:
    """The report without its pictures."""
    parts = [f"# {visible(title) or f'{len(report.cases)} failures explained'}"]
    for table in (
        validation_table(report),
        segment_table(report),
        *failures_compare.tables(report),
        case_table(report),
    ):
        if table["rows"]:
            parts += [f"## {table['title']}", piped(table), table["note"]]
    parts += ["\n".join(f"- {line}" for line in verdicts(report)), "\n".join(f"- {line}" for line in _remarks(report))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _remarks(report: Report) -> list[str]:
    """Why models are not compared, and what failed."""
    made = [f"not compared: {visible(report.incomparable)}"] if report.incomparable else []
    return made + [f"error: {visible(e.case)}, {visible(e.model)}: {visible(e.error)}" for e in report.errors]


def _percent(value: Estimate) -> str:
    return f"{value.mean:.1%} [{value.low:.1%}, {value.high:.1%}]"


def _of(value: Estimate | None) -> str:
    return "" if value is None else f"{_percent(value)} of {value.count}"


def _signed(value: Estimate) -> str:
    return f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def aligned(table: dict[str, Any]) -> str:
    """A table for the terminal."""
    rows: list[Sequence[str]] = [table["head"], *table["rows"]]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table["head"]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([table["title"], *lines, ""])


def piped(table: dict[str, Any]) -> str:
    """A table in Markdown; nothing in a cell can mark anything up."""
    rows = [table["head"], ["---"] * len(table["head"]), *table["rows"]]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)


def _cell(text: str) -> str:
    for character in "\\|`*_<>[]":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


def as_csv(table: dict[str, Any]) -> str:
    """A table as comma-separated values."""
    return csv_text(table["head"], table["rows"])
