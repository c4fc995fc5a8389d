"""``lrp-hooks compare``: models or checkpoints of one tokenizer on the cases of a sweep."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from lrp_hooks.cases.sweep.compare import compare
from lrp_hooks.cases.sweep.records import Attributed, Validated
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.errors import LrpError
from lrp_hooks.files import write_atomically
from lrp_hooks.render import failures_compare as tables
from lrp_hooks.render.failures import Report, failures_page
from lrp_hooks.render.failures_tables import aligned, as_csv, piped

SUFFIXES = (".csv", ".md", ".html")


def run(folder: Path, models: tuple[str, ...], outputs: tuple[Path, ...]) -> None:
    """The whole command.

    Raises:
        CaseError: no sweep, an unknown model, fewer than two models, tokenizers that differ.
        LrpError: an unknown suffix.
    """
    from lrp_hooks.cli.attribute import consoles

    for out in outputs:
        if out.suffix not in SUFFIXES:
            raise LrpError(f"{out.name}: unknown format {out.suffix!r}. choices: {', '.join(SUFFIXES)}")
    console, notes = consoles()
    report = chosen(Store(folder), models)
    differences = show(report, console)
    for out in outputs:
        text = _text(out.suffix, report, differences)
        write_atomically(out, lambda file, text=text: file.write(text.encode(errors="replace")))  # type: ignore[misc]
        notes.print(f"wrote {out}", markup=False, highlight=False)


def chosen(store: Store, models: tuple[str, ...]) -> Report:
    """The sweep's report with these models only, in this order; with all of them where none is named.

    Raises:
        CaseError: they cannot be compared.
    """
    whole = Report(store.cases(), store.records(Attributed), store.records(Validated), {}, store.graphs())
    compare(whole.attributed, models)  # says what is wrong before anything is left out
    names = list(dict.fromkeys(models)) or whole.models
    attributed = [record for name in names for record in whole.attributed if record.model == name]
    validated = [record for name in names for record in whole.validated if record.model == name]
    return replace(whole, attributed=attributed, validated=validated)


def show(report: Report, console: Console) -> dict[str, Any]:
    """Print what became of the errors, the trajectory, parts by outcome, and each case; return the last table."""
    differences = tables.compared_table(report.values, report.models)
    for table in (*tables.tables(report), differences):
        console.print(aligned(table), markup=False, highlight=False, soft_wrap=True)
        if table["note"]:
            console.print(f"{table['note']}\n", markup=False, highlight=False)
    return differences


def _text(suffix: str, report: Report, differences: dict[str, Any]) -> str:
    if suffix == ".html":
        return failures_page(report, title=f"{' and '.join(report.models)} on {len(report.cases)} cases")
    return as_csv(differences) if suffix == ".csv" else piped(differences)
