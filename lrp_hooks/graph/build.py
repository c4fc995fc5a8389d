"""Prune the transitions of one backward pass as they arrive, and put the graph together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.detail import Detail, edge_detail, no_attention
from lrp_hooks.graph.edges import Transition
from lrp_hooks.graph.group import Grouping
from lrp_hooks.graph.model import AttributionGraph, EdgeDetail, TransitionInfo
from lrp_hooks.graph.plan import Plan, Step
from lrp_hooks.graph.prune import KeptEdges, RowBlocks, keep_above, keep_columns, keep_top_p
from lrp_hooks.graph.tiled import TiledEdges, tiles_above, tiles_top_p

Unit = Literal["logits", "value", "layer"]


@dataclass(frozen=True)
class Pruning:
    """Which nodes and edges are kept.

    Attributes:
        node_threshold: rows j with |R_t^j| not above it are dropped; 0 keeps all that are not 0.
        node_unit: "logits"; "value" (a share of the explained value); "layer" (a share of sum |R| at the point).
        top_p: per transition, the smallest set of edges that carries this share of sum |A|.
        edge_threshold: instead of top_p, all edges with |A| above it.
    """

    node_threshold: float = 0.01
    node_unit: Unit = "logits"
    top_p: float = 0.85
    edge_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.node_threshold < 0 or (self.edge_threshold is not None and self.edge_threshold < 0):
            raise GraphError("thresholds must not be negative")
        if not 0 < self.top_p <= 1:
            raise GraphError(f"top_p = {self.top_p} must lie in (0, 1]")
        if self.node_unit not in ("logits", "value", "layer"):
            raise GraphError(f"node_unit {self.node_unit!r} is unknown. choices: logits, value, layer")

    def rows(self, relevance: Tensor, value: float) -> Tensor:
        """Indices of the target tokens whose rows are made, ascending."""
        size, unit = relevance.abs(), 1.0
        if self.node_unit == "value":
            unit = abs(value)
        elif self.node_unit == "layer":
            unit = float(size.sum())
        return torch.nonzero(size > self.node_threshold * unit).flatten()

    def describe(self) -> str:
        """The thresholds in words, for error messages."""
        edges = f"top_p={self.top_p}" if self.edge_threshold is None else f"edge_threshold={self.edge_threshold}"
        return f"node_threshold={self.node_threshold} ({self.node_unit}), {edges}"


@dataclass(eq=False)
class GraphBuilder:
    """Receives the transitions of one backward pass, in any order; keeps what pruning leaves of each.

    Attributes:
        scores: relevance [T] at a residual point that the backward pass has reached.
        value: gives the explained value once the backward pass has started.
        grouping: sums tokens into segments.
        detail: what kept edges get of their paths and heads.
        progress: called with (transitions done, transitions in all).
    """

    plan: Plan
    pruning: Pruning
    scores: Callable[[float], Tensor]
    value: Callable[[], float]
    grouping: Grouping | None = None
    detail: Detail = False
    progress: Callable[[int, int], None] | None = None
    kept: dict[Step, KeptEdges] = field(default_factory=dict)
    infos: dict[Step, TransitionInfo] = field(default_factory=dict)
    details: dict[Step, EdgeDetail] = field(default_factory=dict)

    def exact(self, block: int, made: Transition) -> None:
        """Prune one block's closed form; nothing of the block is kept besides."""
        for step in self.plan.steps:
            if step.kind == "exact" and step.block == block:
                self.stream(step, made.row_blocks, made.streamed)
                if self.detail:
                    self.details[step] = edge_detail(made, self.kept[step], self.detail)

    def local(self, block: int) -> None:
        """From a block's mid point to its output: each token to itself, with all its relevance."""
        for step in self.plan.steps:
            if step.kind == "local" and step.block == block:
                below, above = self._nodes(step.below), self._nodes(step.above)
                rows = self.pruning.rows(above, self.value())
                listed = (rows, rows, below[rows])
                kept = keep_columns(listed, self.pruning.top_p, self.pruning.edge_threshold)
                self._store(step, kept, above, rows)
                if self.detail:
                    self.details[step] = no_attention(len(self.kept[step].weight), self.detail)

    def _nodes(self, point: float) -> Tensor:
        """Relevance of the graph's columns at a point, on the CPU: one wait for a GPU, where each number that is looked
        at would be one."""
        scores = self.scores(point)
        return (scores if self.grouping is None else self.grouping.sums(scores)).cpu()

    def stream(
        self,
        step: Step,
        row_blocks: Callable[[Tensor], RowBlocks],
        streamed: Callable[[Tensor], RowBlocks | TiledEdges] | None = None,
    ) -> None:
        """Prune edges that are made row by row, by closed form or packed products.

        ``streamed``: the same rows as pruning alone may take them, perhaps as tiles that never leave the kernels.
        """
        above = self._nodes(step.above)
        rows = self.pruning.rows(above, self.value())
        if self.grouping is None:
            self._store(step, self._pruned((streamed or row_blocks)(rows)), above, rows)
        else:
            tokens = torch.nonzero(self.scores(step.above)).flatten()
            sums = self.grouping.edge_sums(row_blocks(tokens))
            blocks = RowBlocks((rows.to(sums.device),) if len(rows) else (), lambda wanted: sums[wanted])
            self._store(step, self._pruned(blocks), above, rows)

    def _pruned(self, edges: RowBlocks | TiledEdges) -> KeptEdges:
        threshold, top_p = self.pruning.edge_threshold, self.pruning.top_p
        if isinstance(edges, TiledEdges):
            return tiles_top_p(edges, top_p) if threshold is None else tiles_above(edges, threshold)
        return keep_top_p(edges, top_p) if threshold is None else keep_above(edges, threshold)

    def _store(self, step: Step, found: KeptEdges, above: Tensor, rows: Tensor) -> None:
        total = above.abs().sum()
        points = self.plan.points
        self.kept[step] = found
        self.infos[step] = TransitionInfo(
            below=points.index(step.below),
            above=points.index(step.above),
            threshold=found.threshold,
            kept=len(found.weight),
            total=found.total_count,
            kept_mass=found.kept_mass,
            total_mass=found.total_mass,
            dropped_relevance=1.0 - float(above[rows].abs().sum() / total) if total > 0 else 0.0,
            method=step.kind,
        )
        if self.progress is not None:
            self.progress(len(self.kept), len(self.plan.steps))

    def graph(self, positions: Sequence[int], columns: GraphColumns, ids: Tensor | None) -> AttributionGraph:
        """The graph of everything received; ``positions``: the explained tokens, ascending.

        Raises:
            GraphError: when no edge is left; says which thresholds emptied it.
        """
        steps = sorted(self.kept, key=lambda step: step.below)
        edges, infos = [self.kept[step] for step in steps], [self.infos[step] for step in steps]
        if not sum(len(e.weight) for e in edges):
            raise GraphError(f"no edge is left with {self.pruning.describe()}. do: lower the thresholds")

        def joined(parts: list[Tensor]) -> Tensor:
            return torch.cat(parts)

        def rows(name: str) -> Tensor:
            return joined([torch.full((info.kept,), getattr(info, name)) for info in infos])

        finals = tuple(positions if self.grouping is None else self.grouping.holding(positions))
        details = [self.details[step] for step in steps] if self.detail else []
        detail = EdgeDetail.joined(details) if details else None
        return AttributionGraph(
            relevance=torch.stack([self._nodes(point) for point in self.plan.points]).float(),
            below=rows("below"),
            above=rows("above"),
            source=joined([e.source for e in edges]),
            target=joined([e.target for e in edges]),
            weight=joined([e.weight for e in edges]).float(),
            points=self.plan.points,
            position=finals[-1],
            positions=finals,
            tokens=columns.texts,
            special=columns.special,
            segments=None if self.grouping is None else self.grouping.segments,
            transitions=tuple(infos),
            input_ids=ids,
            detail=detail,
        )


@dataclass(frozen=True)
class GraphColumns:
    """Display text and special flag per column."""

    texts: tuple[str, ...]
    special: tuple[bool, ...]
