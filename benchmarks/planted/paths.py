"""Do graphs find the way? The chain task, whose path from the answer's source over the relay is known by cutting.

Ground truth comes from attention knockout alone (`Trace.ablate`), which no graph method takes part in: an edge counts
as causal when cutting it alone turns the model's choice from the wrong token to the right one, and a prompt's path
counts as known when cutting either of its hops, in all blocks, does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.planted.prompt import Planted
from benchmarks.planted.scores import auc, visits

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


@dataclass(frozen=True)
class KnownPath:
    """One prompt with what cutting says about it.

    Attributes:
        causal: [blocks, T, T] bool, edges (target, source) whose cut alone turns the choice.
        holds: whether cutting either hop of the path turns the choice.
    """

    prompt: Planted
    causal: Tensor
    holds: bool


def known_path(lrp: Any, prompt: Planted) -> KnownPath:
    """Cut every attention edge of the prompt, one at a time, and each hop in all blocks at once."""
    from lrp_hooks import LogitDiff

    trace, target = lrp.trace(input_ids=torch.tensor([prompt.ids])), LogitDiff(prompt.wrong, prompt.right)
    blocks, length = len(lrp.skeleton.blocks), len(prompt.ids)

    def turns(edges: list[tuple[int, int, int]]) -> bool:
        return trace.ablate(target, edges=edges).after < 0

    causal = torch.zeros(blocks, length, length, dtype=torch.bool)
    for block in range(blocks):
        for to in range(1, length):
            for start in range(to):
                causal[block, to, start] = turns([(block, start, to)])
    hops = [[(block, a, b) for block in range(blocks)] for a, b in pairwise(prompt.hops)]
    return KnownPath(prompt, causal, all(turns(hop) for hop in hops))


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
class PathRow:
    """One graph method at one length, means over prompts whose path is known.

    Attributes:
        edge_auc: chance that an edge whose cut turns the choice weighs more, |A|, than another edge between tokens.
        follows: the strongest path that begins at the answer's source goes over the relay.
        in_top: one of the `TOP` strongest paths of all goes from the source over the relay to the end.
    """

    tokens: int
    method: str
    edge_auc: float
    follows: float
    in_top: float
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
        aucs, follows, tops = zip(*scored, strict=True)
        row = PathRow(
            tokens=tokens,
            method=method.name,
            edge_auc=statistics.mean(a for a in aucs if a is not None),
            follows=statistics.mean(follows),
            in_top=statistics.mean(tops),
            prompts=len(known),
            tried=tried,
            milliseconds=1e3 * statistics.median(seconds),
        )
        rows.append(row)
    return rows


def score_edges(edges: Edges, known: KnownPath) -> tuple[float | None, bool, bool]:
    """Edge AUC, whether the source's strongest path goes over the relay, whether one of the strongest of all does."""
    hops, length = known.prompt.hops, len(known.prompt.ids)
    between = torch.ones(length, length, dtype=torch.bool).tril(-1)
    weights = torch.stack([block.abs()[between] for block in edges]).flatten().tolist()
    wanted = torch.stack([block[between] for block in known.causal]).flatten().tolist()
    graph = as_graph(edges, length - 1)
    from_source = [[int(token) for _, token in path.nodes] for path in graph.strongest_paths(1, token=hops[0])]
    strongest = [[int(token) for _, token in path.nodes] for path in graph.strongest_paths(TOP)]
    in_top = any(path[0] == hops[0] and visits(path, hops) for path in strongest)
    return auc(weights, wanted), any(visits(path, hops) for path in from_source), in_top
