"""The report of a sweep: one self-contained, offline HTML page, with Markdown and CSV beside it.

Prompts, answers and token texts are data, never markup; the page's policy allows its own script and style only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lrp_hooks.cases.schema import Case
from lrp_hooks.cases.sweep.compare import Comparison, Trajectory, check_tokenizers, compare, trajectory
from lrp_hooks.cases.sweep.patterns import Label, Suggestion, suggestions
from lrp_hooks.cases.sweep.records import Attributed, Validated
from lrp_hooks.cases.validation.statistics import RankingRow, ShareRow, ranking_rows, share_rows
from lrp_hooks.cases.validation.validate import Flip
from lrp_hooks.errors import CaseError
from lrp_hooks.files import write_atomically
from lrp_hooks.render import failures_compare, failures_graphs
from lrp_hooks.render.colours import palette_by_name
from lrp_hooks.render.html import colour_data, policy, script_safe, template, template_file
from lrp_hooks.tokens import rtl_runs, visible

SCRIPTS = (
    "shared.js",
    *(f"failures_{name}.js" for name in ("tables", "plots", "trajectory", "graph", "case", "list", "start")),
)
STYLES = ("shared.css", "failures.css")


@dataclass(frozen=True)
class Report:
    """Everything that a sweep has found.

    Attributes:
        labels: what a person has said about cases, by case.
        graphs: files of attribution graphs, by case, model and composite.
    """

    cases: Sequence[Case]
    attributed: Sequence[Attributed]
    validated: Sequence[Validated]
    labels: Mapping[str, Label] = field(default_factory=dict)
    graphs: Mapping[tuple[str, str, str], Path] = field(default_factory=dict)

    @cached_property
    def rankings(self) -> list[RankingRow]:
        return ranking_rows(self.validated)

    @cached_property
    def shares(self) -> list[ShareRow]:
        return share_rows(self.attributed)

    @cached_property
    def models(self) -> list[str]:
        """Those with an attribution, in the order of the sweep."""
        return list(dict.fromkeys(record.model for record in self.attributed if not record.error))

    @cached_property
    def composites(self) -> list[str]:
        return list(dict.fromkeys(record.composite for record in self.attributed))

    def suggestions(self, record: Attributed) -> tuple[Suggestion, ...]:
        """Patterns that the attribution of one case and its validation speak for."""
        same = (v.validation for v in self.validated if (v.case, v.model) == (record.case, record.model))
        flips = [flip for validation in same if validation is not None for flip in validation.flips]
        return suggestions(record.shares, flips, record.composite)

    @cached_property
    def errors(self) -> list[Attributed | Validated]:
        everything: list[Attributed | Validated] = [*self.attributed, *self.validated]
        return [record for record in everything if record.error]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """The first model with the others. Empty with one model, or where they cannot be compared."""
        return compare(self.values) if len(self.models) > 1 and not self.incomparable else []

    @cached_property
    def trajectory(self) -> Trajectory | None:
        """Of three models or more."""
        return trajectory(self.values) if len(self.models) > 2 and not self.incomparable else None

    @cached_property
    def incomparable(self) -> str:
        """Why the models cannot be compared: several tokenizers. Empty where they can."""
        try:
            check_tokenizers(self.values)
        except CaseError as error:
            return str(error)
        return ""

    @cached_property
    def values(self) -> list[Attributed]:
        """Attributions by the composite that comes first for each model: differences do not depend on which."""
        first: dict[str, str] = {}
        good = [record for record in self.attributed if not record.error]
        return [record for record in good if record.composite == first.setdefault(record.model, record.composite)]


def write_report(report: Report, folder: Path, *, title: str = "", palette: str = "red-blue") -> list[Path]:
    """Write ``report.html``, ``report.md``, and tables as CSV and, where pyarrow is installed, as Parquet.

    Raises:
        LrpError: a file cannot be written.
    """
    from lrp_hooks.render import failures_data, failures_tables

    texts = {
        "report.html": failures_page(report, title=title, palette=palette),
        "report.md": failures_tables.markdown(report, title),
    }
    files = {name: text.encode(errors="replace") for name, text in texts.items()}
    for table in failures_data.tables(report):
        files[f"{table.name}.csv"] = failures_data.as_csv(table).encode(errors="replace")
        if failures_data.parquet_available():
            files[f"{table.name}.parquet"] = failures_data.as_parquet(table)
    for name, data in files.items():
        write_atomically(folder / name, lambda file, data=data: file.write(data))  # type: ignore[misc]
    return [folder / name for name in files]


def failures_page(report: Report, *, title: str = "", palette: str = "red-blue") -> str:
    """The page as text.

    Raises:
        LrpError: the palette is unknown.
    """
    palette_by_name(palette)
    drawing = failures_graphs.Drawing(report.graphs, palette)
    style, script = ("\n".join(map(template_file, names)) for names in (STYLES, SCRIPTS))
    title = visible(title) or f"{len(report.cases)} failures explained"
    rendered: str = template("failures.html").render(
        title=title,
        style=style,
        script=script,
        data=script_safe(page_data(report, title, drawing)),
        policy=policy([style, *drawing.styles], script, *drawing.scripts),
    )
    return rendered


def page_data(report: Report, title: str, drawing: failures_graphs.Drawing) -> dict[str, Any]:
    """What the page's script draws."""
    from lrp_hooks.render.failures_tables import segment_table, validation_table, verdicts

    return {
        **colour_data(drawing.palette),
        "title": title,
        "models": [visible(name) for name in report.models],
        "composites": report.composites,
        "tables": [validation_table(report), segment_table(report), *failures_compare.tables(report)],
        "verdicts": verdicts(report),
        "errors": [[visible(e.case), visible(e.model), visible(e.error)] for e in report.errors],
        **failures_compare.page_data(report),
        "shares": [
            [visible(row.model), row.composite, visible(row.name), _short(row.absolute.mean), _short(row.signed.mean)]
            for row in report.shares
        ],
        "frame": drawing.page,
        "cases": [_case(report, case, drawing) for case in report.cases],
    }


def _case(report: Report, case: Case, drawing: failures_graphs.Drawing) -> dict[str, Any]:
    records = [record for record in report.attributed if record.case == case.id and not record.error]
    checks = [record for record in report.validated if record.case == case.id and record.validation is not None]
    return {
        "id": visible(case.id),
        "kind": case.kind or "",
        "position": case.position,
        "passes": case.passes,
        "target": visible((case.target and case.target.text) or ""),
        "contrast": visible((case.contrast and case.contrast.text) or ""),
        "rank": case.contrast.rank if case.contrast else None,
        "delta": None if case.delta_logit is None else _short(case.delta_logit),
        "prompt": _plain("\n\n".join(m.content for m in case.messages) if case.messages else case.prompt or ""),
        "said": _plain(case.completion),
        "panels": [_panel(report, record, drawing) for record in records],
        "label": _label(report.labels.get(case.id)),
        "flips": [
            _flip(record.model, flip) for record in checks if record.validation for flip in record.validation.flips
        ],
        "most": max((record.validation.most for record in checks if record.validation), default=0),
        "checks": [
            [visible(record.model), v.until_pass, visible(v.unjudged or v.failure)]
            for record in checks
            if (v := record.validation)
        ],
    }


def _label(label: Label | None) -> list[str]:
    return [] if label is None else [visible(label.label), visible(label.note)]


def _panel(report: Report, record: Attributed, drawing: failures_graphs.Drawing) -> dict[str, Any]:
    tokens = [piece.token() for piece in record.pieces]
    return {
        "model": visible(record.model),
        "composite": record.composite,
        "value": _short(record.value),
        "patterns": [[each.pattern, visible(each.evidence)] for each in report.suggestions(record)],
        "top": visible(record.top_text),
        "ledger": record.ledger,
        "tokens": [token.flow[token.part > 1 :] for token in tokens],
        "labels": [token.label for token in tokens],
        "special": [int(token.special) for token in tokens],
        "runs": [(run.start, run.stop) for run in rtl_runs(tokens)],
        "scores": list(record.scores),
        "shares": [[visible(s.name), s.tokens, _short(s.absolute), _short(s.signed)] for s in record.shares],
        "graph": drawing.graph(record.case, record.model, record.composite),
    }


def _flips(record: Validated) -> tuple[Flip, ...]:
    return () if record.validation is None else record.validation.flips


def _flip(model: str, flip: Flip) -> list[Any]:
    words = [visible(word) for word in flip.words]
    counts = (flip.draw, flip.changed, flip.overtaken, flip.passes, flip.passed)
    return [visible(model), flip.replacement, flip.ranking, *counts, words]


def _plain(text: str) -> str:
    """Text of several lines without characters that hide or reorder others."""
    return "\n".join(visible(line) for line in text.split("\n"))


def _short(value: float) -> float:
    return float(f"{value:.5g}")
