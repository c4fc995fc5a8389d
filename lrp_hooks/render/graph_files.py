"""Write a graph in the format that a file's suffix names: the graph's own file, a picture, or another program's."""

from __future__ import annotations

from pathlib import Path

from lrp_hooks.errors import GraphError
from lrp_hooks.graph import export, io
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.render import graph_output

SUFFIXES = (io.SUFFIX, *graph_output.SUFFIXES, *export.SUFFIXES)


def check_suffix(path: Path) -> None:
    """Raises GraphError for a suffix that no format has; lists the choices."""
    if not path.name.lower().endswith(SUFFIXES):
        raise GraphError(f"{path.name}: unknown format {path.suffix!r}. choices: {', '.join(SUFFIXES)}")


def write_graph(
    graph: AttributionGraph, path: str | Path, *, title: str = "", palette: str = "red-blue"
) -> tuple[Path, ...]:
    """Write the graph; returns the files written. Each is complete or not there.

    Raises:
        GraphError: an unknown suffix.
        LrpError: a library that is not installed, or a folder that cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    suffix = path.suffix.lower()
    if suffix == io.SUFFIX:
        return (graph.save(path),)
    if suffix in graph_output.SUFFIXES:
        return (graph_output.save_picture(graph, path, title=title, palette=palette),)
    return export.export(graph, path)
