"""Write a graph for other programs: the suffix decides the format."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO

from lrp_hooks.errors import GraphError
from lrp_hooks.files import write_atomically
from lrp_hooks.graph.export.circuit_tracer import to_circuit_tracer
from lrp_hooks.graph.export.digraph import write_node_link
from lrp_hooks.graph.export.tables import save_csv, save_parquet
from lrp_hooks.graph.export.text import json_bytes
from lrp_hooks.graph.export.xml import write_gexf, write_graphml
from lrp_hooks.graph.model import AttributionGraph

SUFFIXES = (".graphml", ".gexf", ".json", ".csv", ".parquet", ".circuit.json")


def export(graph: AttributionGraph, path: str | Path) -> tuple[Path, ...]:
    """Write the graph to ``path``; returns the files written. Each is complete or not there.

    Raises:
        GraphError: an unknown suffix, or a format whose package is not installed (NetworkX, PyArrow).
        LrpError: the file cannot be written.
    """
    path = Path(path)
    name = path.name.lower()
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(s)), None)
    if suffix is None:
        raise GraphError(f"{path.name}: unknown format {path.suffix!r}. choices: {', '.join(SUFFIXES)}")
    return _SAVERS[suffix](graph, path)


def _save(
    write: Callable[[AttributionGraph, IO[bytes]], None], graph: AttributionGraph, path: Path
) -> tuple[Path, ...]:
    write_atomically(path, lambda file: write(graph, file))
    return (path,)


def _save_circuit(graph: AttributionGraph, path: Path) -> tuple[Path, ...]:
    """The slug is the file's name without ``.json``: under that name circuit-tracer's viewer asks for it."""
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name[: -len(".json")])
    data = json_bytes(to_circuit_tracer(graph, slug=slug))
    write_atomically(path, lambda file: file.write(data))
    return (path,)


_SAVERS: dict[str, Callable[[AttributionGraph, Path], tuple[Path, ...]]] = {
    ".graphml": partial(_save, write_graphml),
    ".gexf": partial(_save, write_gexf),
    ".json": partial(_save, write_node_link),
    ".csv": save_csv,
    ".parquet": save_parquet,
    ".circuit.json": _save_circuit,
}
