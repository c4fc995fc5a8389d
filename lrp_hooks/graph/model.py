"""The attribution graph: nodes (residual point, token), sparse signed edges between neighbouring points; immutable."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import GraphError
from lrp_hooks.segments import Segment


@dataclass(frozen=True)
class TransitionInfo:
    """What pruning did to one transition.

    Attributes:
        below, above: its rows of `AttributionGraph.points`.
        threshold: the smallest |weight| kept (inf when none).
        kept, total: edges kept and edges that were not 0; ``kept_mass``, ``total_mass``: their sums of |weight|.
        dropped_relevance: share of sum |R| at ``above`` in rows that ``node_threshold`` dropped.
        method: "exact" (closed form), "packed" (blocks re-run), or "local" (tokens do not mix).
    """

    below: int
    above: int
    threshold: float
    kept: int
    total: int
    kept_mass: float
    total_mass: float
    dropped_relevance: float
    method: str = "exact"


@dataclass(frozen=True, eq=False)
class AttributionGraph:
    """Relevance at every (residual point, token), and the edges along which it flows, in logits.

    P rows (residual points, ascending), C columns (tokens, or segments of tokens), E edges. Edges are columns of
    arrays: edge e goes from column ``source[e]`` at row ``below[e]`` to column ``target[e]`` at row ``above[e]``.

    Attributes:
        relevance: [P, C] float32, of every node.
        below, above, source, target: [E] int64; weight: [E] float32.
        points: residual point of each row: 0 before the first block, l + 1 after block l, l + 0.5 the mid point between
            attention and MLP of block l. Methods take residual points, not rows.
        position: column whose logits are explained; of several, the last.
        positions: all such columns, ascending: several for targets that read the logits of several positions, and for
            heads that read several tokens. The final nodes are (last row, position), one for each.
        tokens: display text per column; special: markers of the tokenizer (BOS, chat roles).
        segments: the tokens of each column when columns are segments; None when they are tokens.
        input_ids: [T] or None.
        transitions: what pruning did.
        detail: per edge the paths and heads it takes, on request.
        about: model, target, value, options, and ``origin``: names, revision, versions. Plain text and numbers.
    """

    relevance: Tensor
    below: Tensor
    above: Tensor
    source: Tensor
    target: Tensor
    weight: Tensor
    points: tuple[float, ...]
    position: int
    tokens: tuple[str, ...]
    transitions: tuple[TransitionInfo, ...]
    special: tuple[bool, ...] = ()
    segments: tuple[Segment, ...] | None = None
    input_ids: Tensor | None = None
    detail: EdgeDetail | None = None
    about: dict[str, Any] = field(default_factory=dict)
    positions: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.positions) < 2:
            object.__setattr__(self, "positions", (self.position,))
        elif list(self.positions) != sorted(set(self.positions)) or self.position != self.positions[-1]:
            raise GraphError(f"positions {self.positions} must ascend and end at position {self.position}")

    def __len__(self) -> int:
        """Number of edges."""
        return len(self.weight)

    def row(self, point: float) -> int:
        """Row of a residual point.

        Raises:
            GraphError: the graph has no such point.
        """
        if point not in self.points:
            raise GraphError(
                f"residual point {point} is not in this graph. choices: {', '.join(map(str, self.points))}"
            )
        return self.points.index(point)

    @property
    def final(self) -> tuple[int, int]:
        """(row, column) of the final node; of several, the last."""
        return len(self.points) - 1, self.position

    @property
    def finals(self) -> tuple[tuple[int, int], ...]:
        """(row, column) of the final nodes."""
        return tuple((len(self.points) - 1, column) for column in self.positions)

    @property
    def final_shares(self) -> tuple[float, ...]:
        """The share of each final node in their sum |R|; 1 where there is one."""
        size = self.relevance[-1, list(self.positions)].double().abs()
        total = float(size.sum())
        return tuple((size / total).tolist()) if len(size) > 1 and total else (1 / len(size),) * len(size)

    @property
    def nodes(self) -> Tensor:
        """[N, 2] (row, column) of the nodes that have an edge, and the final nodes; in order."""
        columns = self.relevance.shape[1]
        ends = (self.below * columns + self.source, self.above * columns + self.target)
        final = torch.tensor([row * columns + column for row, column in self.finals])
        keys = torch.unique(torch.cat((*ends, final)))
        return torch.stack((keys // columns, keys % columns), 1)

    def between(self, below: float) -> Tensor:
        """Indices of the edges whose lower residual point is ``below``."""
        return torch.nonzero(self.below == self.row(below)).flatten()

    def attention_edges(self) -> list[tuple[int, int, int]]:
        """(block, source token, target token) of the edges between different tokens, as `Trace.ablate` takes them.

        Raises:
            GraphError: a graph of segments, or one whose transitions span several blocks.
        """
        if self.segments is not None:
            raise GraphError("the edges of this graph are between segments. do: a token graph (segments=None)")
        points = torch.tensor(self.points)
        below, above = points[self.below], points[self.above]
        mixing = self.source != self.target
        if bool((above[mixing] - below[mixing] > 1).any()):
            raise GraphError("an edge over several blocks is no single attention edge. do: a graph over all points")
        columns = (below.long(), self.source, self.target)
        return list(zip(*(column[mixing].tolist() for column in columns), strict=True))

    def select(self, edges: Tensor) -> AttributionGraph:
        """The graph with only these edges (indices or a mask)."""
        columns = {name: getattr(self, name)[edges] for name in ("below", "above", "source", "target", "weight")}
        return replace(self, **columns, detail=None if self.detail is None else self.detail.select(edges))

    def under_name(self, model: str) -> AttributionGraph:
        """The graph with another name of its model: the one that it was loaded by."""
        return replace(self, about={**self.about, "model": model})

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
        """Only edges from which a final node (last point, explained position) can be reached."""
        return self._reach(self.finals, upwards=False)

    def ancestors(self, point: float, token: int) -> AttributionGraph:
        """The edges below a node from which it can be reached."""
        return self._reach([(self.row(point), token)], upwards=False)

    def descendants(self, point: float, token: int) -> AttributionGraph:
        """The edges above a node that can be reached from it."""
        return self._reach([(self.row(point), token)], upwards=True)

    def _reach(self, nodes: Iterable[tuple[int, int]], *, upwards: bool) -> AttributionGraph:
        near, near_token = (self.below, self.source) if upwards else (self.above, self.target)
        far, far_token = (self.above, self.target) if upwards else (self.below, self.source)
        active = torch.zeros(self.relevance.shape, dtype=torch.bool)
        for row, token in nodes:
            active[row, token] = True
        keep = torch.zeros(len(self), dtype=torch.bool)
        for at in sorted(set(near.tolist()), reverse=not upwards):
            edges = torch.nonzero(near == at).flatten()
            edges = edges[active[at, near_token[edges]]]
            keep[edges] = True
            active[far[edges], far_token[edges]] = True
        return self.select(keep)

    # Paths -----------------------------------------------------------------------------------------------------------

    def strongest_paths(self, count: int = 5, token: int | None = None) -> list[Path]:
        """The ``count`` strongest paths from the lowest point (any token, or one) to a final node.

        The strength of a path is the product over its edges of |weight| / sum |weight| into the upper node: the share
        of the final node's incoming relevance that takes this way; times the final node's share, where there are
        several (`final_shares`). Exact: the best k ways into every node are kept.
        """
        if count < 1:
            raise GraphError(f"count = {count}: at least one path")
        incoming: dict[tuple[int, int], float] = {}
        for above, target, weight in zip(self.above.tolist(), self.target.tolist(), self.weight.tolist(), strict=True):
            incoming[above, target] = incoming.get((above, target), 0.0) + abs(weight)
        negative = (self.relevance < 0).tolist()
        lowest = int(self.below.min()) if len(self) else 0
        best: dict[tuple[int, int], list[tuple[float, bool, tuple[int, ...]]]] = {}
        for source in range(self.relevance.shape[1]) if token is None else [token]:
            best[lowest, source] = [(1.0, False, (source,))]
        order = self.above.argsort(stable=True)
        columns = (c[order].tolist() for c in (self.below, self.above, self.source, self.target, self.weight))
        for below, above, source, target, weight in zip(*columns, strict=True):
            share = abs(weight) / (incoming[above, target] or 1.0)
            turns = (weight < 0) != negative[above][target]
            ways = [(s * share, turned != turns, (*way, target)) for s, turned, way in best.get((below, source), [])]
            best[above, target] = heapq.nlargest(count, [*best.get((above, target), []), *ways])
        ended = [
            (strength * share, turned != negative[row][column], way)
            for (row, column), share in zip(self.finals, self.final_shares, strict=True)
            for strength, turned, way in best.get((row, column), [])
        ]
        points = self.points[lowest:]
        return [
            Path(strength, tuple(zip(points, way, strict=True)), -1 if against else 1)
            for strength, against, way in heapq.nlargest(count, ended)
        ]

    # Decomposition ---------------------------------------------------------------------------------------------------

    def decomposition(self, point: float, token: int, first: int = 0) -> Decomposition:
        """Where a node's relevance goes one point down: to itself, to the first token, to other tokens."""
        edges = torch.nonzero((self.above == self.row(point)) & (self.target == token)).flatten()
        weight, source = self.weight[edges].double(), self.source[edges]
        own, start = source == token, (source == first) & (source != token)
        return Decomposition(
            own=float(weight[own].sum()),
            first=float(weight[start].sum()),
            others=float(weight[~own & ~start].sum()),
        )


@dataclass(frozen=True)
class Path:
    """One way through the graph, from below: (residual point, token) per node.

    Attributes:
        strength: share of the final nodes' incoming |weight| that takes this way.
        sign: +1 when what arrives speaks for the target, -1 when for the contrast: the final node's sign, turned at
            every edge whose weight has not the sign of its upper node's relevance.
    """

    strength: float
    nodes: tuple[tuple[float, int], ...]
    sign: int = 1


@dataclass(frozen=True)
class Decomposition:
    """What a node sends down along kept edges, in logits; ``total`` is their sum."""

    own: float
    first: float
    others: float

    @property
    def total(self) -> float:
        return self.own + self.first + self.others


@dataclass(frozen=True, eq=False)
class EdgeDetail:
    """What each edge consists of, in logits; value + key + query + the token-local rest = weight.

    Attributes:
        value, key, query: [E] float32, the parts that take the attention's value, key and query path.
        head: [E] int64, the head with the largest |value + key|, -1 where no attention is involved.
        head_weight: [E] float32, value + key of that head.
        heads: [E, H, 3] float32, the three paths of every head, on request; 0 beyond the heads of a block that has
            fewer. Summed over heads it is (value, key, query).
    """

    value: Tensor
    key: Tensor
    query: Tensor
    head: Tensor
    head_weight: Tensor
    heads: Tensor | None = None

    def select(self, edges: Tensor) -> EdgeDetail:
        """The same for some edges (indices or a mask)."""
        columns = {name: getattr(self, name)[edges] for name in DETAIL}
        return EdgeDetail(**columns, heads=None if self.heads is None else self.heads[edges])

    @classmethod
    def joined(cls, parts: Sequence[EdgeDetail]) -> EdgeDetail:
        """The details of several transitions, one after the other."""
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in DETAIL}
        heads = [part.heads for part in parts if part.heads is not None]
        if len(heads) < len(parts):
            return cls(**columns)
        most = max((h.shape[1] for h in heads), default=0)
        return cls(**columns, heads=torch.cat([widened(h, most) for h in heads]))


def widened(heads: Tensor, most: int) -> Tensor:
    """[E, H, 3] with 0 for heads that a block does not have, [E, most, 3]."""
    return torch.nn.functional.pad(heads, (0, 0, 0, most - heads.shape[1]))


DETAIL = ("value", "key", "query", "head", "head_weight")
