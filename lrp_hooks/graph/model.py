"""The attribution graph: nodes (residual point, token), sparse signed edges between neighbouring points; immutable."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import GraphError


@dataclass(frozen=True)
class TransitionInfo:
    """What pruning did to one transition.

    Attributes:
        below, above: its residual points.
        threshold: the smallest |weight| kept (inf when none).
        kept, total: edges kept and edges that were not 0; ``kept_mass``, ``total_mass``: their sums of |weight|.
        dropped_relevance: share of sum |R| at ``above`` in rows that ``node_threshold`` dropped.
    """

    below: int
    above: int
    threshold: float
    kept: int
    total: int
    kept_mass: float
    total_mass: float
    dropped_relevance: float


@dataclass(frozen=True, eq=False)
class AttributionGraph:
    """Relevance at every (residual point, token), and the edges along which it flows, in logits.

    Columns are tensors, one entry per edge: an edge goes from token ``source`` at point ``below`` to token ``target``
    at point ``above``.

    Attributes:
        relevance: [L+1, T] relevance of every node.
        below, above, source, target: [E] int64; weight: [E] float32.
        position: token whose logits are explained; the final node is (last point, position).
        tokens: display text per token; input_ids: [T] or None.
        transitions: what pruning did.
        about: model, target, value, options: plain text and numbers.
    """

    relevance: Tensor
    below: Tensor
    above: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    position: int
    tokens: tuple[str, ...]
    transitions: tuple[TransitionInfo, ...]
    input_ids: Tensor | None = None
    about: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of edges."""
        return len(self.weight)

    @property
    def last(self) -> int:
        """The last residual point."""
        return max((info.above for info in self.transitions), default=self.relevance.shape[0] - 1)

    @property
    def nodes(self) -> Tensor:
        """[N, 2] (residual point, token) of the nodes that have an edge, and the final node; in order."""
        ends = torch.cat((torch.stack((self.below, self.source), 1), torch.stack((self.above, self.target), 1)))
        final = torch.tensor([[self.last, self.position]])
        found: Tensor = torch.unique(torch.cat((ends, final)), dim=0)
        return found

    def between(self, below: int) -> Tensor:
        """Indices of the edges whose lower point is ``below``."""
        return torch.nonzero(self.below == below).flatten()

    def select(self, edges: Tensor) -> AttributionGraph:
        """The graph with only these edges (indices or a mask)."""
        columns = {name: getattr(self, name)[edges] for name in ("below", "above", "source", "target", "weight")}
        return replace(self, **columns)

    def save(self, path: str | FilePath) -> FilePath:
        """Write one safetensors file with a versioned JSON header."""
        from lrp_hooks.graph.io import save_graph

        return save_graph(self, path)

    @classmethod
    def load(cls, path: str | FilePath) -> AttributionGraph:
        """Read what `save` wrote. Raises GraphError for damaged, foreign or newer files."""
        from lrp_hooks.graph.io import load_graph

        return load_graph(path)

    # Connected subgraph and tracing ----------------------------------------------------------------------------------

    def connected(self) -> AttributionGraph:
        """Only edges from which the final node (last point, explained position) can be reached."""
        return self.ancestors(self.last, self.position)

    def ancestors(self, point: int, token: int) -> AttributionGraph:
        """The edges below a node from which it can be reached."""
        return self._reach(point, token, upwards=False)

    def descendants(self, point: int, token: int) -> AttributionGraph:
        """The edges above a node that can be reached from it."""
        return self._reach(point, token, upwards=True)

    def _reach(self, point: int, token: int, *, upwards: bool) -> AttributionGraph:
        near, near_token = (self.below, self.source) if upwards else (self.above, self.target)
        far, far_token = (self.above, self.target) if upwards else (self.below, self.source)
        length = self.relevance.shape[1]
        active = torch.zeros(self.relevance.shape[0], length, dtype=torch.bool)
        active[point, token] = True
        keep = torch.zeros(len(self), dtype=torch.bool)
        points = sorted(set(near.tolist()), reverse=not upwards)
        for at in points:
            edges = torch.nonzero(near == at).flatten()
            edges = edges[active[at, near_token[edges]]]
            keep[edges] = True
            active[far[edges], far_token[edges]] = True
        return self.select(keep)

    # Paths -----------------------------------------------------------------------------------------------------------

    def strongest_paths(self, count: int = 5, token: int | None = None) -> list[Path]:
        """The ``count`` strongest paths from the lowest point (any token, or one) to the final node.

        The strength of a path is the product over its edges of |weight| / sum |weight| into the upper node: the share
        of the final node's incoming relevance that takes this way. Exact: the best k ways into every node are kept.
        """
        if count < 1:
            raise GraphError(f"count = {count}: at least one path")
        incoming: dict[tuple[int, int], float] = {}
        for above, target, weight in zip(self.above.tolist(), self.target.tolist(), self.weight.tolist(), strict=True):
            incoming[above, target] = incoming.get((above, target), 0.0) + abs(weight)
        lowest = int(self.below.min()) if len(self) else 0
        best: dict[tuple[int, int], list[tuple[float, tuple[int, ...]]]] = {}
        for source in range(self.relevance.shape[1]) if token is None else [token]:
            best[lowest, source] = [(1.0, (source,))]
        for edge in self.above.argsort(stable=True).tolist():
            below, above = int(self.below[edge]), int(self.above[edge])
            source, target, weight = int(self.source[edge]), int(self.target[edge]), float(self.weight[edge])
            share = abs(weight) / (incoming[above, target] or 1.0)
            ways = [(s * share, (*way, target)) for s, way in best.get((below, source), [])]
            best[above, target] = heapq.nlargest(count, [*best.get((above, target), []), *ways])
        final = best.get((self.last, self.position), []) if len(self) else []
        points = sorted({*self.below.tolist(), *self.above.tolist()})
        return [Path(strength, tuple(zip(points, way, strict=True))) for strength, way in final]

    # Decomposition ---------------------------------------------------------------------------------------------------

    def decomposition(self, point: int, token: int, first: int = 0) -> Decomposition:
        """Where a node's relevance goes one point down: to itself, to the first token, to other tokens."""
        edges = torch.nonzero((self.above == point) & (self.target == token)).flatten()
        weight, source = self.weight[edges].double(), self.source[edges]
        own, start = source == token, (source == first) & (source != token)
        return Decomposition(
            own=float(weight[own].sum()),
            first=float(weight[start].sum()),
            others=float(weight[~own & ~start].sum()),
        )


@dataclass(frozen=True)
class Path:
    """One way through the graph, from below: (residual point, token) per node."""

    strength: float
    nodes: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Decomposition:
    """What a node sends down along kept edges, in logits; ``total`` is their sum."""

    own: float
    first: float
    others: float

    @property
    def total(self) -> float:
        return self.own + self.first + self.others
