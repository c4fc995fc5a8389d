"""As many edges from every method: the heaviest attention edges by each, cut, and everything but them cut.

A graph's own threshold keeps few edges by one method and many, or none, by another. Here each method ranks the same
edges by the size of their weight and hands over the same number of them. Gradient x input keeps none at any top_p: the
norm before a branch does not change when its input is scaled, so that the input times the branch's gradient is 0 but
for the norm's epsilon, and nearly all weight lies on tokens' edges to themselves.

    python -m benchmarks.edge_ranking                # the committed result: benchmarks/results/edge_ranking.json
    python -m benchmarks.edge_ranking --prompts 2    # nothing is written
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from benchmarks.intervals import mean_interval
from benchmarks.measure import environment, write_result
from benchmarks.planted.paths import GRAPH_METHODS
from benchmarks.prompts import Prompt, ioi_prompts
from benchmarks.resume import Records

Edge = tuple[int, int, int]
"""(block, source token, target token)."""
COUNTS = (1, 2, 4, 8, 16, 64, 256, 1024)
PROMPTS = 16


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


def show(rows: Sequence[dict[str, Any]]) -> None:
    for kind, says in (("cut", "the heaviest edges cut"), ("only", "all others cut")):
        print(f"\n| {says} | " + " | ".join(map(str, COUNTS)) + " |\n" + "|---" * (1 + len(COUNTS)) + "|")
        for row in rows:
            shares = (f"{row[f'{kind}_{n}']:.2f}" if f"{kind}_{n}" in row else "" for n in COUNTS)
            print(f"| {row['method']} | " + " | ".join(shares) + " |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=PROMPTS, help="another number than usual: nothing is written")
    options = parser.parse_args()
    from lrp_hooks import instrument
    from lrp_hooks.loading.demo import load_demo_model

    loaded = load_demo_model()
    prompts = list(islice(ioi_prompts(loaded), options.prompts))
    records = Records("edge_ranking", {"commit": environment()["commit"], "prompts": options.prompts})
    orders = rankings(loaded.model, prompts)
    with instrument(loaded.model) as lrp:
        found = []
        for prompt in prompts:
            own = {method: by_name[prompt.name] for method, by_name in orders.items()}
            found.append(records.get(prompt.name, lambda p=prompt, own=own: cut_both_ways(lrp, p, own)))
    show(rows := equal_rows(found))
    if options.prompts == PROMPTS:
        write_result("edge_ranking", rows)
        records.done()
    return 0


if __name__ == "__main__":
    sys.exit(main())
