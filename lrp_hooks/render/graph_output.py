"""Save a picture of a graph: the suffix decides the format; a file is complete or not there."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Literal, cast

from lrp_hooks.errors import LrpError
from lrp_hooks.files import write_atomically
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.render.colours import palette_by_name

SUFFIXES = (".html", ".svg", ".png", ".pdf")


def save_picture(graph: AttributionGraph, path: str | Path, *, title: str = "", palette: str = "red-blue") -> Path:
    """Write an interactive page (``.html``) or a figure (``.svg``, ``.png``, ``.pdf``).

    Raises:
        LrpError: another suffix, an unknown palette, a library that is not installed, a folder that cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise LrpError(f"{path.name}: unknown format {path.suffix!r}. choices: {', '.join(SUFFIXES)}")
    palette_by_name(palette)
    write_atomically(path, lambda file: _write(graph, file, suffix, title, palette))
    return path


def _write(graph: AttributionGraph, file: IO[bytes], suffix: str, title: str, palette: str) -> None:
    if suffix == ".html":
        from lrp_hooks.render.graph_page import graph_page

        file.write(graph_page(graph, title=title, palette=palette).encode())
    else:
        from lrp_hooks.render.graph_figure import graph_figure

        graph_figure(graph, file, cast(Literal["png", "svg", "pdf"], suffix[1:]), title=title, palette=palette)
