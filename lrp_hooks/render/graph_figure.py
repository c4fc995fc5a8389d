"""Static figures of a graph for papers: PNG, SVG and PDF through matplotlib.

Rows are residual points from bottom to top, columns tokens or segments, as on the page. A figure cannot be zoomed, so
it holds the strongest edges that fit into `READABLE_COLUMNS` columns, and says how many those are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.render.colours import Palette, palette_by_name
from lrp_hooks.render.figures import MARGIN, Sheet, draw_legend, face, legend_width, new_sheet, write_figure
from lrp_hooks.render.fonts import SANS, drawable, families
from lrp_hooks.render.graph_layout import Columns, columns_of, edge_width, node_radius, readable, scales
from lrp_hooks.render.graph_words import caption, headline, labels, legend
from lrp_hooks.render.layout import width as cells
from lrp_hooks.tokens import visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEFT, LABELS = 0.42, 14
"""Room for the names of rows, in inches; characters of a column's name."""
WIDEST, COLUMN, ROW, TALLEST = 7.6, 0.95, 0.17, 6.4
"""The plot's width and a column's; a row's height and the plot's; in inches."""
POINTS = 72
CURVE = 24
"""Pieces of a link."""
MANY_GAPS = 20


def graph_figure(
    graph: AttributionGraph,
    file: IO[bytes],
    format: Literal["png", "svg", "pdf"],
    *,
    title: str = "",
    palette: str = "red-blue",
) -> None:
    """Write one figure. The same input gives the same bytes on the same machine.

    Raises:
        LrpError: matplotlib is not installed, or the palette is unknown.
    """
    colours = palette_by_name(palette)
    title = title or headline(graph)
    drawn = readable(graph)
    lines = _lines(graph, drawn)
    names = [_shortened(name) for name in labels(graph)]
    plot = _plan(drawn, names)
    key = list(zip((colours.positive, colours.negative), _key(graph, colours), strict=True))
    inside = max(
        LEFT + plot.wide,
        sum(legend_width(words) for _, words in key) - 0.2,
        *(0.054 * len(line) for line in lines),
        0.098 * len(title),
    )
    top = (0.34 if title else 0.1) + 0.17 * len(lines) + 0.12
    sheet = new_sheet(inside + 2 * MARGIN, top + plot.high + plot.below + 0.42)
    _head(sheet, title, lines)
    _draw(sheet, drawn, plot, names, top, colours)
    draw_legend(sheet, key, top + plot.high + plot.below + 0.06)
    write_figure(sheet.figure, file, format, (title, *lines, *names, *(words for _, words in key)))


@dataclass(frozen=True)
class Plot:
    """Where the plot's parts go: columns, inches per column and row, inches in all and below for the names."""

    columns: Columns
    across: float
    up: float
    wide: float
    high: float
    below: float

    @property
    def spacing(self) -> float:
        """Distance that limits how large nodes may be, in points: as on the page."""
        return POINTS * min(self.up, max(self.across, math.sqrt(self.across * self.up)))


def _plan(graph: AttributionGraph, names: list[str]) -> Plot:
    columns = columns_of(graph)
    rows = len(graph.points)
    across, up = min(COLUMN, WIDEST / columns.width), min(ROW, TALLEST / rows)
    longest = max((cells(names[column]) for column in columns.shown), default=1)
    return Plot(columns, across, up, across * columns.width, up * rows, 0.24 + 0.062 * longest)


def _lines(graph: AttributionGraph, drawn: AttributionGraph) -> list[str]:
    """The caption, and what is missing here."""
    lines = caption(graph)
    if len(drawn) < len(graph):
        share = float(drawn.weight.abs().sum() / graph.weight.abs().sum())
        lines.append(f"Drawn: the {len(drawn):,} strongest edges, {share:.0%} of the |weight| of all.")
    return lines


def _key(graph: AttributionGraph, colours: Palette) -> list[str]:
    positive, negative = legend(graph)
    return [f"{colours.positive_name}: {positive}", f"{colours.negative_name}: {negative}"]


def _shortened(name: str) -> str:
    text = drawable(name)
    return text if len(text) <= LABELS else text[: LABELS - 1] + "…"


def _head(sheet: Sheet, title: str, lines: list[str]) -> None:
    if title:
        sheet.text(MARGIN, 0.3, visible(title), size=11, weight="bold")
    for number, line in enumerate(lines):
        sheet.text(MARGIN, (0.5 if title else 0.26) + 0.17 * number, line, size=7.5, colour="0.35")


def _draw(sheet: Sheet, graph: AttributionGraph, plot: Plot, names: list[str], top: float, colours: Palette) -> None:
    axes = sheet.axes(MARGIN + LEFT, top, plot.wide, plot.high)
    axes.set(xlim=(0, plot.columns.width), ylim=(-0.5, len(graph.points) - 0.5), facecolor="none")
    axes.spines[:].set_visible(False)
    _gaps(axes, plot)
    _edges(axes, graph, plot, colours)
    _nodes(axes, graph, plot, colours)
    _names(axes, graph, plot, names)


def _places(plot: Plot, count: int) -> NDArray[Any]:
    """Centre of every column; NaN for those that are left out."""
    import numpy as np

    places = np.full(count, np.nan)
    places[list(plot.columns.shown)] = plot.columns.x
    return places


def _edges(axes: Any, graph: AttributionGraph, plot: Plot, colours: Palette) -> None:
    """Links that leave and arrive vertically, the weakest first."""
    import numpy as np
    from matplotlib.collections import LineCollection

    order = graph.weight.abs().argsort(stable=True)
    places, t = _places(plot, graph.relevance.shape[1]), np.linspace(0, 1, CURVE)
    bend, rise = t * t * (3 - 2 * t), 1.5 * t * (1 - t) + t**3
    low, high = (places[column[order].numpy()][:, None] for column in (graph.source, graph.target))
    below, above = (row[order].numpy()[:, None] for row in (graph.below, graph.above))
    routes = np.stack([low + (high - low) * bend, below + (above - below) * rise], -1)
    weight = graph.weight[order].numpy()
    shares = np.minimum(np.abs(weight) / scales(graph)[1], 1)
    widths = [0.75 * edge_width(float(share), plot.spacing / 0.75) for share in shares]
    alphas = np.minimum(0.9, 0.34 + 0.6 * np.sqrt(shares))
    inks = [(*face(colours.end(w)), a) for w, a in zip(weight, alphas, strict=True)]
    axes.add_collection(LineCollection(list(routes), linewidths=widths, colors=inks, capstyle="butt"), autolim=False)


def _nodes(axes: Any, graph: AttributionGraph, plot: Plot, colours: Palette) -> None:
    row, column = graph.nodes.T
    relevance = graph.relevance[row, column]
    shares = (relevance / scales(graph)[0]).tolist()
    radii = [0.75 * node_radius(abs(share), plot.spacing / 0.75) for share in shares]
    x = _places(plot, graph.relevance.shape[1])[column.numpy()]
    axes.scatter(
        x,
        row.numpy(),
        s=[(2 * radius) ** 2 for radius in radii],
        c=[face(colours.colour(share)) for share in shares],
        edgecolors=[face(colours.end(share)) for share in shares],
        linewidths=0.7,
        zorder=3,
        clip_on=False,
    )
    rows, columns = zip(*graph.finals, strict=True)
    size = (2 * node_radius(1.0, plot.spacing / 0.75) * 0.75 + 5) ** 2
    axes.scatter(
        _places(plot, graph.relevance.shape[1])[list(columns)],
        rows,
        s=[size],
        facecolors="none",
        edgecolors="0.1",
        linewidths=1,
        zorder=4,
        clip_on=False,
    )


def _gaps(axes: Any, plot: Plot) -> None:
    low, high = axes.get_ylim()
    room = POINTS * plot.across
    ink = "0.75" if len(plot.columns.gaps) < MANY_GAPS else "0.9"
    for gap in plot.columns.gaps:
        axes.plot([gap.x, gap.x], [low, high], color=ink, linewidth=0.6, linestyle=(0, (1, 3)), zorder=0)
        words = f"+{gap.tokens}" if room > 3.2 * len(f"+{gap.tokens}") else "⋮"
        axes.text(gap.x, low, words, fontsize=5.5, color="0.45", ha="center", va="top", parse_math=False, family=SANS)


def _names(axes: Any, graph: AttributionGraph, plot: Plot, names: list[str]) -> None:
    shown = [names[column] for column in plot.columns.shown]
    size = min(7.0, max(4.0, 0.9 * POINTS * plot.across))
    axes.set_xticks(plot.columns.x, shown, rotation=60, ha="right", rotation_mode="anchor", fontsize=size)
    for tick, name in zip(axes.get_xticklabels(), shown, strict=True):
        tick.set(parse_math=False, family=families(name))
    every = max(1, -(-len(graph.points) // 16))
    rows = range(0, len(graph.points), every)
    axes.set_yticks(list(rows), [str(graph.points[row]) for row in rows], family=SANS, fontsize=6.5)
    axes.set_ylabel("residual point", fontsize=7, color="0.3", family=SANS)
    axes.tick_params(length=0, labelcolor="0.3", pad=4)
    axes.grid(axis="y", color="0.92", linewidth=0.5, zorder=-1)
    axes.set_axisbelow(True)
