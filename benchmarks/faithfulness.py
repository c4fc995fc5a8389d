"""Does removing the tokens that a method calls relevant change the prediction as it says? Real prompts, demo model.

Per method: areas under the curves of removal, sufficiency and comprehensiveness, tokens until the prediction turns,
rank correlation with leaving tokens out one by one, and what a map costs. Means with 95 % bootstrap intervals.

    python -m benchmarks.faithfulness                  # the committed result: benchmarks/results/faithfulness.json
    python -m benchmarks.faithfulness --each 4         # so many prompts of every source; nothing is written
    python -m benchmarks.faithfulness --smoke          # short prompts; fails when attnlrp is no better than chance
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any

import torch

from benchmarks.intervals import mean_interval, spearman
from benchmarks.measure import environment, smoke_metrics, write_result
from benchmarks.methods import Method, available
from benchmarks.prompts import Prompt, ioi_prompts, real_prompts
from benchmarks.removal import MOST, Removal, area, blank_token, leave_one_out, removal
from benchmarks.resume import Records

EACH, SMOKE_EACH = 12, 3
SMOKE_METHODS = ("attnlrp", "gradient x input", "random")
SCORES = ("gap", "most_first", "least_first", "comprehensiveness", "sufficiency", "agreement")


def examine(
    model: Any, method: Method, prompts: Sequence[Prompt], blank: int, records: Records
) -> list[dict[str, Any]]:
    """One record per prompt: the removal's curves, agreement with leave-one-out, and seconds."""
    with method.open(model) as attribute:
        made = {}
        for prompt in prompts:
            start = time.perf_counter()
            scores = attribute(torch.tensor([prompt.ids]), prompt.target, prompt.contrast)
            made[prompt.name] = (scores, time.perf_counter() - start)
    found = []
    for prompt in prompts:  # on the model as it was
        scores, seconds = made[prompt.name]
        single = records.get(f"leave-one-out {prompt.name}", lambda p=prompt: leave_one_out(model, p, blank).tolist())
        agreement = spearman(scores[list(prompt.movable)].tolist(), single)
        curves = removal(model, prompt, scores, blank)
        found.append({**asdict(curves), "agreement": agreement, "seconds": seconds, "source": prompt.source})
    return found


def summary(method: str, source: str, found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row: means with intervals over the prompts of one source."""
    columns: dict[str, list[float]] = {name: [] for name in SCORES}
    for record in found:
        curves = Removal(tuple(record["most_first"]), tuple(record["least_first"]), record["turn"])
        columns["gap"].append(curves.gap)
        columns["most_first"].append(area(curves.most_first))
        columns["least_first"].append(area(curves.least_first))
        columns["comprehensiveness"].append(curves.comprehensiveness)
        columns["sufficiency"].append(curves.sufficiency)
        columns["agreement"].append(record["agreement"])
    row: dict[str, Any] = {"method": method, "source": source, "prompts": len(found)}
    for name, values in columns.items():
        mean, low, high = mean_interval(values)
        row |= {name: mean, f"{name}_interval": [low, high]}
    turns = [record["turn"] for record in found]
    row["median_turn"] = statistics.median(turns)
    row["turned"] = sum(turn <= MOST for turn in turns) / len(turns)
    row["seconds"] = statistics.median(record["seconds"] for record in found)
    return row


def summaries(method: str, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over all prompts, and per source."""
    sources = dict.fromkeys(record["source"] for record in found)
    parts = [summary(method, name, [r for r in found if r["source"] == name]) for name in sources]
    return [summary(method, "all", found), *(parts if len(parts) > 1 else [])]


def show(rows: Sequence[dict[str, Any]]) -> None:
    print("| method | source | n | gap | MoRF area | LeRF area | compr. | suff. | turn | agreement | s |")
    print("|" + "---|" * 11)
    for row in rows:
        low, high = row["gap_interval"]
        cells = " | ".join(f"{row[name]:.2f}" for name in SCORES[1:5])
        end = f"{row['median_turn']:g} | {row['agreement']:.2f} | {row['seconds']:.2f}"
        gap = f"{row['gap']:.2f} ({low:.2f} to {high:.2f})"
        print(f"| {row['method']} | {row['source']} | {row['prompts']} | {gap} | {cells} | {end} |", flush=True)


def smoke_status(rows: Sequence[dict[str, Any]]) -> int:
    """Whether attnlrp's order still beats a random one; both come from this run."""
    gaps = {row["method"]: row["gap"] for row in rows if row["source"] == "all"}
    smoke_metrics("faithfulness", {"gap": gaps["attnlrp"]})
    if gaps["attnlrp"] > gaps["random"]:
        return 0
    print(f"attnlrp's gap {gaps['attnlrp']:.2f} is no better than chance, {gaps['random']:.2f}", file=sys.stderr)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="short prompts, cheap methods, nothing written")
    parser.add_argument("--each", type=int, help="prompts of every source; nothing is written")
    parser.add_argument("--methods", nargs="*", default=[], metavar="METHOD", help="only these; nothing is written")
    options = parser.parse_args()
    from lrp_hooks.loading.demo import load_demo_model

    loaded = load_demo_model()
    loaded.model.requires_grad_(False)
    prompts = (
        list(islice(ioi_prompts(loaded), SMOKE_EACH)) if options.smoke else real_prompts(loaded, options.each or EACH)
    )
    methods, missing = available(tuple(options.methods) or (SMOKE_METHODS if options.smoke else ()))
    for reason in missing:
        print(f"skipped: {reason}")
    blank, rows = blank_token(loaded.tokenizer), []
    settings = {"commit": environment()["commit"], "prompts": [prompt.name for prompt in prompts]}
    records = Records("faithfulness", settings)
    for method in methods:
        found = records.get(method.name, lambda m=method: examine(loaded.model, m, prompts, blank, records))
        show(made := summaries(method.name, found))
        rows += made
    if options.smoke:
        records.done()
        return smoke_status(rows)
    if not options.each and not options.methods:
        write_result("faithfulness", rows, skipped=missing, prompts_used=[prompt.name for prompt in prompts])
        records.done()
    return 0


if __name__ == "__main__":
    sys.exit(main())
