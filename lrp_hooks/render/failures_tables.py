"""The tables of a sweep's report: for the terminal and Markdown, for the page, and as CSV."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from lrp_hooks.cases.statistics import Estimate, verdict
from lrp_hooks.tokens import visible

if TYPE_CHECKING:
    from lrp_hooks.cases.compare import Comparison
    from lrp_hooks.render.failures import Report

_FORMULA, _NUMBER = re.compile(r"[=+\-@\t\r]"), re.compile(r"[+-]?[0-9.]+")
NOTE = (
    "Words are masked from the one that supports the target most; a case that does not change counts with the most "
    "words that were masked. In brackets: 95 % bootstrap interval over cases."
)


def validation_table(report: Report) -> dict[str, Any]:
    """Words to flip and fix rate."""
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
            "" if row.passes is None else f"{row.passes.mean:.0%} of {row.passes.count}",
            "" if row.difference is None else _signed(row.difference),
        ]
        for row in report.rankings
    ]
    head = [
        *("model", "masked by", "ranking", "cases", "words to flip", "median", "flipped"),
        *("words until contrast leads", "contrast leads", "then passes", "words more than the first"),
    ]
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
            f"{row.signed.mean:+.1%}",
        ]
        for row in report.shares
    ]
    head = ["model", "rules", "part", "cases", "tokens", "share of sum |R|", "for the target (+) or the contrast (-)"]
    note = "Mean over the cases that have the part. Signed: sum of R over sum |R|."
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


def comparison_table(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """How many cases other models have corrected."""
    rows = [
        [visible(each.first), visible(each.other), str(len(each.cases)), str(each.corrected)] for each in comparisons
    ]
    head = ["model", "compared with", "cases", "corrected (contrast leads)"]
    return {"title": "Models", "head": head, "rows": rows, "note": ""}


def compared_table(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """One row per case: logit(target) - logit(contrast) by each model, in the models' order."""
    models = [each.first for each in comparisons[:1]] + [each.other for each in comparisons]
    values: dict[str, dict[str, float]] = {}
    for each in comparisons:
        for case in each.cases:
            values.setdefault(case.case, {}).update({each.first: case.first, each.other: case.other})
    rows = [
        [visible(case), *(f"{known[name]:+.3f}" if name in known else "" for name in models)]
        for case, known in values.items()
    ]
    return {"title": "Differences (logits)", "head": ["case", *map(visible, models)], "rows": rows, "note": ""}


def verdicts(report: Report) -> list[str]:
    """Does the first ranking need the fewest words, in a sentence per model and replacement."""
    return [visible(line) for line in verdict(report.rankings)]


def overview(report: Report) -> str:
    """For the terminal."""
    tables = [validation_table(report), segment_table(report), comparison_table(report.comparisons)]
    return "\n".join([*(aligned(t) for t in tables if t["rows"]), *verdicts(report), *_errors(report)])


def markdown(report: Report, title: str = "") -> str:
    """The report without its pictures."""
    parts = [f"# {visible(title) or f'{len(report.cases)} failures explained'}"]
    for table in (
        validation_table(report),
        segment_table(report),
        comparison_table(report.comparisons),
        case_table(report),
    ):
        if table["rows"]:
            parts += [f"## {table['title']}", piped(table), table["note"]]
    parts += ["\n".join(f"- {line}" for line in verdicts(report)), "\n".join(f"- {line}" for line in _errors(report))]
    return "\n\n".join(part for part in parts if part) + "\n"


def cases_csv(report: Report) -> str:
    """One row per case, model and rules."""
    known = {case.id: case for case in report.cases}
    head = [
        *("case", "source", "kind", "position", "target", "contrast", "model", "rules", "difference"),
        *("target_logit", "contrast_logit", "top", "ledger", "tokens", "seconds", "suggested", "label", "error"),
    ]
    rows = []
    for r in report.attributed:
        case = known[r.case]
        tokens = (case.target and case.target.text, case.contrast and case.contrast.text)
        about = [r.case, case.source, case.kind, case.position, *tokens, r.model, r.composite]
        found = [r.value, r.target_logit, r.contrast_logit, r.top_text, r.ledger, len(r.scores), r.seconds]
        label = report.labels.get(r.case)
        patterns = "; ".join(each.pattern for each in report.suggestions(r))
        rows.append([*about, *found, patterns, label and label.label, r.error])
    return _csv(head, rows)


def flips_csv(report: Report) -> str:
    """One row per case, model, replacement and ranking."""
    head = ["case", "model", "replacement", "ranking", "draw", "changed", "overtaken", "passes", "most", "words"]
    rows = [
        [r.case, r.model, f.replacement, f.ranking, f.draw, f.changed, f.overtaken, f.passes, v.most, " ".join(f.words)]
        for r in report.validated
        if (v := r.validation) is not None
        for f in v.flips
    ]
    return _csv(head, rows)


def segments_csv(report: Report) -> str:
    """One row per case, model, rules and part of the prompt."""
    head = ["case", "model", "rules", "part", "tokens", "absolute", "signed"]
    rows = [
        [r.case, r.model, r.composite, s.name, s.tokens, s.absolute, s.signed]
        for r in report.attributed
        for s in r.shares
    ]
    return _csv(head, rows)


def _errors(report: Report) -> list[str]:
    return [f"error: {visible(each.case)}, {visible(each.model)}: {visible(each.error)}" for each in report.errors]


def _percent(value: Estimate) -> str:
    return f"{value.mean:.1%} [{value.low:.1%}, {value.high:.1%}]"


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
    return _csv(table["head"], table["rows"])


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Comma-separated; a text that a spreadsheet would take for a formula gets an apostrophe."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([[_inert(cell) for cell in row] for row in rows])
    return out.getvalue()


def _inert(cell: Any) -> Any:
    return "'" + cell if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell
