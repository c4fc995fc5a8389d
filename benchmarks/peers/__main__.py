"""What other tools say about the same prompts on the demo model.

    python -m benchmarks.peers                         # the committed result: benchmarks/results/peers.json
    python -m benchmarks.peers lxt --prompts 2         # one peer; nothing is written
    python -m benchmarks.peers.environment             # only make the environments

A peer that cannot be had (no index, no such version, an import that fails) is a row that says why. Fails when a tool
that follows the same rules gives other scores.
"""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.measure import write_result
from benchmarks.peers.compare import Subject, examine, faults, older_folder
from benchmarks.peers.tools import PEERS
from benchmarks.prompts import ifeval_texts, ioi_prompts, plain_prompt
from benchmarks.removal import blank_token
from benchmarks.resume import SCRATCH

PROMPTS, LONG = 16, 512
"""Prompts compared; tokens of the one for which memory is measured."""


def model_files() -> Path:
    """Where the demo model lies once it has been loaded."""
    import os

    from lrp_hooks.loading.demo import VARIABLE
    from lrp_hooks.loading.packages import cache_folder

    return Path(os.environ.get(VARIABLE) or cache_folder() / "SmolLM2-135M-Instruct")


def line(row: dict[str, Any]) -> str:
    if "skipped" in row:
        return f"{row['tool']} skipped: {row['skipped']}"
    agreement = f"{row['difference']:.1e} | {row['pearson']:.4f} | {row['gap']:.2f}, {row['our_gap']:.2f}"
    cost = f"{row['seconds']:.2f}, {row['our_seconds']:.2f} | {row['megabytes']:.0f}, {row['our_megabytes']:.0f}"
    return f"| {row['tool']} | {row['version']} | {row['method']} | {agreement} | {cost} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("peers", nargs="*", metavar="PEER", help=", ".join(peer.name for peer in PEERS))
    parser.add_argument("--prompts", type=int, default=PROMPTS)
    options = parser.parse_args()
    from lrp_hooks.loading.demo import load_demo_model

    loaded = load_demo_model()
    loaded.model.requires_grad_(False)
    subject = Subject(
        model=loaded.model,
        name=loaded.name,
        files=older_folder(model_files(), SCRATCH / "peers" / "model"),
        prompts=list(islice(ioi_prompts(loaded), options.prompts)),
        long=plain_prompt(loaded, "\n".join(text for _, text in islice(ifeval_texts(), 60)), LONG),
        blank=blank_token(loaded.tokenizer),
    )
    chosen = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
    rows = []
    print("| tool | version | method | difference | Pearson | area, ours | s, ours | MB, ours |")
    print("|---" * 8 + "|")
    for peer in chosen:
        for row in examine(peer, subject):
            rows.append(row)
            print(line(row), flush=True)
    for fault in (wrong := faults(chosen, rows)):
        print(fault, file=sys.stderr)
    if not options.peers and options.prompts == PROMPTS:
        write_result("peers", rows)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
