"""What the explorer shows: heatmaps and graphs, each with its page, its files, and the form that it was asked by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from lrp_hooks.errors import InputError, LrpError
from lrp_hooks.graph.difference import difference
from lrp_hooks.graph.io import SUFFIX as GRAPH
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.render import graph_files, output
from lrp_hooks.render.frames import Display, framed_graph, framed_heatmaps
from lrp_hooks.render.graph_words import headline
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.tokens import visible

HEATMAPS = ".json"
"""Suffix of the files that heatmaps are kept in."""
MOST_PANELS = 12


class Result(ABC):
    """Something that was explained, opened or compared."""

    kind: ClassVar[str]
    formats: ClassVar[tuple[str, ...]]
    kept_as: ClassVar[str]

    @abstractmethod
    def page(self, display: Display) -> str:
        """HTML for a frame."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the list says: target, value, model, composite, size."""

    @abstractmethod
    def write(self, path: Path, palette: str) -> Sequence[Path]:
        """Write a file in one of the formats; returns all files that this took."""


@dataclass(frozen=True)
class HeatmapResult(Result):
    """One heatmap, or several side by side."""

    heatmaps: tuple[Heatmap, ...]
    kind: ClassVar[str] = "heatmap"
    formats: ClassVar[tuple[str, ...]] = output.SUFFIXES
    kept_as: ClassVar[str] = HEATMAPS

    def page(self, display: Display) -> str:
        return framed_heatmaps(self.heatmaps, display)

    def facts(self) -> dict[str, Any]:
        targets, models, rules = (
            _joined(getattr(heatmap, name) for heatmap in self.heatmaps) for name in ("target", "model", "composite")
        )
        return {
            "target": targets,
            "value": self.heatmaps[0].value if len(self.heatmaps) == 1 else None,
            "model": models,
            "composite": rules,
            "size": f"{len(self.heatmaps[0].tokens):,} tokens",
            "text": _joined(_end("".join(token.display for token in heatmap.tokens)) for heatmap in self.heatmaps),
        }

    def write(self, path: Path, palette: str) -> Sequence[Path]:
        return [output.save(self.heatmaps, path, title=f"Why? {self.heatmaps[0].target}", palette=palette)]


@dataclass(frozen=True)
class GraphResult(Result):
    """An attribution graph, or the difference of two."""

    graph: AttributionGraph
    kind: ClassVar[str] = "graph"
    formats: ClassVar[tuple[str, ...]] = graph_files.SUFFIXES
    kept_as: ClassVar[str] = GRAPH

    def page(self, display: Display) -> str:
        return framed_graph(self.graph, display)

    def facts(self) -> dict[str, Any]:
        about = self.graph.about
        value = about.get("value")
        columns = "sentences or chunks, " if self.graph.segments is not None else ""
        return {
            "target": visible(str(about.get("target") or headline(self.graph))),
            "value": value if isinstance(value, int | float) else None,
            "model": visible(str(about.get("model", ""))),
            "composite": visible(str(about.get("composite", ""))),
            "text": _end("".join(self.graph.tokens[: self.graph.position + 1])),
            "size": f"{columns}{len(self.graph.nodes):,} nodes, {len(self.graph):,} edges",
        }

    def write(self, path: Path, palette: str) -> Sequence[Path]:
        return graph_files.write_graph(self.graph, path, palette=palette)


def compared(results: Sequence[Result]) -> Result:
    """Heatmaps side by side, or the first graph minus the second.

    Raises:
        InputError: heatmaps with graphs, other than two graphs, more than ``MOST_PANELS`` heatmaps.
        GraphError: graphs over different tokens.
    """
    heatmaps = [heatmap for result in results if isinstance(result, HeatmapResult) for heatmap in result.heatmaps]
    graphs = [result.graph for result in results if isinstance(result, GraphResult)]
    if len(heatmaps) > MOST_PANELS:
        raise InputError(f"{len(heatmaps)} heatmaps side by side are more than {MOST_PANELS}")
    if not graphs:
        return HeatmapResult(tuple(_named(heatmaps)))
    if heatmaps or len(graphs) != 2:
        raise InputError("choose heatmaps, which are put side by side, or two graphs, which are subtracted")
    return GraphResult(difference(*graphs))


def opened(path: Path, name: str) -> Result:
    """A saved graph (``.safetensors``) or saved heatmaps (``.json``). Nothing in a file is executed.

    Args:
        name: what to call the file in errors, and whose suffix says what it is.

    Raises:
        InputError: another suffix; the file is damaged or foreign.
    """
    suffix, shown = Path(name).suffix.lower(), visible(Path(name).name)
    if suffix not in (GRAPH, HEATMAPS):
        raise InputError(f"{shown}: the explorer opens saved graphs ({GRAPH}) and heatmaps ({HEATMAPS})")
    try:
        if suffix == GRAPH:
            return GraphResult(AttributionGraph.load(path))
        heatmaps = output.load(path)
    except LrpError as error:
        raise InputError(str(error).replace(str(path), shown)) from error
    if not heatmaps:
        raise InputError(f"{shown} holds no heatmap")
    return HeatmapResult(tuple(heatmaps))


def _named(heatmaps: Sequence[Heatmap]) -> list[Heatmap]:
    """Panels with a title: what tells them apart."""
    words = {name: [str(getattr(h, name)) for h in heatmaps] for name in ("model", "composite", "target")}
    words["text"] = [_end("".join(token.display for token in h.tokens)) for h in heatmaps]
    differing = [texts for texts in words.values() if len(set(texts)) > 1]
    titles = [", ".join(parts) for parts in zip(*differing, strict=True)] or [h.title for h in heatmaps]
    return [replace(h, title=title) for h, title in zip(heatmaps, titles, strict=True)]


def _end(text: str, most: int = 24) -> str:
    """The end of a text in one line."""
    text = visible(text)
    return text if len(text) <= most else f"…{text[-most:]}"


def _joined(words: Iterable[Any]) -> str:
    return " | ".join(dict.fromkeys(visible(str(word)) for word in words))
