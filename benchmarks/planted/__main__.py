"""Score every method on failures with known causes. Graph methods on a known path: `benchmarks.planted_paths`.

python -m benchmarks.planted                       # the committed result: benchmarks/results/planted.json
python -m benchmarks.planted --smoke               # few prompts; fails when attnlrp no longer finds the causes
python -m benchmarks.planted --methods attnlrp "gradient x input" --tasks chain
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.measure import smoke_metrics, write_result
from benchmarks.methods import METHODS, available
from benchmarks.planted.evaluate import Row, leaderboard, score_task
from benchmarks.planted.model import load_model
from benchmarks.planted.prompt import Task
from benchmarks.planted.tasks import TASKS
from benchmarks.planted.verify import harvest
from benchmarks.planted_paths import paths
from benchmarks.planted_paths import show as show_paths

VERSION = 1
"""Of tasks, weights and scores together: numbers of different versions do not compare."""
LENGTHS, TRIED, SEED = (16, 32, 64), 60, 7
SMOKE_LENGTHS, SMOKE_TRIED, SMOKE_PATHS = (16,), 12, {16: 2}
SMOKE_AUC = 0.8
"""attnlrp's mean AUC must stay above it; the committed result says what it is."""


def causes(tasks: Sequence[Task], methods: Any, lengths: Sequence[int], tried: int) -> list[Row]:
    rows = []
    for task in tasks:
        model = load_model(task)
        for length in lengths:
            made = harvest(model, task, length, tried, SEED)
            print(f"{task.name}, {length} tokens: {len(made.prompts)} verified of {tried}", flush=True)
            rows += score_task(model, task.name, length, made, methods)
    return rows


def show(board: list[dict[str, Any]]) -> None:
    print("| method | hit@1 | AUC | rank | AUC of abs(R) | ms |\n|---|---|---|---|---|---|")
    for line in board:
        cells = f"{line['hit']:.2f} | {line['auc']:.2f} | {line['rank']:.1f} | {line['unsigned_auc']:.2f}"
        print(f"| {line['method']} | {cells} | {line['milliseconds']:.0f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="few prompts, nothing written")
    parser.add_argument("--methods", nargs="*", default=[], metavar="METHOD", help="only these; nothing is written")
    parser.add_argument("--tasks", nargs="*", default=[], metavar="TASK", help="only these; nothing is written")
    options = parser.parse_args()
    tasks = [task for task in TASKS if not options.tasks or task.name in options.tasks]
    methods, missing = available(tuple(options.methods))
    for reason in missing:
        print(f"skipped: {reason}")
    lengths, tried = (SMOKE_LENGTHS, SMOKE_TRIED) if options.smoke else (LENGTHS, TRIED)
    rows = causes(tasks, methods, lengths, tried)
    show(board := leaderboard(rows))
    if options.smoke:
        show_paths(paths(SMOKE_PATHS))
        return smoke_status(board)
    if not options.methods and not options.tasks:
        write_result(
            "planted",
            board,
            version=VERSION,
            cells=[asdict(row) for row in rows],
            skipped=missing,
        )
    return 0


def smoke_status(board: list[dict[str, Any]]) -> int:
    (ours,) = (line for line in board if line["method"] == METHODS[0].name)
    smoke_metrics("planted", {"auc": ours["auc"]})
    if ours["auc"] >= SMOKE_AUC:
        return 0
    print(f"attnlrp finds planted causes with AUC {ours['auc']:.2f}, below {SMOKE_AUC}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
