"""The heatmap page and the graph page inside another page: without title, theme and palette, which are that page's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.render import graph_page, page
from lrp_hooks.render.graph_layout import strength_order
from lrp_hooks.render.graph_words import headline
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.render.html import policy, script_safe, template, template_file

_HERE = "@data@"
MOST_EDGES = 100_000
"""Of a graph in a frame: a few seconds to draw."""


@dataclass(frozen=True)
class Display:
    """How the page around wants its frames.

    Attributes:
        palette: a name of `lrp_hooks.render.colours.PALETTES`.
        theme: "light", "dark", or "auto": what the reader's system says.
    """

    palette: str = "red-blue"
    theme: str = "auto"


@dataclass(frozen=True)
class Frame:
    """A page, cut where its data goes, and what a content policy has to allow."""

    before: str
    after: str
    style: str
    scripts: tuple[str, ...]

    def filled(self, data: dict[str, Any], theme: str) -> str:
        """The page with its data, whose strings cannot leave their script element."""
        return self.before + script_safe({**data, "theme": theme, "embedded": True}) + self.after


@cache
def graph_frame() -> Frame:
    """The graph page for frames.

    Raises:
        LrpError: `mpld3`, which carries D3, is not installed.
    """
    library = graph_page.d3()
    styles, scripts = (*graph_page.STYLES, "graph_frame.css"), (*graph_page.SCRIPTS, "frame.js")
    return _frame("graph.html", "Attribution graph", styles, scripts, library=library)


@cache
def heatmap_frame() -> Frame:
    """The heatmap page for frames."""
    styles, scripts = (*page.STYLES, "heatmap_frame.css"), (*page.SCRIPTS, "frame.js")
    return _frame("page.html", "Relevance of the input tokens", styles, scripts)


def framed_graph(graph: AttributionGraph, display: Display) -> str:
    """The graph page with its data.

    Raises:
        LrpError: `mpld3` is not installed.
    """
    return graph_frame().filled(drawn_data(graph, headline(graph), display.palette, MOST_EDGES), display.theme)


def drawn_data(graph: AttributionGraph, title: str, palette: str, most: int, rest: str = "") -> dict[str, Any]:
    """A page's data with the strongest edges, at most so many; if there are more the caption says so, and ``rest``."""
    drawn = graph if len(graph) <= most else graph.select(strength_order(graph)[:most])
    data = graph_page.page_data(drawn, title, palette)
    if len(drawn) < len(graph):
        share = float(drawn.weight.abs().sum() / graph.weight.abs().sum())
        words = f"Drawn: the {len(drawn):,} strongest of {len(graph):,} edges, {share:.0%} of their |weight|."
        data["caption"].append(f"{words} {rest}".strip())
    return data


def framed_heatmaps(heatmaps: Sequence[Heatmap], display: Display) -> str:
    """The heatmap page with its data."""
    return heatmap_frame().filled(page.page_data(heatmaps, "", display.palette), display.theme)


def _frame(name: str, title: str, styles: Sequence[str], scripts: Sequence[str], **library: str) -> Frame:
    style, script = ("\n".join(map(template_file, names)) for names in (styles, scripts))
    parts = (*library.values(), script)
    text = template(name).render(
        title=title, style=style, script=script, data=_HERE, policy=policy(style, *parts), **library
    )
    before, after = text.split(_HERE)
    return Frame(before, after, style, parts)
