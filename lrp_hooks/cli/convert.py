"""``lrp-hooks cases convert``: failures that other programs have recorded, as cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def convert(
    file: Annotated[Path, typer.Argument(help="What another program has written.")],
    form: Annotated[str, typer.Option("--from", help="lm-eval (sample log), pairs (prompt, completion), or trace.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of cases, .jsonl.")],
    metric: Annotated[str | None, typer.Option(help="lm-eval: the field that tells whether a document passed.")] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="trace: the model whose tokens target and contrast are; a folder, a hub name, or 'demo'."),
    ] = None,
) -> None:
    """Turn sample logs of lm-eval, pairs of prompt and completion, or traces of agents into cases."""
    from lrp_hooks.cases.convert import convert as converted
    from lrp_hooks.cases.schema import write_cases
    from lrp_hooks.cli.attribute import consoles
    from lrp_hooks.loading.model import load_tokenizer

    console, notes = consoles()
    known = None if tokenizer is None else load_tokenizer(tokenizer)
    cases = converted(file, form, metric=metric, tokenizer=known)
    write_cases(out, cases)
    ready = sum(case.target is not None and case.contrast is not None for case in cases)
    console.print(f"{len(cases)} cases, {ready} with target and contrast", markup=False, highlight=False)
    notes.print(f"wrote {out}", markup=False, highlight=False)
