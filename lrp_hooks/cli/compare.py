"""``lrp-hooks compare``: models or checkpoints of one tokenizer on the cases of a sweep."""

from __future__ import annotations

from pathlib import Path

from lrp_hooks.cases.compare import Comparison, compare
from lrp_hooks.cases.records import Attributed
from lrp_hooks.cases.store import Store
from lrp_hooks.errors import LrpError
from lrp_hooks.files import write_atomically
from lrp_hooks.render.failures_tables import aligned, as_csv, compared_table, comparison_table, piped

WRITERS = {".csv": as_csv, ".md": piped}


def run(folder: Path, models: tuple[str, ...], out: Path | None) -> None:
    """The whole command.

    Raises:
        CaseError: no sweep, an unknown model, fewer than two models, tokenizers that differ.
        LrpError: an unknown suffix.
    """
    from lrp_hooks.cli.attribute import consoles

    if out is not None and out.suffix not in WRITERS:
        raise LrpError(f"{out.name}: unknown format {out.suffix!r}. choices: {', '.join(WRITERS)}")
    console, notes = consoles()
    made = comparisons(folder, models)
    console.print(aligned(comparison_table(made)), markup=False, highlight=False)
    table = compared_table(made)
    console.print(aligned(table), markup=False, highlight=False)
    if out is not None:
        text = WRITERS[out.suffix](table)
        write_atomically(out, lambda file: file.write(text.encode(errors="replace")))
        notes.print(f"wrote {out}", markup=False, highlight=False)


def comparisons(folder: Path, models: tuple[str, ...]) -> list[Comparison]:
    """By the first composite; the differences do not depend on it."""
    records = Store(folder).records(Attributed)
    first = records[0].composite if records else ""
    return compare([record for record in records if record.composite == first], models)
