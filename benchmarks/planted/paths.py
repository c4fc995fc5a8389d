"""Do graphs find the way? The chain task, whose path from the answer's source over the relay is known by cutting.

An edge counts as causal when cutting it alone turns the model's choice from the wrong token to the right one
(`benchmarks.planted.knockout`), and a prompt takes part when cutting either hop of its path, in all blocks, does. Edges
that the architecture does not have (a token further back than a block's window) take no part: no method could name one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.intervals import spearman
from benchmarks.planted.knockout import KnownPath
from benchmarks.planted.scores import auc, precision, visits

Edges = list[Tensor]
"""Per block [T, T]: entry [j, i] is what token j takes from token i. The diagonal is what stays on the token."""
MakeEdges = Callable[[Tensor, int, int], Edges]
TOP = 10
"""So many strongest paths are searched for the known one."""


@dataclass(frozen=True)
class GraphMethod:
    """One way to weigh the edges between tokens of neighbouring layers."""

    name: str
    open: Callable[[Any], AbstractContextManager[MakeEdges]]


@contextmanager
def by_composite(model: Any, composite: str) -> Any:
    """This project's edges."""
    from lrp_hooks import LogitDiff, instrument

    with instrument(model, composite) as lrp:

        def edges(ids: Tensor, target: int, contrast: int) -> Edges:
            made = lrp.trace(input_ids=ids).edge_matrices(LogitDiff(target, contrast))
            return [made[pair].detach() for pair in sorted(made)]

        yield edges


@contextmanager
def by_attention(model: Any) -> Any:
    """Half identity, half head-averaged attention: the edges of attention rollout."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")

    def edges(ids: Tensor, target: int, contrast: int) -> Edges:
        with torch.no_grad():
            weights = model(ids, use_cache=False, output_attentions=True).attentions
        return [0.5 * torch.eye(ids.shape[1]) + 0.5 * block[0].mean(0) for block in weights]

    try:
        yield edges
    finally:
        model.set_attn_implementation(before)


@contextmanager
def at_random(model: Any) -> Any:
    """Log-normal weights, the same for the same prompt."""

    def edges(ids: Tensor, target: int, contrast: int) -> Edges:
        generator = torch.Generator().manual_seed(int((ids.flatten() * torch.arange(1, ids.numel() + 1)).sum()))
        shape = (model.config.num_hidden_layers, ids.shape[1], ids.shape[1])
        return list(torch.randn(shape, generator=generator).exp().tril())

    yield edges


GRAPH_METHODS = (
    GraphMethod("attnlrp", partial(by_composite, composite="attnlrp")),
    GraphMethod("cp-lrp", partial(by_composite, composite="cp-lrp")),
    GraphMethod("gradient x input", partial(by_composite, composite="gradient")),
    GraphMethod("attention rollout", by_attention),
    GraphMethod("random", at_random),
)


def as_graph(edges: Edges, position: int) -> Any:
    """Dense edges as an `AttributionGraph`, for its search for paths."""
    from lrp_hooks.graph.model import AttributionGraph

    stack = torch.stack(edges).float()
    below, target, source = torch.nonzero(stack, as_tuple=True)
    length = stack.shape[-1]
    return AttributionGraph(
        relevance=torch.ones(len(edges) + 1, length),
        below=below,
        above=below + 1,
        source=source,
        target=target,
        weight=stack[below, target, source],
        points=tuple(map(float, range(len(edges) + 1))),
        position=position,
        tokens=tuple(map(str, range(length))),
        transitions=(),
    )


@dataclass(frozen=True)
class PathScores:
    """One graph method on one prompt; means over prompts in a `PathRow`.

    Attributes:
        edge_auc: chance that an edge whose cut turns the choice weighs more, |A|, than another edge between tokens.
        precision: share of such edges among the heaviest, of which as many are taken as there are such edges.
        agreement: rank correlation of |A| with the size of what cutting the edge changes, over all edges.
        follows: the strongest path that begins at the answer's source goes over the relay.
        first: the strongest path of all goes from the source over the relay to the end; in_top: one of the `TOP`
            strongest does.
    """

    edge_auc: float | None
    precision: float | None
    agreement: float
    follows: bool
    first: bool
    in_top: bool


@dataclass(frozen=True)
class PathRow:
    """One graph method at one length: means of `PathScores` over ``prompts``, those of ``tried`` whose path holds.

    Attributes:
        edges: between tokens, per prompt; causal: of these, those whose cut turns the choice.
    """

    tokens: int
    method: str
    edge_auc: float
    precision: float
    agreement: float
    follows: float
    first: float
    in_top: float
    edges: int
    causal: float
    prompts: int
    tried: int
    milliseconds: float


def score_paths(model: Any, tokens: int, known: Sequence[KnownPath], tried: int) -> list[PathRow]:
    """One row per graph method."""
    rows = []
    for method in GRAPH_METHODS:
        scored, seconds = [], []
        with method.open(model) as make:
            for each in known:
                start = time.perf_counter()
                edges = make(torch.tensor([each.prompt.ids]), each.prompt.wrong, each.prompt.right)
                seconds.append(time.perf_counter() - start)
                scored.append(score_edges(edges, each))
        row = PathRow(
            tokens=tokens,
            method=method.name,
            edge_auc=statistics.mean(s.edge_auc for s in scored if s.edge_auc is not None),
            precision=statistics.mean(s.precision for s in scored if s.precision is not None),
            agreement=statistics.mean(s.agreement for s in scored),
            follows=statistics.mean(s.follows for s in scored),
            first=statistics.mean(s.first for s in scored),
            in_top=statistics.mean(s.in_top for s in scored),
            edges=len(known[0].change),
            causal=statistics.mean(sum(each.causal.values()) for each in known),
            prompts=len(known),
            tried=tried,
            milliseconds=1e3 * statistics.median(seconds),
        )
        rows.append(row)
    return rows


def score_edges(edges: Edges, known: KnownPath) -> PathScores:
    """Score one graph [T, T] per block against what cutting says."""
    hops, causal = known.prompt.hops, known.causal
    weights = [abs(float(edges[block][target, source])) for block, source, target in causal]
    graph = as_graph(edges, len(known.prompt.ids) - 1)
    from_source = [[int(token) for _, token in path.nodes] for path in graph.strongest_paths(1, token=hops[0])]
    strongest = [[int(token) for _, token in path.nodes] for path in graph.strongest_paths(TOP)]
    goes = [path[0] == hops[0] and visits(path, hops) for path in strongest]
    return PathScores(
        edge_auc=auc(weights, list(causal.values())),
        precision=precision(weights, list(causal.values())),
        agreement=spearman(weights, [abs(change) for change in known.change.values()]),
        follows=any(visits(path, hops) for path in from_source),
        first=any(goes[:1]),
        in_top=any(goes),
    )
