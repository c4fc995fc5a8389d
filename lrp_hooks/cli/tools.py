"""Options of ``lrp-hooks serve``, ``demo`` and ``bench``; the work is done in the modules of these names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lrp_hooks.cli.options import (
    Attention,
    Checkpoint,
    Device,
    Dtype,
    MaxMemory,
    Palette,
    RemoteCode,
    Revision,
    Unknown,
)


def serve(
    model: Annotated[
        str | None,
        typer.Argument(help="Folder, hub name, .gguf file, 'demo', or a saved graph; can be chosen on the page."),
    ] = None,
    file: Annotated[
        list[Path] | None, typer.Option("--open", help="A saved graph or heatmap (.json) to show. May be repeated.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Keep the results here, and show those that are here already.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="0 takes any. Default: 8765, or the next.", min=0)] = None,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in a browser.")] = False,
    dtype: Dtype = "auto",
    device: Device = None,
    revision: Revision = None,
    attn_implementation: Attention = None,
    checkpoint: Checkpoint = "auto",
    max_memory: MaxMemory = None,
    unknown: Unknown = "error",
    trust_remote_code: RemoteCode = False,
) -> None:
    """Explore a model in the browser: candidates, heatmaps, graphs, comparisons. Served to this machine alone."""
    from lrp_hooks.cli import serve as command

    command.run(
        model,
        files=tuple(file or ()),
        folder=folder,
        port=port,
        browser=browser,
        dtype=dtype,
        device=device,
        revision=revision,
        attn_implementation=attn_implementation,
        checkpoint=checkpoint,
        max_memory=max_memory,
        unknown=unknown,
        trust_remote_code=trust_remote_code,
    )


def demo(
    folder: Annotated[Path, typer.Option(help="Where to write the files.")] = Path("demo"),
    palette: Palette = "red-blue",
) -> None:
    """Explain a real prediction and a real failure of SmolLM2-135M-Instruct; write heatmaps and a graph page."""
    from lrp_hooks.cli import demo as command

    command.run(folder, palette)


def bench(
    suites: Annotated[list[str] | None, typer.Argument(help="Which suites; default all.")] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Short profiles, nothing written.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="A trace, and time and memory per module.")] = False,
    base: Annotated[str | None, typer.Option("--base", metavar="COMMIT", help="Compare with a commit.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Skip suites whose result is of this commit.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Only write the report.")] = False,
) -> None:
    """Run the benchmark suites of the repository and write their report."""
    from lrp_hooks.cli import bench as command

    status = command.run(tuple(suites or ()), smoke, profile=profile, base=base, resume=resume, report=report)
    raise typer.Exit(status)
