"""Build a graph while one backward pass runs: each block's edges are made, pruned and freed as the gradient arrives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.edges import Transition
from lrp_hooks.graph.model import AttributionGraph, TransitionInfo
from lrp_hooks.graph.prune import KeptEdges, keep_above, keep_top_p

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
        size = relevance.abs()
        unit = {"logits": 1.0, "value": abs(value), "layer": float(size.sum())}[self.node_unit]
        return torch.nonzero(size > self.node_threshold * unit).flatten()

    def describe(self) -> str:
        """The thresholds in words, for error messages."""
        edges = f"top_p={self.top_p}" if self.edge_threshold is None else f"edge_threshold={self.edge_threshold}"
        return f"node_threshold={self.node_threshold} ({self.node_unit}), {edges}"


@dataclass(eq=False)
class GraphBuilder:
    """Receives the transitions of one backward pass, from the last block to the first.

    Attributes:
        value: gives the explained value once the backward pass has started.
        progress: called with (transitions done, transitions in all).
    """

    pruning: Pruning
    value: Callable[[], float]
    wanted: int
    progress: Callable[[int, int], None] | None = None
    kept: dict[int, KeptEdges] = field(default_factory=dict)
    infos: dict[int, TransitionInfo] = field(default_factory=dict)

    def add(self, block: int, made: Transition, below: Tensor, above: Tensor) -> None:
        """Prune one block's edges; nothing of the block is kept besides."""
        rows = self.pruning.rows(above, self.value())
        total = above.abs().sum()
        dropped = 1.0 - float(above[rows].abs().sum() / total) if total > 0 else 0.0
        found = self._prune(made, rows)
        self.kept[block] = found
        self.infos[block] = TransitionInfo(
            below=block,
            above=block + 1,
            threshold=found.threshold,
            kept=len(found.weight),
            total=found.total_count,
            kept_mass=found.kept_mass,
            total_mass=found.total_mass,
            dropped_relevance=dropped,
        )
        if self.progress is not None:
            self.progress(len(self.kept), self.wanted)

    def _prune(self, made: Transition, rows: Tensor) -> KeptEdges:
        if not len(rows):
            return keep_above(lambda: iter(()), 0.0)
        if self.pruning.edge_threshold is not None:
            return keep_above(lambda: made.rows(rows), self.pruning.edge_threshold)
        return keep_top_p(lambda: made.rows(rows), self.pruning.top_p)

    def graph(
        self,
        relevance: Tensor,
        position: int,
        tokens: tuple[str, ...],
        special: tuple[bool, ...],
        ids: Tensor | None,
    ) -> AttributionGraph:
        """The graph of everything received.

        Raises:
            GraphError: when no edge is left; says which thresholds emptied it.
        """
        blocks = sorted(self.kept)
        edges = [self.kept[b] for b in blocks]
        count = sum(len(e.weight) for e in edges)
        if not count:
            raise GraphError(f"no edge is left with {self.pruning.describe()}. do: lower the thresholds")

        def column(name: str) -> Tensor:
            return torch.cat([getattr(e, name) for e in edges])

        below = torch.cat([torch.full((len(self.kept[b].weight),), b) for b in blocks])
        return AttributionGraph(
            relevance=relevance.cpu(),
            below=below,
            above=below + 1,
            source=column("source"),
            target=column("target"),
            weight=column("weight").float(),
            points=tuple(range(len(relevance))),
            position=position,
            tokens=tokens,
            special=special,
            transitions=tuple(self.infos[b] for b in blocks),
            input_ids=ids,
        )
