"""``lrp-hooks graph``: the attribution graph, its strongest paths, and its file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from lrp_hooks.cli.attribute import CHECKPOINT, consoles, working
from lrp_hooks.cli.inputs import PromptSource, make_target
from lrp_hooks.composites import resolve
from lrp_hooks.errors import GraphError, InputError
from lrp_hooks.graph.build import Pruning
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.graph.model import Path as GraphPath
from lrp_hooks.instrumentation import instrument
from lrp_hooks.loading import load_model


@dataclass(frozen=True)
class GraphRequest:
    """What was asked for."""

    source: PromptSource
    target: str | None = None
    contrasts: tuple[str, ...] = ()
    position: int = -1
    composite: str = "attnlrp"
    node_threshold: float = 0.01
    node_unit: str = "logits"
    top_p: float = 0.85
    edge_threshold: float | None = None
    paths: int = 5
    out: Path | None = None
    checkpoint: str = "auto"
    unknown: str = "error"

    def check(self) -> None:
        """Raise for what can be known to be wrong without the model."""
        resolve(self.composite)
        unit: Any = self.node_unit
        Pruning(self.node_threshold, unit, self.top_p, self.edge_threshold)
        if self.out is not None and self.out.suffix != ".safetensors":
            raise GraphError(f"{self.out.name}: unknown format {self.out.suffix!r}. choices: .safetensors")
        if self.checkpoint not in CHECKPOINT:
            raise InputError(f"--checkpoint {self.checkpoint!r} is unknown. choices: {', '.join(CHECKPOINT)}")


def run(request: GraphRequest, *, model: str, **loading: Any) -> AttributionGraph:
    """The whole command."""
    request.check()
    console, notes = consoles()
    with working(notes, f"loading {model}") as moving:
        loaded = load_model(model, progress=not moving, **loading)
    batch: dict[str, Any] = request.source.encode(loaded.tokenizer)
    target = make_target("logit-diff", request.target, request.contrasts, request.position, loaded.tokenizer)
    options: Any = {"unknown": request.unknown, "checkpoint": CHECKPOINT[request.checkpoint]}
    with instrument(loaded.model, request.composite, **options) as lrp, per_block(notes) as progress:
        unit: Any = request.node_unit
        graph = lrp.trace(**batch).graph(
            target,
            node_threshold=request.node_threshold,
            node_unit=unit,
            top_p=request.top_p,
            edge_threshold=request.edge_threshold,
            tokenizer=loaded.tokenizer,
            progress=progress,
        )
    show(graph, console, request.paths)
    if request.out is not None:
        graph.save(request.out)
        notes.print(f"wrote {request.out}", markup=False, highlight=False)
    return graph


@contextmanager
def per_block(notes: Console) -> Iterator[Callable[[int, int], None] | None]:
    """A bar that advances with every block, on a terminal."""
    if not notes.is_terminal:
        yield None
        return
    columns = (TextColumn("blocks"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def show(graph: AttributionGraph, console: Console, paths: int) -> None:
    """Sizes, what pruning dropped, and the strongest paths."""
    about = graph.about
    console.print(f"{about['target']} = {about['value']:+.3f} logits", markup=False, highlight=False, style="bold")
    dropped = max(info.dropped_relevance for info in graph.transitions)
    console.print(
        f"{len(graph.nodes)} nodes, {len(graph)} edges over {len(graph.transitions)} transitions; "
        f"at most {dropped:.1%} of |R| per point in rows below the node threshold",
        highlight=False,
    )
    table = Table(title="strongest paths", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("share", justify="right", header_style="dim")
    table.add_column("token, and the residual points at which it moves on", header_style="dim", overflow="fold")
    for path in graph.strongest_paths(paths):
        table.add_row(f"{path.strength:.2%}", escape(in_words(path, graph)))
    console.print(table)


def in_words(path: GraphPath, graph: AttributionGraph) -> str:
    """`` Mary`` [0-23] → `` to`` [24-30]: each token with the residual points where the path stays on it."""
    stays: list[tuple[int, float, float]] = []  # token, first point, last point
    for point, token in path.nodes:
        if stays and stays[-1][0] == token:
            stays[-1] = (token, stays[-1][1], point)
        else:
            stays.append((token, point, point))
    return " → ".join(_stay(graph.tokens[token], token, first, last) for token, first, last in stays)


def _stay(text: str, token: int, first: float, last: float) -> str:
    return f"{text!r}@{token} [{first}]" if first == last else f"{text!r}@{token} [{first}-{last}]"
