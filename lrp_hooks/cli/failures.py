"""Options of ``lrp-hooks sweep`` and ``lrp-hooks compare``; the work is done in the modules of these names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrp_hooks.cli.options import AllowExec, AllowNetwork


def sweep(
    case_file: Annotated[Path, typer.Argument(metavar="CASES", help="Cases as JSONL, with target and contrast.")],
    model: Annotated[
        list[str], typer.Option(help="NAME, NAME@REVISION, either with :DTYPE behind; 'demo'. May be repeated.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder; a sweep that was cut off goes on.")],
    composite: Annotated[
        list[str] | None, typer.Option(help="Default: attnlrp, cp-lrp and gradient. May be repeated.")
    ] = None,
    min_difference: Annotated[
        float | None, typer.Option(help="Only cases whose target leads by more logits than that.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many cases.", min=1)] = None,
    graphs: Annotated[bool, typer.Option("--graphs", help="Also write attribution graphs.")] = False,
    no_validation: Annotated[bool, typer.Option("--no-validation", help="Attribution and breakdown only.")] = False,
    replacement: Annotated[
        list[str] | None,
        typer.Option(help="How words are masked: neutral (default), mask, pad, deletion. May be repeated."),
    ] = None,
    most: Annotated[int, typer.Option(help="Words masked at most.", min=1)] = 12,
    draws: Annotated[int, typer.Option(help="Random rankings per case.", min=0)] = 3,
    where: Annotated[str, typer.Option(help="Mask words of the whole input, or of the prompt only.")] = "input",
    until_pass: Annotated[
        bool, typer.Option(help="Go on masking until the answer passes; up to --most answers per ranking.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="The longest answer that is judged.", min=1)] = 160,
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|NAME=FILE",
            help="Problems of the cases' benchmark as JSONL, to judge by. Default: from a package. May be repeated.",
        ),
    ] = None,
    allow_exec: AllowExec = False,
    allow_network: AllowNetwork = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0, cuda (each launched process its own), or auto to spread.")
    ] = None,
) -> None:
    """Attribute, break down and validate cases with models and rules, and write a report.

    Processes that share the folder share the work; with RANK and WORLD_SIZE set each takes its part of the cases.
    """
    from lrp_hooks.cli import sweep as command

    command.run(
        command.Request(
            case_file,
            out,
            command.plan(
                model,
                composite,
                None if no_validation else command.rules(replacement, most, draws, where, until_pass, max_new_tokens),
                graphs=graphs,
            ),
            least=min_difference,
            limit=limit,
            device=device,
            data=tuple(data or ()),
            allow_exec=allow_exec,
            allow_network=allow_network,
        )
    )


def compare(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep with several models.")],
    model: Annotated[
        list[str] | None, typer.Option(help="Which models, in which order. Default: all; may be repeated.")
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out", "-o", help="Table of cases as .csv or .md, or a page of plots as .html. May be repeated."
        ),
    ] = None,
) -> None:
    """Compare models or checkpoints of one tokenizer on the same cases: who still makes the error, and from where.

    The first model is compared with each of the others; differences are followed through all of them in their order.
    """
    from lrp_hooks.cli import compare as command

    command.run(folder, tuple(model or ()), tuple(out or ()))
