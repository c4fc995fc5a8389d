"""The graph as two tables of arrays, and its description: what every export format is made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lrp_hooks import __version__
from lrp_hooks.errors import GraphError
from lrp_hooks.graph.model import DETAIL, AttributionGraph, EdgeDetail

FORMAT, VERSION = "lrp_hooks.graph.export", 1
_RESERVED = {"format", "version", "generator", "position", "positions", "final", "finals", "transitions"} | {
    # words that networkx gives a meaning of its own
    *("name", "mode", "start", "end", "node_default", "edge_default"),
}

Column = NDArray[Any] | list[str]


@dataclass(frozen=True, eq=False)
class Nodes:
    """N nodes: those that have an edge, and the final nodes, by residual point and column.

    Attributes:
        id: residual point and column, ``12:5`` or ``0.5:3``.
        row: [N] row of `AttributionGraph.points`; point: [N] that residual point; layer: the same in words.
        index: [N] column; token: its text.
        optional: per token its ``token_id``; per segment its tokens ``segment_start`` .. ``segment_stop - 1``.
    """

    id: list[str]
    row: NDArray[np.int64]
    point: NDArray[np.float64]
    layer: list[str]
    index: NDArray[np.int64]
    token: list[str]
    relevance: NDArray[np.float32]
    special: NDArray[np.bool_]
    optional: dict[str, NDArray[np.int64]]

    def columns(self) -> dict[str, Column]:
        """Name and values, in the order in which tables show them."""
        names = ("id", "point", "layer", "index", "token", "relevance", "special")
        return {name: getattr(self, name) for name in names} | dict(self.optional)


@dataclass(frozen=True, eq=False)
class Edges:
    """E edges; ``source`` and ``target`` are indices into `Nodes`. ``detail``: value, key, query, rest, head, ..."""

    source: NDArray[np.int64]
    target: NDArray[np.int64]
    weight: NDArray[np.float32]
    detail: dict[str, NDArray[Any]]

    def columns(self, nodes: Nodes) -> dict[str, Column]:
        """Name and values, both ends spelled out so that the table can be read alone."""
        ends: dict[str, Column] = {}
        for end in ("source", "target"):
            at = getattr(self, end)
            ends[end] = np.array(nodes.id, dtype=object)[at].tolist()
            ends |= {f"{end}_point": nodes.point[at], f"{end}_index": nodes.index[at]}
        return ends | {"weight": self.weight} | self.detail


def tabulate(graph: AttributionGraph) -> tuple[Nodes, Edges]:
    """Both tables; no Python object per edge.

    Raises:
        GraphError: NaN or infinity, or several edges between the same two nodes.
    """
    if not (torch.isfinite(graph.weight).all() and torch.isfinite(graph.relevance).all()):
        raise GraphError("the graph holds NaN or infinity and cannot be exported")
    width = graph.relevance.shape[1]
    ends = [graph.below * width + graph.source, graph.above * width + graph.target]
    places = torch.cat([*ends, torch.tensor([row * width + column for row, column in graph.finals])]).numpy()
    found, numbers = np.unique(places, return_inverse=True)
    source, target = numbers[: len(graph)], numbers[len(graph) : 2 * len(graph)]
    if len(np.unique(source * len(found) + target)) != len(graph):
        raise GraphError("the graph has several edges between the same two nodes; exports hold one")
    edges = Edges(source, target, graph.weight.numpy(), _detail(graph.weight, graph.detail))
    return _nodes(graph, found // width, found % width), edges


def describe(graph: AttributionGraph) -> dict[str, Any]:
    """Plain text and numbers about the whole graph: format, version, final node, ``about`` with dotted names.

    ``position`` and ``final`` are the last of several final nodes; ``positions`` and ``finals`` list those (JSON text).
    ``transitions`` is JSON text: what pruning did (`TransitionInfo`), null for infinite thresholds.
    """
    about = {f"about.{name}" if name in _RESERVED else name: value for name, value in flatten(graph.about)}
    transitions = [{name: _finite(value) for name, value in asdict(info).items()} for info in graph.transitions]
    several = {
        "positions": json.dumps(graph.positions),
        "finals": json.dumps([node_id(graph.points[row], column) for row, column in graph.finals]),
    }
    return (
        about
        | (several if len(graph.positions) > 1 else {})
        | {
            "format": FORMAT,
            "version": VERSION,
            "generator": f"lrp_hooks {__version__}",
            "position": graph.position,
            "final": node_id(graph.points[-1], graph.position),
            "transitions": json.dumps(transitions),
        }
    )


def node_id(point: float, column: int) -> str:
    """``12:5``, ``0.5:3``."""
    return f"{point:g}:{column}"


def point_name(point: float) -> str:
    """A residual point in words."""
    if point % 1:
        return f"inside block {int(point)}, after attention"
    return f"after block {int(point) - 1}" if point else "before block 0"


def _nodes(graph: AttributionGraph, row: NDArray[np.int64], column: NDArray[np.int64]) -> Nodes:
    names = [point_name(point) for point in graph.points]
    special = np.array(graph.special or (False,) * len(graph.tokens), dtype=np.bool_)
    optional: dict[str, NDArray[np.int64]] = {}
    if graph.segments is not None:
        bounds = np.array([(s.start, s.stop) for s in graph.segments], dtype=np.int64)[column]
        optional = {"segment_start": bounds[:, 0], "segment_stop": bounds[:, 1]}
    elif graph.input_ids is not None and len(graph.input_ids) == len(graph.tokens):
        optional = {"token_id": graph.input_ids.numpy().astype(np.int64)[column]}
    rows, columns = row.tolist(), column.tolist()
    return Nodes(
        id=[node_id(graph.points[r], c) for r, c in zip(rows, columns, strict=True)],
        row=row,
        point=np.array(graph.points, dtype=np.float64)[row],
        layer=[names[r] for r in rows],
        index=column,
        token=[graph.tokens[c] for c in columns],
        relevance=graph.relevance.numpy()[row, column],
        special=special[column],
        optional=optional,
    )


def _detail(weight: torch.Tensor, detail: EdgeDetail | None) -> dict[str, NDArray[Any]]:
    """The paths and the head of each edge, and ``rest``: what none of the three paths carries."""
    if detail is None:
        return {}
    columns = {name: getattr(detail, name).numpy() for name in DETAIL}
    rest = weight.double() - detail.value.double() - detail.key.double() - detail.query.double()
    columns["rest"] = rest.float().numpy()
    return {name: columns[name] for name in ("value", "key", "query", "rest", "head", "head_weight")}


def flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str | int | float | bool]]:
    """Nested names joined by dots; lists as JSON text; what is None is left out."""
    for name, inner in value.items():
        if isinstance(inner, dict):
            yield from flatten(inner, f"{prefix}{name}.")
        elif inner is not None:
            plain = isinstance(inner, str | bool | int) or (isinstance(inner, float) and math.isfinite(inner))
            yield prefix + name, inner if plain else json.dumps(inner, default=str)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
