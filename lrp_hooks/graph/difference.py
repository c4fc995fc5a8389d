"""The difference of two attribution graphs over the same columns: two targets, models, or rules for one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.model import AttributionGraph, EdgeDetail, TransitionInfo, widened


def difference(first: AttributionGraph, second: AttributionGraph) -> AttributionGraph:
    """``first`` - ``second``: R = R_1 - R_2 at every node, w = w_1 - w_2 over the union of the edges.

    An edge that one graph lacks counts as 0 there; edges that come out as exactly 0 are dropped. Within a transition
    the strongest edge comes first.

    What is known about an absent edge is recorded per transition. ``threshold`` is the larger of the two graphs'
    thresholds (the smallest |w| that each kept): pruning drops only smaller ones, so the weight of an edge that one
    graph lacks is off by less than it, and an edge that both lack is smaller than the sum of the two. It is inf, no
    bound, where a graph kept nothing or says nothing about a transition that the other has. The bound presupposes that
    the row of the edge's upper node was made and kept: with ``node_threshold``, or after ``connected``, all edges into
    a node may be missing whatever their size. ``about["edges"]["unbounded"]`` counts the edges that are in one graph
    only and whose upper node has no edge from below in the other.

    The remaining numbers of a transition: ``kept`` and ``kept_mass`` are the difference's own; ``total`` and
    ``total_mass`` add what each graph saw in its rows and does not hold, so for those rows they are upper bounds, and
    kept_mass / total_mass is a cautious share; ``dropped_relevance`` is the larger of the two.

    ``detail`` exists when both graphs have it. Paths are subtracted like weights, those of every head where both graphs
    have them; the head is the one that both graphs name, or that of the only graph with the edge, and -1 with
    head_weight 0 where the graphs name different heads.

    ``about`` holds both descriptions (``first``, ``second``), and ``target``, ``value``, ``model`` in summary.
    ``input_ids`` are kept when they are the same; a column is special when it is in either graph.

    Raises:
        GraphError: tokens, segments, residual points or explained positions differ; says which and where.
    """
    _check_same(first, second)
    merged = _Merged(first, second)
    graph = replace(
        first,
        relevance=first.relevance - second.relevance,
        **merged.ends(),
        weight=merged.subtract(first.weight, second.weight),
        detail=_detail(first, second, merged),
        special=tuple(a or b for a, b in zip_longest(first.special, second.special, fillvalue=False)),
        input_ids=first.input_ids if _same_ids(first, second) else None,
    )
    order = graph.weight.abs().argsort(descending=True, stable=True)
    order = order[graph.weight[order] != 0]
    graph = graph.select(order[merged.transition[order].argsort(stable=True)])
    return replace(
        graph, transitions=_transitions(first, second, graph), about=_about(first, second, merged.one_sided())
    )


def _check_same(first: AttributionGraph, second: AttributionGraph) -> None:
    if (first.segments is None) != (second.segments is None):
        kinds = ["tokens" if g.segments is None else "segments" for g in (first, second)]
        raise GraphError(f"the graphs differ: columns are {kinds[0]} in the first and {kinds[1]} in the second")
    _check_equal("residual point", first.points, second.points)
    _check_equal("token", first.tokens, second.tokens)
    _check_equal("segment", first.segments or (), second.segments or ())
    ours, theirs = (", ".join(map(str, graph.positions)) for graph in (first, second))
    if ours != theirs:
        verb = "position {} is" if len(first.positions) == 1 else "positions {} are"
        raise GraphError(f"the graphs differ: {verb.format(ours)} explained in the first and {theirs} in the second")


def _check_equal(name: str, ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    if len(ours) != len(theirs):
        raise GraphError(f"the graphs differ: {len(ours)} {name}s in the first and {len(theirs)} in the second")
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        if a != b:
            raise GraphError(f"the graphs differ: {name} {i} is {a!r} in the first and {b!r} in the second")


def _same_ids(first: AttributionGraph, second: AttributionGraph) -> bool:
    return first.input_ids is not None and second.input_ids is not None and first.input_ids.equal(second.input_ids)


class _Merged:
    """The union of two graphs' edges, in the order of their keys.

    Attributes:
        rows, width: P and C.
        key: [U] ((row below, row above), (source, target)) as one number; transition: [U] its first half.
        at: per graph, where its edges are in the union.
    """

    def __init__(self, first: AttributionGraph, second: AttributionGraph) -> None:
        self.rows, self.width = first.relevance.shape
        keys = [self._keys(graph) for graph in (first, second)]
        self.key, inverse = torch.unique(torch.cat(keys), return_inverse=True)
        self.at = inverse.split([len(first), len(second)])
        self.transition = self.key // self.width**2

    def _keys(self, graph: AttributionGraph) -> Tensor:
        key: Tensor = (graph.below * self.rows + graph.above) * self.width + graph.source
        return key * self.width + graph.target

    def ends(self) -> dict[str, Any]:
        """The edge columns below, above, source, target."""
        rest = self.key % self.width**2
        return {
            "below": self.transition // self.rows,
            "above": self.transition % self.rows,
            "source": rest // self.width,
            "target": rest % self.width,
        }

    def subtract(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """[U] float32: one graph's values minus the other's; 0 where a graph lacks the edge."""
        total = torch.zeros(len(self.key), *ours.shape[1:], dtype=torch.float64)
        return total.index_add_(0, self.at[0], ours.double()).index_add_(0, self.at[1], -theirs.double()).float()

    def holds(self, which: int) -> Tensor:
        """[U] bool: edges of one graph."""
        held = torch.zeros(len(self.key), dtype=torch.bool)
        held[self.at[which]] = True
        return held

    def one_sided(self) -> dict[str, int]:
        """How many edges are in one graph only, and for how many of them the other's threshold is no bound."""
        held = [self.holds(0), self.holds(1)]
        ends = self.ends()
        node = ends["above"] * self.width + ends["target"]
        alone = [held[i] & ~held[1 - i] for i in (0, 1)]
        unbounded = sum(int((alone[i] & ~torch.isin(node, node[held[1 - i]])).sum()) for i in (0, 1))
        return {"only_first": int(alone[0].sum()), "only_second": int(alone[1].sum()), "unbounded": unbounded}


def _detail(first: AttributionGraph, second: AttributionGraph, merged: _Merged) -> EdgeDetail | None:
    if first.detail is None or second.detail is None:
        return None
    heads = []
    for which, detail in enumerate((first.detail, second.detail)):
        head = torch.full((len(merged.key),), -1)
        head[merged.at[which]] = detail.head
        heads.append(torch.where(merged.holds(which), head, -2))
    agree = (heads[0] == heads[1]) | (heads[0] == -2) | (heads[1] == -2)
    paths = {
        name: merged.subtract(getattr(first.detail, name), getattr(second.detail, name))
        for name in ("value", "key", "query")
    }
    head_weight = merged.subtract(first.detail.head_weight, second.detail.head_weight)
    heads_of = [detail.heads for detail in (first.detail, second.detail) if detail.heads is not None]
    most = max((of.shape[1] for of in heads_of), default=0)
    return EdgeDetail(
        **paths,
        heads=merged.subtract(*(widened(of, most) for of in heads_of)) if len(heads_of) == 2 else None,
        head=torch.where(agree, torch.maximum(*heads), -1),
        head_weight=torch.where(agree, head_weight, 0.0),
    )


def _transitions(
    first: AttributionGraph, second: AttributionGraph, made: AttributionGraph
) -> tuple[TransitionInfo, ...]:
    infos = [{(info.below, info.above): info for info in graph.transitions} for graph in (first, second)]
    return tuple(_transition(pair, infos, (first, second), made) for pair in sorted(infos[0].keys() | infos[1].keys()))


def _transition(
    pair: tuple[int, int],
    infos: list[dict[tuple[int, int], TransitionInfo]],
    graphs: tuple[AttributionGraph, AttributionGraph],
    made: AttributionGraph,
) -> TransitionInfo:
    known = [(of[pair], *_held(graph, pair)) for of, graph in zip(infos, graphs, strict=True) if pair in of]
    kept, kept_mass = _held(made, pair)
    return TransitionInfo(
        below=pair[0],
        above=pair[1],
        threshold=max(info.threshold for info, _, _ in known) if len(known) == 2 else float("inf"),
        kept=kept,
        total=kept + sum(max(info.total - count, 0) for info, count, _ in known),
        kept_mass=kept_mass,
        total_mass=kept_mass + sum(max(info.total_mass - mass, 0.0) for info, _, mass in known),
        dropped_relevance=max(info.dropped_relevance for info, _, _ in known),
        method=", ".join(sorted({info.method for info, _, _ in known})),
    )


def _held(graph: AttributionGraph, pair: tuple[int, int]) -> tuple[int, float]:
    """Number and sum |w| of a graph's edges in one transition."""
    weight = graph.weight[(graph.below == pair[0]) & (graph.above == pair[1])]
    return len(weight), float(weight.abs().sum(dtype=torch.float64))


def _about(first: AttributionGraph, second: AttributionGraph, edges: dict[str, int]) -> dict[str, Any]:
    ours, theirs = first.about, second.about
    about: dict[str, Any] = {"first": dict(ours), "second": dict(theirs), "edges": edges}
    for name in ("model", "composite", "target"):
        a, b = ours.get(name), theirs.get(name)
        if a is not None and b is not None:
            about[name] = a if a == b else f"({a}) - ({b})"
    if isinstance(ours.get("value"), float) and isinstance(theirs.get("value"), float):
        about["value"] = ours["value"] - theirs["value"]
    return about
