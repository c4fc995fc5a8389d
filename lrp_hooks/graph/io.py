"""Save and load graphs: one safetensors file with a versioned JSON header. Nothing is ever unpickled."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lrp_hooks.errors import GraphError
from lrp_hooks.files import write_atomically
from lrp_hooks.graph.model import DETAIL, AttributionGraph, EdgeDetail, TransitionInfo
from lrp_hooks.segments import Segment, check_partition

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
        if graph.detail.heads is not None:
            tensors["detail.heads"] = graph.detail.heads.contiguous()
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
            text = (file.metadata() or {}).get(FORMAT, "null")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise GraphError(f"{path} is damaged or no safetensors file: {error}") from error
    header = _header(text, path)
    try:
        return _graph(header, tensors)
    except Exception as error:  # whatever a damaged or hostile file leads to
        raise GraphError(f"{path} is damaged: {error!r}") from error


class _Kind(BaseModel):
    """What every version's header says."""

    format: Literal["lrp_hooks.graph"]
    version: int


class _Header(BaseModel):
    """The header of a version that can be read. Nothing in it is taken for what it is not."""

    model_config = ConfigDict(strict=True, frozen=True)

    position: int
    positions: tuple[int, ...] = ()
    points: tuple[float, ...]
    tokens: tuple[str, ...]
    special: tuple[bool, ...]
    segments: tuple[Segment, ...] | None
    transitions: tuple[TransitionInfo, ...]
    about: dict[str, Any]


def _header(text: str, path: Path) -> _Header:
    try:
        kind = _Kind.model_validate_json(text)
    except ValidationError as error:
        raise GraphError(f"{path} is a safetensors file but holds no attribution graph") from error
    if kind.version not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise GraphError(f"{path} has graph version {kind.version}; this package reads versions {known}")
    try:
        return _Header.model_validate_json(text)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise GraphError(f"{path} is damaged: {'.'.join(map(str, wrong['loc']))}: {wrong['msg']}") from error


def _graph(header: _Header, tensors: dict[str, torch.Tensor]) -> AttributionGraph:
    """Raises ValueError for numbers that make no graph."""
    weight, relevance = _numbers(tensors["weight"], 1), _numbers(tensors["relevance"], 2)
    columns = {name: _integers(tensors[name]) for name in COLUMNS}
    detail = _detail(tensors, len(weight))
    if any(len(column) != len(weight) for column in columns.values()):
        raise ValueError("edges of different number")
    points, length = relevance.shape
    if (len(header.points), len(header.tokens), len(header.special)) != (points, length, length) or not points:
        raise ValueError("nodes of different number")
    if not all(a < b for a, b in pairwise((-math.inf, *header.points, math.inf))):
        raise ValueError("residual points that do not ascend")
    limits = {"below": points, "above": points, "source": length, "target": length}
    for name, limit in limits.items():
        if len(weight) and not (int(columns[name].min()) >= 0 and int(columns[name].max()) < limit):
            raise ValueError(f"{name} outside 0..{limit - 1}")
    if bool((columns["below"] >= columns["above"]).any()):
        raise ValueError("edges that do not lead upwards")
    if not all(0 <= column < length for column in (header.position, *header.positions)):
        raise ValueError("position outside the tokens")
    if header.segments is not None:
        check_partition(header.segments, header.segments[-1].stop if len(header.segments) == length else 0)
    for name in ("value", "target_value"):
        if not math.isfinite(float(header.about.get(name, 0.0))):
            raise ValueError(f"a {name} that is no number")
    return AttributionGraph(
        relevance=relevance,
        weight=weight,
        points=tuple(p if p % 1 else int(p) for p in header.points),
        position=header.position,
        positions=header.positions,
        tokens=header.tokens,
        special=header.special,
        segments=header.segments,
        transitions=header.transitions,
        input_ids=None if "input_ids" not in tensors else _integers(tensors["input_ids"]),
        detail=detail,
        about=header.about,
        **columns,
    )


def _detail(tensors: dict[str, torch.Tensor], edges: int) -> EdgeDetail | None:
    if f"detail.{DETAIL[0]}" not in tensors:
        return None
    parts = {name: tensors[f"detail.{name}"] for name in DETAIL}
    columns = {name: _integers(x) if name == "head" else _numbers(x, 1) for name, x in parts.items()}
    heads = tensors.get("detail.heads")
    if any(len(column) != edges for column in columns.values()):
        raise ValueError("edges of different number")
    if heads is not None and _numbers(heads, 3).shape[::2] != (edges, 3):
        raise ValueError("heads of other edges")
    return EdgeDetail(**columns, heads=heads)


def _numbers(x: torch.Tensor, dimensions: int) -> torch.Tensor:
    if x.dtype not in (torch.float32, torch.float64) or x.dim() != dimensions or not torch.isfinite(x).all():
        raise ValueError(f"{x.dtype} in {x.dim()} dimensions, or not finite, where numbers belong")
    return x


def _integers(x: torch.Tensor) -> torch.Tensor:
    if x.dtype not in (torch.int32, torch.int64) or x.dim() != 1:
        raise ValueError(f"{x.dtype} in {x.dim()} dimensions where indices belong")
    return x.long()
