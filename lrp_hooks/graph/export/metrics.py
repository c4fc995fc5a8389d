"""All metrics of a graph in a file: a row per residual point as CSV, or the whole record as JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path

from lrp_hooks.errors import GraphError
from lrp_hooks.files import write_atomically
from lrp_hooks.graph.export.columns import describe
from lrp_hooks.graph.export.text import json_bytes
from lrp_hooks.graph.metrics import as_table, graph_metrics, graph_summary
from lrp_hooks.graph.model import AttributionGraph

METRICS_SUFFIXES = (".json", ".csv")


def check_metrics_suffix(path: Path) -> None:
    """Raises GraphError for another suffix; lists the choices."""
    if path.suffix.lower() not in METRICS_SUFFIXES:
        raise GraphError(f"{path.name}: metrics have no format {path.suffix!r}. choices: {', '.join(METRICS_SUFFIXES)}")


def save_metrics(graph: AttributionGraph, path: str | Path) -> Path:
    """Write every metric of `lrp_hooks.graph.metrics`; the file is complete or not there.

    ``.csv``: `as_table`, one row per residual point, the lowest first, hubs as their number; what does not exist
    (None) is an empty cell. ``.json``: ``graph`` (all points pooled), ``points`` (each one), hubs as (residual point,
    position), and ``about`` (`describe`).

    Raises:
        GraphError: another suffix.
    """
    path = Path(path)
    check_metrics_suffix(path)
    data = _csv(graph) if path.suffix.lower() == ".csv" else _json(graph)
    write_atomically(path, lambda file: file.write(data))
    return path


def _csv(graph: AttributionGraph) -> bytes:
    rows = as_table(graph_metrics(graph))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _json(graph: AttributionGraph) -> bytes:
    points = [asdict(point) for point in graph_metrics(graph)]
    return json_bytes({"about": describe(graph), "graph": asdict(graph_summary(graph)), "points": points})
