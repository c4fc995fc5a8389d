"""Save and load graphs: one safetensors file with a versioned JSON header. Nothing is ever unpickled."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lrp_hooks.errors import GraphError
from lrp_hooks.files import write_atomically
from lrp_hooks.graph.model import AttributionGraph, TransitionInfo

FORMAT, VERSION = "lrp_hooks.graph", 1
COLUMNS = ("below", "above", "source", "target")


def save_graph(graph: AttributionGraph, path: str | Path) -> Path:
    """Write the graph; the file is complete or not there."""
    path = Path(path)
    tensors = {name: getattr(graph, name).to(torch.int32).contiguous() for name in COLUMNS}
    tensors |= {"weight": graph.weight.contiguous(), "relevance": graph.relevance.contiguous()}
    if graph.input_ids is not None:
        tensors["input_ids"] = graph.input_ids.to(torch.int64).contiguous()
    header = {
        "format": FORMAT,
        "version": VERSION,
        "position": graph.position,
        "tokens": list(graph.tokens),
        "transitions": [asdict(info) for info in graph.transitions],
        "about": graph.about,
    }
    data = save(tensors, {FORMAT: json.dumps(header)})
    write_atomically(path, lambda file: file.write(data))
    return path


def load_graph(path: str | Path) -> AttributionGraph:
    """Read a graph.

    Raises:
        GraphError: missing, damaged, truncated, foreign or newer files; says which.
    """
    path = Path(path)
    if not path.is_file():
        raise GraphError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(FORMAT, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise GraphError(f"{path} is damaged or no safetensors file: {error}") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise GraphError(f"{path} is a safetensors file but holds no attribution graph")
    if header.get("version") != VERSION:
        raise GraphError(f"{path} has graph version {header.get('version')}; this package reads version {VERSION}")
    try:
        return _graph(header, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise GraphError(f"{path} is damaged: {error!r}") from error


def _graph(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> AttributionGraph:
    columns = {name: tensors[name].long() for name in COLUMNS}
    weight, relevance = tensors["weight"], tensors["relevance"]
    points, length = relevance.shape
    if any(len(column) != len(weight) for column in columns.values()) or len(header["tokens"]) != length:
        raise ValueError("columns of different length")
    limits = {"below": points, "above": points, "source": length, "target": length}
    for name, limit in limits.items():
        if len(weight) and not (int(columns[name].min()) >= 0 and int(columns[name].max()) < limit):
            raise ValueError(f"{name} outside 0..{limit - 1}")
    if not 0 <= int(header["position"]) < length:
        raise ValueError("position outside the tokens")
    return AttributionGraph(
        relevance=relevance,
        weight=weight,
        position=int(header["position"]),
        tokens=tuple(str(token) for token in header["tokens"]),
        transitions=tuple(TransitionInfo(**info) for info in header["transitions"]),
        input_ids=tensors.get("input_ids"),
        about=dict(header["about"]),
        **columns,
    )
