"""As many edges from every method: the heaviest attention edges by each, cut, and everything but them cut.

A graph's own threshold keeps few edges by one method and many, or none, by another. Here each method ranks the same
edges by the size of their weight and hands over the same number of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.intervals import mean_interval
from benchmarks.planted.paths import GRAPH_METHODS
from benchmarks.prompts import Prompt

Edge = tuple[int, int, int]
"""(block, source token, target token)."""
COUNTS = (1, 2, 4, 8, 16, 64, 256, 1024)


def possible(blocks: int, length: int) -> list[Edge]:
    """All edges that may be cut: not those of a token to itself, nor to the first token, on which attention rests."""
    return [(b, s, t) for b in range(blocks) for t in range(2, length) for s in range(1, t)]


def ranked(weights: Sequence[Tensor], pool: Sequence[Edge]) -> list[Edge]:
    """The pool, heaviest first, by weights [T, T] per block (entry [target, source])."""
    sizes = torch.stack([weight.abs().float() for weight in weights])
    blocks, sources, targets = torch.tensor(pool).unbind(1)
    order = sizes[blocks, targets, sources].argsort(descending=True, stable=True)
    return [pool[index] for index in order.tolist()]


def rankings(model: Any, prompts: Sequence[Prompt]) -> dict[str, dict[str, list[Edge]]]:
    """Method -> prompt's name -> its edges, heaviest first."""
    found: dict[str, dict[str, list[Edge]]] = {}
    for method in GRAPH_METHODS:
        with method.open(model) as make:
            for prompt in prompts:
                weights = make(torch.tensor([prompt.ids]), prompt.target, prompt.contrast)
                order = ranked(weights, possible(len(weights), len(prompt.ids)))
                found.setdefault(method.name, {})[prompt.name] = order
    return found


def cut_both_ways(lrp: Any, prompt: Prompt, orders: dict[str, list[Edge]]) -> dict[str, dict[str, float]]:
    """Per method the shares of the difference that stay: ``cut_8`` without its 8 heaviest edges, ``only_8`` without
    all others. A prompt with fewer edges than a count has no entry for it."""
    from lrp_hooks import LogitDiff

    trace, target = lrp.trace(input_ids=torch.tensor([prompt.ids])), LogitDiff(prompt.target, prompt.contrast)
    found: dict[str, dict[str, float]] = {}
    for method, order in orders.items():
        shares = found.setdefault(method, {})
        for count in (count for count in COUNTS if count < len(order)):
            shares[f"cut_{count}"] = trace.ablate(target, edges=order[:count]).after / prompt.difference
            shares[f"only_{count}"] = trace.ablate(target, edges=order[count:]).after / prompt.difference
    return found


def equal_rows(found: Sequence[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    """One row per method: means over prompts, with intervals."""
    rows = []
    for method in found[0]:
        row: dict[str, Any] = {"method": method, "prompts": len(found)}
        for name in (f"{kind}_{count}" for kind in ("cut", "only") for count in COUNTS):
            shares = [prompt[method][name] for prompt in found if name in prompt[method]]
            if shares:
                mean, low, high = mean_interval(shares)
                row |= {name: mean, f"{name}_interval": [low, high]}
        rows.append(row)
    return rows
