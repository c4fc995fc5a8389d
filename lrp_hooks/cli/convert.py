"""``lrp-hooks cases convert``: failures that other programs have recorded, as cases or as answers to be searched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrp_hooks.cli.options import AllowNetwork

if TYPE_CHECKING:
    from rich.console import Console


def convert(
    file: Annotated[Path, typer.Argument(help="What another program has written.")],
    form: Annotated[str, typer.Option("--from", help="lm-eval (sample log), pairs (prompt, completion), or trace.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File of cases or answers, .jsonl.")],
    to: Annotated[str, typer.Option(help="cases; or answers, judged anew, which 'cases find' searches.")] = "cases",
    metric: Annotated[str | None, typer.Option(help="lm-eval: the field that tells whether a document passed.")] = None,
    filter: Annotated[
        str | None, typer.Option(help="lm-eval: which of its filters. Default: the first line's.")
    ] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="lm-eval, to answers: whose verifier judges. Default: known by the documents.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(help="To answers: the longest that a search may write; at least what was written.", min=1)
    ] = 160,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="trace, or to answers: the model whose tokens are meant; a folder, a hub name, or 'demo'."),
    ] = None,
    allow_exec: Annotated[
        bool, typer.Option("--allow-exec", help="To answers: run the programs that they hold, shut in.")
    ] = False,
    allow_network: AllowNetwork = False,
) -> None:
    """Turn sample logs of lm-eval, pairs of prompt and completion, or traces of agents into cases or answers."""
    from lrp_hooks.cli.attribute import consoles
    from lrp_hooks.cli.cases import running
    from lrp_hooks.errors import InputError
    from lrp_hooks.loading.model import load_tokenizer

    if to not in ("cases", "answers"):
        raise InputError(f"nothing is converted to {to!r}. choices: cases, answers")
    if to == "cases" and benchmark is not None:
        raise InputError("a benchmark judges answers. do: --to answers")
    console, notes = consoles()
    known = None if tokenizer is None else load_tokenizer(tokenizer)
    if to == "cases":
        _cases(console, file, form, out, metric=metric, filter=filter, tokenizer=known)
    else:
        options = {"metric": metric, "filter": filter, "benchmark": benchmark, "tokenizer": known}
        with running(allow_exec, allow_exec, allow_network):
            _answers(console, file, form, out, max_new_tokens=max_new_tokens, **options)
    notes.print(f"wrote {out}", markup=False, highlight=False)


def _cases(console: Console, file: Path, form: str, out: Path, **options: Any) -> None:
    from lrp_hooks.cases.conversion.convert import convert as converted
    from lrp_hooks.cases.schema import write_cases

    cases = converted(file, form, **options)
    write_cases(out, cases)
    ready = sum(case.target is not None and case.contrast is not None for case in cases)
    console.print(f"{len(cases)} cases, {ready} with target and contrast", markup=False, highlight=False)


def _answers(console: Console, file: Path, form: str, out: Path, **options: Any) -> None:
    from lrp_hooks.cases.conversion.convert import convert_answers
    from lrp_hooks.cases.schema import write_records
    from lrp_hooks.cli.cases import show_answers

    answers, otherwise = convert_answers(file, form, **options)
    write_records(out, answers)
    show_answers(answers, console)
    if otherwise:
        console.print(f"{'judged otherwise by lm-eval':<28}{otherwise:>6}", highlight=False)
