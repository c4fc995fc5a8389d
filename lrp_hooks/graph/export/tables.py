"""Tables: edges in the named file, nodes beside it (``graph.csv`` and ``graph.nodes.csv``); joined on node ids.

Nodes: id, point, layer, index, token, relevance, special, and token_id or segment_start and segment_stop.
Edges: source, source_point, source_index, the same of target, weight, and the detail where the graph has it.
The nodes are written first: where the edges are, their nodes are.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from lrp_hooks.files import write_atomically
from lrp_hooks.graph.export.columns import FORMAT, Column, describe, tabulate
from lrp_hooks.graph.export.digraph import plain, require
from lrp_hooks.graph.export.text import json_cell, mark_for_utf8
from lrp_hooks.graph.model import AttributionGraph


def nodes_path(path: Path) -> Path:
    """``graph.nodes.csv`` for ``graph.csv``."""
    return path.with_name(f"{path.stem}.nodes{path.suffix}")


def save_csv(graph: AttributionGraph, path: Path) -> tuple[Path, Path]:
    """Two UTF-8 files with a header each. Numbers are the shortest that give the same float32 back.

    ``token`` holds JSON strings (`json_cell`): a token that begins with ``=`` is no formula, one with a line break
    stays in its line. The graph's description is not in these files: they hold nothing but the tables.
    """
    nodes, edges = tabulate(graph)
    beside = nodes_path(path)
    columns = nodes.columns() | {"token": [json_cell(token) for token in nodes.token]}
    write_atomically(beside, lambda file: _write_csv(columns, file))
    write_atomically(path, lambda file: _write_csv(edges.columns(nodes), file))
    return path, beside


def save_parquet(graph: AttributionGraph, path: Path) -> tuple[Path, Path]:
    """Two typed files; the description (`describe`) is JSON under ``lrp_hooks.graph.export`` in both schemas' metadata.

    Lone surrogates in ``token`` are marked (`mark_for_utf8`): Arrow's strings are UTF-8.
    """
    require("pyarrow.parquet")
    nodes, edges = tabulate(graph)
    beside = nodes_path(path)
    metadata = {FORMAT: json.dumps(describe(graph))}
    columns = nodes.columns() | {"token": [mark_for_utf8(token) for token in nodes.token]}
    write_atomically(beside, lambda file: write_parquet(columns, metadata, file))
    write_atomically(path, lambda file: write_parquet(edges.columns(nodes), metadata, file))
    return path, beside


def _write_csv(columns: dict[str, Column], file: IO[bytes]) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(_cells(column) for column in columns.values()), strict=True))
    text.flush()
    text.detach()


def _cells(column: Column) -> list[Any]:
    """Floats in their own precision (0.1, not 0.10000000149011612); residual points as in node ids."""
    if isinstance(column, list):
        return column
    if column.dtype == np.float64:
        return [f"{value:g}" for value in column.tolist()]
    if column.dtype == np.float32:
        return plain(column.astype(str))
    return plain(column)


def write_parquet(columns: Mapping[str, Any], metadata: dict[str, str], file: IO[bytes]) -> None:
    """One file of columns: lists, NumPy arrays or Arrow arrays, which keep their type.

    Raises:
        GraphError: pyarrow is not installed.
    """
    table = require("pyarrow").table(dict(columns), metadata=metadata)
    require("pyarrow.parquet").write_table(table, file)
