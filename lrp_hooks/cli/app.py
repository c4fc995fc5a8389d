"""Commands and their options; the work is done in the modules beside."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from lrp_hooks.cli import cases, failures, tools
from lrp_hooks.cli.options import (
    Against,
    Attention,
    Checkpoint,
    Completion,
    CompositeName,
    Continuation,
    Contrasts,
    Device,
    Dtype,
    HeadName,
    Ids,
    Kind,
    MaxMemory,
    Messages,
    ModelName,
    Out,
    Palette,
    Position,
    PositionByHead,
    Prompt,
    PromptFile,
    RemoteCode,
    Revision,
    TargetToken,
    Unknown,
)

app = typer.Typer(
    name="lrp-hooks",
    help="Why did the model prefer this token? Contrastive attribution by layer-wise relevance propagation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

CHATTY = ("torchao", "torch.utils._pytree")
"""Loggers that warn, on import, of kernels for GPUs that are not there and of their own deprecations."""


@app.command()
def attribute(
    model: ModelName,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    messages: Messages = None,
    completion: Completion = "",
    ids: Ids = None,
    target: TargetToken = None,
    contrast: Contrasts = None,
    kind: Kind = "logit-diff",
    position: PositionByHead = None,
    continuation: Continuation = None,
    against: Against = None,
    composite: CompositeName = "attnlrp",
    compare: Annotated[
        list[str] | None, typer.Option(help="Another composite to show beside; may be repeated.")
    ] = None,
    normalize: Annotated[str, typer.Option(help="max, sum, signed-sum or none.")] = "max",
    first_token_special: Annotated[bool, typer.Option(help="Gray the first token too.")] = False,
    top: Annotated[int, typer.Option(help="Rows of the tables of candidates and of relevance.")] = 10,
    out: Out = None,
    palette: Palette = "red-blue",
    head: HeadName = "auto",
    dtype: Dtype = "auto",
    device: Device = None,
    revision: Revision = None,
    attn_implementation: Attention = None,
    checkpoint: Checkpoint = "auto",
    max_memory: MaxMemory = None,
    unknown: Unknown = "error",
    trust_remote_code: RemoteCode = False,
) -> None:
    """Explain why the model prefers one token, class or text over another: relevance of every input token."""
    from lrp_hooks.cli import attribute as command
    from lrp_hooks.cli.inputs import PromptSource

    command.run(
        command.Request(
            source=PromptSource(prompt, prompt_file, messages, completion, ids),
            target=target,
            contrasts=tuple(contrast or ()),
            kind=kind,
            position=position,
            continuation=continuation,
            against=against,
            composites=(composite, *(compare or ())),
            normalize=normalize,
            first_token_special=first_token_special,
            top=top,
            outputs=tuple(out or ()),
            palette=palette,
            checkpoint=checkpoint,
            max_memory=max_memory,
            unknown=unknown,
        ),
        model=model,
        head=head,
        dtype=dtype,
        device=device,
        revision=revision,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )


@app.command()
def graph(
    model: ModelName,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    messages: Messages = None,
    completion: Completion = "",
    ids: Ids = None,
    target: TargetToken = None,
    contrast: Contrasts = None,
    kind: Kind = "logit-diff",
    position: Position = -1,
    composite: CompositeName = "attnlrp",
    node_threshold: Annotated[float, typer.Option(help="Drop the rows of nodes with |R| not above it.")] = 0.01,
    node_unit: Annotated[str, typer.Option(help="Of the node threshold: logits, value or layer.")] = "logits",
    top_p: Annotated[float, typer.Option(help="Keep the strongest edges that carry this share per transition.")] = 0.85,
    edge_threshold: Annotated[float | None, typer.Option(help="Instead of --top-p: keep |weight| above it.")] = None,
    points: Annotated[
        str | None,
        typer.Option(help="Residual points, e.g. 0,8,15.5,30; l.5 is between attention and MLP. Default: all."),
    ] = None,
    mid: Annotated[bool, typer.Option("--mid", help="All points between attention and MLP besides.")] = False,
    segments: Annotated[
        str | None, typer.Option(help="Nodes for long prompts: 'sentences', or a number of tokens per node.")
    ] = None,
    detail: Annotated[bool, typer.Option("--detail", help="Paths (value, key, query) and top head per edge.")] = False,
    heads: Annotated[
        bool, typer.Option("--heads", help="Paths of every head per edge; print the heads that carry most.")
    ] = False,
    paths: Annotated[int, typer.Option(help="How many of the strongest paths to print.")] = 5,
    metrics: Annotated[bool, typer.Option("--metrics", help="Print metrics per residual point.")] = False,
    metrics_out: Annotated[
        list[Path] | None,
        typer.Option(help="File for all metrics; suffix .json or .csv. May be repeated."),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            "--out",
            "-o",
            help="File to write; suffix .safetensors .html .svg .png .pdf .graphml .gexf .json .circuit.json .csv "
            ".parquet. May be repeated.",
        ),
    ] = None,
    palette: Palette = "red-blue",
    dtype: Dtype = "auto",
    device: Device = None,
    revision: Revision = None,
    attn_implementation: Attention = None,
    checkpoint: Checkpoint = "auto",
    max_memory: MaxMemory = None,
    unknown: Unknown = "error",
    trust_remote_code: RemoteCode = False,
) -> None:
    """Make the attribution graph of one token against another; print its strongest paths, write files and pictures.

    MODEL may also be a saved graph (.safetensors), to print it or to write it in other formats.
    """
    from lrp_hooks.cli import graph as command
    from lrp_hooks.cli.inputs import PromptSource

    command.run(
        command.GraphRequest(
            source=PromptSource(prompt, prompt_file, messages, completion, ids),
            target=target,
            contrasts=tuple(contrast or ()),
            kind=kind,
            position=position,
            composite=composite,
            node_threshold=node_threshold,
            node_unit=node_unit,
            top_p=top_p,
            edge_threshold=edge_threshold,
            points=points,
            mid=mid,
            segments=segments,
            detail="heads" if heads else detail,
            shown=command.GraphShown(paths, metrics, tuple(metrics_out or ()), tuple(out or ()), palette),
            checkpoint=checkpoint,
            max_memory=max_memory,
            unknown=unknown,
        ),
        model=model,
        dtype=dtype,
        device=device,
        revision=revision,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )


@app.command()
def doctor(
    model: ModelName,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Prompt to close the ledger on.")] = None,
    composite: CompositeName = "attnlrp",
    unknown: Unknown = "error",
    everything: Annotated[
        bool, typer.Option("--all", help="Every module with its role and rule, and the ledger at every point.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: always everything.")] = False,
    head: HeadName = "auto",
    dtype: Dtype = "auto",
    device: Device = None,
    revision: Revision = None,
    attn_implementation: Attention = None,
    trust_remote_code: RemoteCode = False,
) -> None:
    """Say whether the model's relevance can be trusted: sites, rules, probe errors, and the ledger.

    Exit status: 0 every part has a rule and the ledger closes; 1 otherwise.
    """
    from lrp_hooks.cli import doctor as command

    status = command.run(
        model,
        prompt=prompt,
        composite=composite,
        unknown=unknown,
        everything=everything,
        as_json=as_json,
        head=head,
        dtype=dtype,
        device=device,
        revision=revision,
        attn_implementation=attn_implementation,
        trust_remote_code=trust_remote_code,
    )
    raise typer.Exit(status)


app.add_typer(cases.app, name="cases")
for command in (failures.sweep, failures.compare, tools.serve, tools.demo, tools.bench):
    app.command()(command)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Program-wide options."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    if version:
        from lrp_hooks import __version__

        typer.echo(__version__)
        raise typer.Exit
