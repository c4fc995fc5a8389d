"""Do the graph's edges matter to the model? Attention edges are cut and the logit difference is read again.

For graphs of growing top_p: what stays of the difference when the kept edges are cut, when as many random ones are
(of the same blocks), and when everything but the kept ones is. A faithful small graph loses much in the first, little
in the second and keeps much in the third. Edges from a token to itself and edges to the first token, on which attention
rests, are never cut. Then single edges: their weight against the change that cutting them makes.

Other methods' graphs are compared at equal numbers of edges, in `benchmarks.edge_ranking`.

    python -m benchmarks.graph_faithfulness          # the committed result: benchmarks/results/graph_faithfulness.json
    python -m benchmarks.graph_faithfulness --smoke  # two prompts; fails when kept edges matter no more than others
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from random import Random
from typing import Any

import torch

from benchmarks.edge_ranking import Edge, possible
from benchmarks.intervals import mean_interval, pearson, spearman
from benchmarks.measure import environment, smoke_metrics, write_result
from benchmarks.prompts import Prompt, ioi_prompts
from benchmarks.resume import Records

COMPOSITES = ("attnlrp", "cp-lrp")
TOP_PS = (0.3, 0.5, 0.7, 0.85, 0.95, 0.99, 0.999)
PROMPTS, SMOKE_PROMPTS = 16, 2
DRAWS = 3
"""Random sets of edges per graph."""
SINGLES = 24
"""Single cuts per prompt: half the heaviest edges, half any others."""


def matched(kept: Iterable[Edge], pool: Sequence[Edge], random: Random) -> list[Edge]:
    """As many edges of the pool per block as are kept there."""
    wanted = Counter(block for block, _, _ in kept)
    per_block: dict[int, list[Edge]] = {}
    for edge in pool:
        per_block.setdefault(edge[0], []).append(edge)
    return [edge for block, count in wanted.items() for edge in random.sample(per_block[block], count)]


def examine(lrp: Any, prompt: Prompt) -> dict[str, Any]:
    """Shares of the difference that stay after each kind of cut, per top_p, and the single cuts."""
    from lrp_hooks import LogitDiff

    trace, target = lrp.trace(input_ids=torch.tensor([prompt.ids])), LogitDiff(prompt.target, prompt.contrast)
    pool = possible(len(lrp.skeleton.blocks), len(prompt.ids))
    random = Random(prompt.name)

    def stays(edges: Sequence[Edge]) -> float:
        return trace.ablate(target, edges=edges).after / prompt.difference if edges else 1.0

    rows = []
    for top_p in TOP_PS:
        graph = trace.graph(target, node_threshold=0.0, top_p=top_p)
        kept = [edge for edge in graph.attention_edges() if edge[1]]
        others = sorted(set(pool) - set(kept))
        draws = [stays(matched(kept, pool, random)) for _ in range(DRAWS)]
        row = {"top_p": top_p, "edges": len(kept), "share": len(kept) / len(pool)}
        rows.append(row | {"kept_cut": stays(kept), "random_cut": statistics.mean(draws), "others_cut": stays(others)})
    return {"rows": rows, "singles": single_cuts(trace, target, random)}


def single_cuts(trace: Any, target: Any, random: Random) -> list[list[float]]:
    """[weight, change of the difference when the edge is cut] in logits, for heavy edges and for any others."""
    matrices = trace.edge_matrices(target)
    length = next(iter(matrices.values())).shape[0]
    weights = {(b, s, t): float(matrices[b, b + 1][t, s]) for b, s, t in possible(len(matrices), length)}
    heavy = sorted(weights, key=lambda edge: -abs(weights[edge]))[: SINGLES // 2]
    chosen = heavy + random.sample(sorted(weights.keys() - set(heavy)), SINGLES // 2)
    return [[weights[edge], trace.ablate(target, edges=[edge]).change] for edge in chosen]


def summary(composite: str, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per top_p, means over prompts; predictions are correlated within a prompt."""
    predicted = [spearman([-w for w, _ in f["singles"]], [c for _, c in f["singles"]]) for f in found]
    linear = [pearson([-w for w, _ in f["singles"]], [c for _, c in f["singles"]]) for f in found]
    signs = [(w > 0) == (c < 0) for f in found for w, c in f["singles"][: SINGLES // 2]]
    rows = []
    for index, top_p in enumerate(TOP_PS):
        parts = [f["rows"][index] for f in found]
        row: dict[str, Any] = {"composite": composite, "top_p": top_p, "prompts": len(parts)}
        for name in ("edges", "share", "kept_cut", "random_cut", "others_cut"):
            mean, low, high = mean_interval([part[name] for part in parts])
            row |= {name: mean, f"{name}_interval": [low, high]}
        rows.append(row | {"spearman": statistics.mean(predicted), "pearson": statistics.mean(linear)})
        rows[-1]["signs"] = sum(signs) / len(signs)
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    print("| rules | top_p | edges | share | kept cut | random cut | others cut | Spearman | signs |")
    print("|---" * 9 + "|")
    for row in rows:
        cuts = f"{row['kept_cut']:.2f} | {row['random_cut']:.2f} | {row['others_cut']:.2f}"
        size = f"{row['edges']:.0f} | {row['share']:.1%}"
        end = f"{row['spearman']:.2f} | {row['signs']:.2f}"
        print(f"| {row['composite']} | {row['top_p']} | {size} | {cuts} | {end} |", flush=True)


def smoke_status(rows: Sequence[dict[str, Any]]) -> int:
    """Kept edges must matter more than random ones: both from this run."""
    (row,) = (row for row in rows if row["top_p"] == 0.85)
    smoke_metrics("graph_faithfulness", {"difference": row["random_cut"] - row["kept_cut"]})
    if row["kept_cut"] < row["random_cut"]:
        return 0
    print(f"cutting kept edges leaves {row['kept_cut']:.2f}, random ones {row['random_cut']:.2f}", file=sys.stderr)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="two prompts, nothing written")
    parser.add_argument("--prompts", type=int, help="so many prompts; nothing is written")
    options = parser.parse_args()
    from lrp_hooks import instrument
    from lrp_hooks.loading.demo import load_demo_model

    loaded = load_demo_model()
    count = SMOKE_PROMPTS if options.smoke else options.prompts or PROMPTS
    prompts = list(islice(ioi_prompts(loaded), count))
    records, rows = Records("graph_faithfulness", {"commit": environment()["commit"], "prompts": count}), []
    for composite in COMPOSITES[:1] if options.smoke else COMPOSITES:
        with instrument(loaded.model, composite) as lrp:
            found = [records.get(f"{composite} {p.name}", lambda p=p, lrp=lrp: examine(lrp, p)) for p in prompts]
        show(made := summary(composite, found))
        rows += made
    if options.smoke:
        records.done()
        return smoke_status(rows)
    if not options.prompts:
        write_result("graph_faithfulness", rows)
        records.done()
    return 0


if __name__ == "__main__":
    sys.exit(main())
