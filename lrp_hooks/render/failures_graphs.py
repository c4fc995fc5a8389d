"""Attribution graphs inside the report of a sweep: the graph page in a frame, once for all cases, and their data.

The report holds the page's text once, cut where its data goes. A case's frame is put together and drawn by the browser
when the reader comes to it. Frames are sandboxed; their content is bound by the report's content policy too, so it
names their style and scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrp_hooks.errors import LrpError
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.render.frames import Frame, drawn_data, graph_frame
from lrp_hooks.render.graph_words import headline
from lrp_hooks.render.html import script_safe
from lrp_hooks.tokens import visible

MOST_EDGES = 1000
"""Edges per graph in a report, the strongest: about 45 kB. All of them are in the graph's own file."""


class Drawing:
    """The graphs of one report.

    Args:
        files: saved graphs by case, model and composite.
    """

    def __init__(self, files: Mapping[tuple[str, str, str], Path], palette: str):
        self.palette = palette
        self._files = files
        self._frame: Frame | None = None
        self._missing = ""
        if files:
            try:
                self._frame = graph_frame()
            except LrpError as error:  # a report without pictures is better than none
                self._missing = str(error)

    @property
    def page(self) -> list[str] | None:
        """The graph page before and after its data."""
        return None if self._frame is None else [self._frame.before, self._frame.after]

    @property
    def styles(self) -> list[str]:
        return [] if self._frame is None else [self._frame.style]

    @property
    def scripts(self) -> tuple[str, ...]:
        return () if self._frame is None else self._frame.scripts

    def graph(self, case: str, model: str, composite: str) -> dict[str, Any] | None:
        """A graph for its frame: ``data``, JSON that is safe in a script element; or a ``note`` why there is none."""
        path = self._files.get((case, model, composite))
        if path is None:
            return None
        return {"note": self._missing} if self._missing else graph_data(path, case, self.palette)


def graph_data(path: Path, case: str, palette: str) -> dict[str, Any]:
    """A saved graph for its frame: ``data``, JSON that is safe in a script element; or a ``note`` why there is none."""
    try:
        graph = AttributionGraph.load(path)
    except LrpError as error:
        return {"note": visible(str(error))}
    if not len(graph):
        return {"note": "no edge of the graph is above the thresholds"}
    title = f"{visible(case)}: {headline(graph)}"
    data = drawn_data(graph, title, palette, MOST_EDGES, f"All of them: items/{path.name}")
    return {"data": script_safe(data)}
