"""``lrp-hooks cases label``: what a person says about a case of a sweep, beside what the report suggests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def label(
    folder: Annotated[Path, typer.Argument(metavar="SWEEP", help="Folder of a sweep.")],
    case: Annotated[str, typer.Argument(help="Id of one of its cases.")],
    text: Annotated[
        str,
        typer.Argument(
            metavar="LABEL",
            help="In any words; 'underweighted relevant' and 'overweighted irrelevant' are what reports suggest.",
        ),
    ],
    note: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Say what kind of failure a case is, and write the sweep's report again. A later label replaces an earlier one."""
    from lrp_hooks.cases.sweep.patterns import LABELS, Label, add_label
    from lrp_hooks.cases.sweep.store import Store
    from lrp_hooks.cli.attribute import consoles
    from lrp_hooks.cli.sweep import read_report, write
    from lrp_hooks.errors import InputError

    store, (_, notes) = Store(folder), consoles()
    check_case(case, [each.id for each in store.cases()], folder)
    if not text.strip():
        raise InputError("the label is empty. do: say what kind of failure it is")
    add_label(store.folder / LABELS, Label(case=case, label=text.strip(), note=note))
    write(read_report(store), store, notes)


def check_case(case: str, known: list[str], folder: Path) -> None:
    """Raise for a case that the sweep does not have; name those that are spelled like it.

    Raises:
        InputError: it has no such case.
    """
    from difflib import get_close_matches

    from lrp_hooks.errors import InputError

    if case not in known:
        like = get_close_matches(case, known, n=5) or known[:5]
        raise InputError(f"{folder} has no case {case!r}. do: one of its {len(known)}, such as {', '.join(like)}")
