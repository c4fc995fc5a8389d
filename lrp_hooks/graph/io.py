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
from lrp_hooks.graph.model import DETAIL, AttributionGraph, EdgeDetail, TransitionInfo
from lrp_hooks.segments import Segment

SUFFIX = ".safetensors"
FORMAT, VERSION = "lrp_hooks.graph", 3
READABLE = (2, 3)
"""Version 2 knew one position."""
COLUMNS = ("below", "above", "source", "target")


def save_graph(graph: AttributionGraph, path: str | Path) -> Path:
    """Write the graph; the file is complete or not there."""
    path = Path(path)
    tensors = {name: getattr(graph, name).to(torch.int32).contiguous() for name in COLUMNS}
    tensors |= {"weight": graph.weight.contiguous(), "relevance": graph.relevance.contiguous()}
    if graph.input_ids is not None:
        tensors["input_ids"] = graph.input_ids.to(torch.int64).contiguous()
    if graph.detail is not None:
        tensors |= {f"detail.{name}": getattr(graph.detail, name).contiguous() for name in DETAIL}
    header = {
        "format": FORMAT,
        "version": VERSION,
        "position": graph.position,
        "positions": list(graph.positions),
        "points": list(graph.points),
        "tokens": list(graph.tokens),
        "special": list(graph.special),
        "segments": None if graph.segments is None else [asdict(segment) for segment in graph.segments],
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
    if header.get("version") not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise GraphError(f"{path} has graph version {header.get('version')}; this package reads versions {known}")
    try:
        return _graph(header, tensors)
    except (KeyError, TypeError, ValueError, GraphError) as error:
        raise GraphError(f"{path} is damaged: {error!r}") from error


def _graph(header: dict[str, Any], tensors: dict[str, torch.Tensor]) -> AttributionGraph:
    columns = {name: tensors[name].long() for name in COLUMNS}
    weight, relevance = tensors["weight"], tensors["relevance"]
    points, length = relevance.shape
    detail = EdgeDetail(**{n: tensors[f"detail.{n}"] for n in DETAIL}) if f"detail.{DETAIL[0]}" in tensors else None
    per_edge = [*columns.values(), *([] if detail is None else [getattr(detail, name) for name in DETAIL])]
    segments = header["segments"]
    if any(column.shape != weight.shape for column in per_edge):
        raise ValueError("edges of different number")
    if len(header["tokens"]) != length or len(header["special"]) != length or len(header["points"]) != points:
        raise ValueError("nodes of different number")
    limits = {"below": points, "above": points, "source": length, "target": length}
    for name, limit in limits.items():
        if len(weight) and not (int(columns[name].min()) >= 0 and int(columns[name].max()) < limit):
            raise ValueError(f"{name} outside 0..{limit - 1}")
    position, positions = int(header["position"]), tuple(map(int, header.get("positions", ())))
    if not all(0 <= column < length for column in (position, *positions)):
        raise ValueError("position outside the tokens")
    return AttributionGraph(
        relevance=relevance,
        weight=weight,
        points=tuple(float(p) if p % 1 else int(p) for p in header["points"]),
        position=position,
        positions=positions,
        tokens=tuple(str(token) for token in header["tokens"]),
        special=tuple(bool(flag) for flag in header["special"]),
        segments=None if segments is None else tuple(Segment(**segment) for segment in segments),
        transitions=tuple(TransitionInfo(**info) for info in header["transitions"]),
        input_ids=tensors.get("input_ids"),
        detail=detail,
        about=dict(header["about"]),
        **columns,
    )
