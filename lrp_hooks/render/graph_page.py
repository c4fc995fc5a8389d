"""One self-contained, offline, interactive HTML page of an attribution graph.

D3 (gestures, link geometry for canvas and SVG alike) comes from the `mpld3` package and is inlined. Measured with 5,000
nodes and 20,000 edges, Chromium on 2 cores without a GPU, median per frame of panning / of changing edges: plotly
(4.8 MB) 1,430 / 1,220 ms as SVG, 86 / 1,950 ms as WebGL; bokeh (1.3 MB) 57 / 65 ms; both need styles that a strict
content policy blocks. D3 (0.24 MB) needs none and leaves the drawing to us, on a canvas, a slice of the edges per
frame: 17-33 / 17 ms, and complete a few tenths of a second after the last move (benchmarks/graph_page.py).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lrp_hooks.errors import LrpError
from lrp_hooks.graph.model import DETAIL, AttributionGraph
from lrp_hooks.graph.model import Path as GraphPath
from lrp_hooks.render import graph_layout, graph_words
from lrp_hooks.render.colours import palette_by_name
from lrp_hooks.render.html import colour_data, packed, policy, script_safe, template, template_file
from lrp_hooks.tokens import visible

SCRIPTS = (
    "shared.js",
    *(f"graph_{name}.js" for name in ("data", "view", "pen", "draw", "layers", "hit", "select", "panel", "export")),
    "graph_start.js",
)
STYLES = ("shared.css", "graph.css")
PATHS = 10


def graph_page(graph: AttributionGraph, *, title: str = "", palette: str = "red-blue") -> str:
    """The page as text: rows are residual points, columns tokens or segments, node and edge colours the sign.

    Raises:
        LrpError: `mpld3`, which carries D3, is not installed, or the palette is unknown.
    """
    palette_by_name(palette)
    title = visible(title) or graph_words.headline(graph)
    style, script = ("\n".join(map(template_file, names)) for names in (STYLES, SCRIPTS))
    library = d3()
    rendered: str = template("graph.html").render(
        title=title,
        style=style,
        library=library,
        script=script,
        data=script_safe(page_data(graph, title, palette)),
        policy=policy(style, library, script),
    )
    return rendered


def d3() -> str:
    """The source of D3, from the file that `mpld3` ships; the package is not imported.

    Raises:
        LrpError: it is not installed.
    """
    spec = find_spec("mpld3")
    folder = Path(spec.origin).parent / "js" if spec is not None and spec.origin else None
    found = sorted(folder.glob("d3.v[5-9].min.js")) if folder is not None else []
    if not found:
        raise LrpError("graph pages need mpld3, which carries D3. do: pip install 'lrp-hooks[pages]'")
    source = found[-1].read_text(encoding="utf-8")
    if "</script" in source or "<!--" in source:
        raise LrpError(f"{found[-1].name} of mpld3 cannot be inlined. do: pip install 'lrp-hooks[pages]' afresh")
    return source


def page_data(graph: AttributionGraph, title: str, palette: str) -> dict[str, Any]:
    """What the page's script draws: nodes in (row, column) order, edges strongest first between numbers of nodes."""
    node_scale, edge_scale = graph_layout.scales(graph)
    return {
        **colour_data(palette),
        "title": title,
        "caption": graph_words.caption(graph),
        "supports": graph_words.legend(graph),
        "labels": graph_words.labels(graph),
        "places": graph_words.places(graph),
        "sizes": graph_layout.column_sizes(graph),
        "special": [int(flag) for flag in graph_layout.special_columns(graph)],
        "segmented": graph.segments is not None,
        "positions": list(graph.positions),
        "points": list(graph.points),
        "pointNames": [graph_layout.point_name(point) for point in graph.points],
        "layout": graph_layout.SIZES,
        "scales": {"node": node_scale, "edge": edge_scale},
        "start": graph_layout.start_threshold(graph),
        "readableEdges": graph_layout.READABLE_EDGES,
        "paths": [_path(path) for path in _strongest_paths(graph)],
        **_nodes_and_edges(graph),
    }


def _nodes_and_edges(graph: AttributionGraph) -> dict[str, Any]:
    nodes = graph.nodes
    order = graph_layout.strength_order(graph)
    width = graph.relevance.shape[1]
    keys = nodes[:, 0] * width + nodes[:, 1]
    lower = torch.searchsorted(keys, (graph.below * width + graph.source)[order])
    upper = torch.searchsorted(keys, (graph.above * width + graph.target)[order])
    row, column = nodes.T
    data: dict[str, Any] = {
        "nodes": {
            "row": packed("i", row.tolist()),
            "column": packed("i", column.tolist()),
            "relevance": packed("f", graph.relevance[row, column].tolist()),
        },
        "edges": {
            "lower": packed("i", lower.tolist()),
            "upper": packed("i", upper.tolist()),
            "weight": packed("f", graph.weight[order].tolist()),
        },
        "detail": None,
    }
    if graph.detail is not None:
        detail = graph.detail.select(order)
        data["detail"] = {
            name: packed("i" if name == "head" else "f", getattr(detail, name).tolist()) for name in DETAIL
        }
        if detail.heads is not None:
            data["heads"] = packed("f", detail.heads.flatten().tolist())
    return data


def _strongest_paths(graph: AttributionGraph) -> list[GraphPath]:
    return graph.strongest_paths(PATHS) if len(graph) else []


def _path(path: GraphPath) -> dict[str, Any]:
    return {"strength": path.sign * path.strength, "nodes": path.nodes, "stays": graph_words.stays(path)}
