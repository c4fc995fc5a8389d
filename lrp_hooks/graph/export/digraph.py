"""The graph in NetworkX, and the two formats that NetworkX writes: node-link JSON and (in `xml`) GraphML and GEXF."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.export.columns import Column, Edges, Nodes, describe, tabulate
from lrp_hooks.graph.export.text import json_bytes
from lrp_hooks.graph.model import AttributionGraph

if TYPE_CHECKING:
    import networkx as nx


def to_networkx(graph: AttributionGraph) -> nx.DiGraph[str]:
    """The graph as `networkx.DiGraph`; every attribute is a plain str, int, float or bool.

    Nodes ``"<residual point>:<column>"`` (``12:5``, ``0.5:3``): those that have an edge, and the final nodes. Their
    attributes: ``point`` (float), ``layer`` (the point in words), ``index`` (column), ``token``, ``relevance``
    (logits), ``special``; ``token_id`` where known; ``segment_start`` and ``segment_stop`` (tokens) for segments.

    Edges ``(lower, upper)``: ``weight`` (signed, logits); where the graph has detail also ``value``, ``key``,
    ``query``, ``rest`` (they add up to ``weight``), ``head`` (-1: none), ``head_weight``.

    ``.graph``: ``format``, ``version``, ``generator``, ``position``, ``final`` (a node), ``transitions`` (JSON text:
    what pruning did), and `AttributionGraph.about` with dotted names (``pruning.top_p``).

    Raises:
        GraphError: NetworkX is not installed; NaN or infinity in the graph.
    """
    networkx = require("networkx")
    nodes, edges = tabulate(graph)
    made: nx.DiGraph[str] = networkx.DiGraph(**describe(graph))
    made.add_nodes_from(zip(nodes.id, _records(nodes.columns(), without=("id",)), strict=True))
    made.add_edges_from(_links(nodes, edges))
    return made


def write_node_link(graph: AttributionGraph, file: IO[bytes]) -> None:
    """NetworkX' node-link JSON, edges under ``edges``; `networkx.node_link_graph` with ``edges="edges"`` reads it."""
    made = to_networkx(graph)
    file.write(json_bytes(require("networkx").node_link_data(made, edges="edges")))


def require(package: str) -> Any:
    """An optional package.

    Raises:
        GraphError: it is not installed; says how to get it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        top = package.partition(".")[0]
        raise GraphError(f"this export needs {top}: {error}. do: pip install 'lrp-hooks[export]'") from error


def plain(column: Column) -> list[Any]:
    """Python values of a column."""
    return column if isinstance(column, list) else column.tolist()


def _records(columns: Mapping[str, Column], without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    names = [name for name in columns if name not in without]
    return [dict(zip(names, row, strict=True)) for row in zip(*(plain(columns[n]) for n in names), strict=True)]


def _links(nodes: Nodes, edges: Edges) -> list[tuple[str, str, dict[str, Any]]]:
    records = _records({"weight": edges.weight, **edges.detail})
    ends = zip(edges.source.tolist(), edges.target.tolist(), records, strict=True)
    return [(nodes.id[source], nodes.id[target], record) for source, target, record in ends]
