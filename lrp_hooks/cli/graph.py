"""``lrp-hooks graph``: the attribution graph, its strongest paths, its metrics and its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lrp_hooks.cli.attribute import consoles, working
from lrp_hooks.cli.inputs import PromptSource, parse_checkpoint, parse_memory
from lrp_hooks.cli.pace import pace
from lrp_hooks.composites import resolve
from lrp_hooks.errors import GraphError
from lrp_hooks.graph.build import Pruning
from lrp_hooks.graph.detail import Detail
from lrp_hooks.graph.export.metrics import check_metrics_suffix, save_metrics
from lrp_hooks.graph.heads import head_sums
from lrp_hooks.graph.io import SUFFIX
from lrp_hooks.graph.metrics import as_table, graph_metrics
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.graph.model import Path as GraphPath
from lrp_hooks.instrumentation.instrument import instrument
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.loading.model import load_model
from lrp_hooks.render import graph_layout
from lrp_hooks.render.colours import palette_by_name
from lrp_hooks.render.graph_files import check_suffix, write_graph
from lrp_hooks.render.graph_words import stays
from lrp_hooks.render.words import statement
from lrp_hooks.segments import cut_segments, sentences
from lrp_hooks.targets import target_by_name
from lrp_hooks.tokens import token_texts
from lrp_hooks.written import make_target

PAGE = ".html"


@dataclass(frozen=True)
class GraphShown:
    """What is printed and written of a graph."""

    paths: int = 5
    metrics: bool = False
    metrics_files: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    palette: str = "red-blue"

    @property
    def pages(self) -> bool:
        return any(path.suffix.lower() == PAGE for path in self.outputs)

    def check(self) -> None:
        """Raise for unknown formats and palettes."""
        palette_by_name(self.palette)
        for path in self.outputs:
            check_suffix(path)
        for path in self.metrics_files:
            check_metrics_suffix(path)


@dataclass(frozen=True)
class GraphRequest:
    """What was asked for."""

    source: PromptSource
    target: str | None = None
    contrasts: tuple[str, ...] = ()
    kind: str = "logit-diff"
    position: int = -1
    composite: str = "attnlrp"
    node_threshold: float = 0.01
    node_unit: str = "logits"
    top_p: float = 0.85
    edge_threshold: float | None = None
    points: str | None = None
    mid: bool = False
    segments: str | None = None
    detail: Detail = False
    shown: GraphShown = GraphShown()
    checkpoint: str = "auto"
    max_memory: str | None = None
    unknown: str = "error"

    def check(self) -> None:
        """Raise for what can be known to be wrong without the model."""
        resolve(self.composite)
        target_by_name(self.kind)
        unit: Any = self.node_unit
        Pruning(self.node_threshold, unit, self.top_p, self.edge_threshold)
        self.shown.check()
        parse_points(self.points)
        if self.segments is not None:
            cut_segments(self.segments, ["a"])
        parse_checkpoint(self.checkpoint)
        parse_memory(self.max_memory)


def run(request: GraphRequest, *, model: str, **loading: Any) -> AttributionGraph:
    """The whole command."""
    request.check()
    console, notes = consoles()
    if model.endswith(SUFFIX) and Path(model).is_file():
        request.source.refuse("a saved graph has its own prompt")
        graph, coarse = AttributionGraph.load(model), None
    else:
        with working(notes, f"loading {model}") as moving:
            loaded = load_model(model, progress=not moving, causal_for="lrp-hooks graph", **loading)
        graph, coarse = make(request, loaded, notes)
    show(graph, request.shown, console, notes, coarse)
    return graph


def make(
    request: GraphRequest, loaded: LoadedModel, notes: Console
) -> tuple[AttributionGraph, AttributionGraph | None]:
    """Trace and build, with a bar per transition; and for a page of more than it draws smoothly, a coarse graph."""
    tokenizer = loaded.tokenizer
    batch: dict[str, Any] = request.source.encode(tokenizer)
    target = make_target(request.kind, request.target, request.contrasts, request.position, tokenizer)
    options: Any = {
        "unknown": request.unknown,
        "checkpoint": parse_checkpoint(request.checkpoint),
        "max_memory": parse_memory(request.max_memory),
    }
    texts = [t.text for t in token_texts(tokenizer, batch["input_ids"][0].tolist())]
    asked: dict[str, Any] = {
        "node_threshold": request.node_threshold,
        "node_unit": request.node_unit,
        "top_p": request.top_p,
        "edge_threshold": request.edge_threshold,
        "points": parse_points(request.points),
        "mid": request.mid,
        "tokenizer": tokenizer,
    }
    segments = None if request.segments is None else cut_segments(request.segments, texts)
    coarse = None
    with instrument(loaded.model, request.composite, **options) as lrp, pace(notes, "transitions") as progress:
        trace = lrp.trace(**batch)
        graph = trace.graph(target, segments=segments, detail=request.detail, progress=progress, **asked)
        if segments is None and request.shown.pages and not graph_layout.is_smooth(graph):
            coarse = trace.graph(target, segments=sentences(texts), progress=progress, **asked).under_name(loaded.name)
    return graph.under_name(loaded.name), coarse


def parse_points(text: str | None) -> list[float] | None:
    """``0,8,15.5,30`` as residual points."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise GraphError(f"--points takes numbers separated by commas, e.g. 0,8,15.5,30: {error}") from error


def show(
    graph: AttributionGraph,
    shown: GraphShown,
    console: Console,
    notes: Console,
    coarse: AttributionGraph | None = None,
) -> None:
    """Sizes, what pruning dropped, the strongest paths, and the files.

    With a ``coarse`` graph the pages show that one, and the tokens are in a page beside it.
    """
    about = graph.about
    explained = statement(str(about["target"]), float(about["value"]), about.get("target_value"))
    console.print(explained, markup=False, highlight=False, style="bold")
    dropped = max(info.dropped_relevance for info in graph.transitions)
    console.print(
        f"{len(graph.nodes)} nodes, {len(graph)} edges over {len(graph.transitions)} transitions; "
        f"at most {dropped:.1%} of |R| per point in rows below the node threshold",
        highlight=False,
    )
    table = Table(title="strongest paths", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("share", justify="right", header_style="dim")
    table.add_column("token, and the residual points at which it moves on", header_style="dim", overflow="fold")
    for path in graph.strongest_paths(shown.paths):
        table.add_row(f"{path.sign * path.strength:+.2%}", escape(in_words(path, graph)))
    console.print(table)
    if graph.detail is not None and graph.detail.heads is not None:
        console.print(heads_table(graph))
    if shown.metrics:
        console.print(metrics_table(graph))
    for out in shown.metrics_files:
        notes.print(f"wrote {save_metrics(graph, out)}", markup=False, highlight=False)
    for out in shown.outputs:
        files = {out: graph}
        if coarse is not None and out.suffix.lower() == PAGE:
            files = {out: coarse, out.with_suffix(f".tokens{PAGE}"): graph}
        for file, drawn in files.items():
            for written in write_graph(drawn, file, palette=shown.palette):
                size = "" if drawn.segments is None else f" ({len(drawn.segments)} segments per point)"
                notes.print(f"wrote {written}{size}", markup=False, highlight=False)


def in_words(path: GraphPath, graph: AttributionGraph) -> str:
    """`` Mary`` [0-23] → `` to`` [24-30]: each token with the residual points where the path stays on it."""
    return " → ".join(_stay(graph.tokens[token], token, first, last) for token, first, last in stays(path))


def _stay(text: str, token: int, first: float, last: float) -> str:
    return f"{text!r}@{token} [{first}]" if first == last else f"{text!r}@{token} [{first}-{last}]"


HEADS = 10
"""Rows of the table of heads."""


def heads_table(graph: AttributionGraph) -> Table:
    """The heads that carry most, each with what its paths add up to over all kept edges."""
    table = Table(title="heads", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in ("block", "head", "Σ|w|", "between tokens", "value", "key", "query", "edges"):
        table.add_column(heading, justify="right", header_style="dim")
    for one in head_sums(graph)[:HEADS]:
        moved = f"{one.between / one.size:.0%}" if one.size else ""
        signed = (f"{x:+.3f}" for x in (one.value, one.key, one.query))
        table.add_row(str(one.block), str(one.head), f"{one.size:.3f}", moved, *signed, f"{one.edges:,}")
    return table


METRICS = {
    "point": "point",
    "nodes": "node_count",
    "edges": "edge_count",
    "R > 0": "positive_count",
    "R < 0": "negative_count",
    "90 % of |R|": "carrier_count",
    "Gini |R|": "gini_relevance",
    "verticality": "verticality",
    "lookback": "mean_lookback",
    "centre": "centre_of_mass",
    "hubs": "hub_count",
}


def metrics_table(graph: AttributionGraph) -> Table:
    """The metrics that fit a terminal, one row per residual point, the last on top."""
    table = Table(title="metrics", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for heading in METRICS:
        table.add_column(heading, justify="right", header_style="dim")
    for row in reversed(as_table(graph_metrics(graph))):
        table.add_row(f"{row['point']:g}", *(_number(row[name]) for name in list(METRICS.values())[1:]))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}" if float(value).is_integer() else f"{value:.2f}"
