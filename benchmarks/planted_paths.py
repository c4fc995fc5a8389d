"""Do graphs find a path that is known? Graph methods on the planted chain task (`benchmarks.planted.paths`).

python -m benchmarks.planted_paths          # the committed result: benchmarks/results/planted_paths.json
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.measure import write_result
from benchmarks.planted.knockout import known_path, path_holds
from benchmarks.planted.model import load_model
from benchmarks.planted.paths import PathRow, score_paths
from benchmarks.planted.tasks import TASKS
from benchmarks.planted.verify import harvest

VERSION = 2
"""Of what is scored. 1 counted pairs of tokens that a block does not connect as edges."""
PROMPTS, SEED = {16: 16, 32: 16, 64: 16}, 7
"""Length -> prompts whose path is known; `TRIED` times as many are asked whether theirs holds."""
TRIED = 5


def paths(lengths: dict[int, int]) -> list[PathRow]:
    """Graph scores on the chain task: length -> how many prompts whose path holds."""
    (task,) = (task for task in TASKS if task.name == "chain")
    model, rows = load_model(task), []
    for length, count in lengths.items():
        tried, known = 0, []
        for prompt in harvest(model, task, length, TRIED * count, SEED).prompts:
            tried += 1
            if path_holds(model, prompt):
                known.append(known_path(model, prompt))
            if len(known) == count:
                break
        print(f"chain's path, {length} tokens: holds on {len(known)} of {tried}", flush=True)
        if known:
            rows += score_paths(model, length, known, tried)
    return rows


def show(found: Sequence[PathRow]) -> None:
    print("\n| graph | tokens | prompts | edge AUC | precision | agreement | follows | first |\n" + "|---" * 8 + "|")
    for row in found:
        edges = f"{row.edge_auc:.2f} | {row.precision:.2f} | {row.agreement:.2f}"
        print(f"| {row.method} | {row.tokens} | {row.prompts} | {edges} | {row.follows:.2f} | {row.first:.2f} |")


def main() -> int:
    show(found := paths(PROMPTS))
    write_result("planted_paths", [asdict(row) for row in found], version=VERSION)
    return 0


if __name__ == "__main__":
    sys.exit(main())
