"""Score every method on failures with known causes, and every graph method on a known path.

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
from benchmarks.planted.paths import PathRow, known_path, path_holds, score_paths
from benchmarks.planted.prompt import Task
from benchmarks.planted.tasks import TASKS
from benchmarks.planted.verify import harvest

VERSION = 2
"""Of tasks, weights and scores together: numbers of different versions do not compare."""
LENGTHS, TRIED, SEED = (16, 32, 64), 60, 7
PATH_PROMPTS = {16: 16, 32: 16, 64: 6}
"""Length -> prompts whose path is known; `PATH_TRIED` times as many are asked whether theirs is."""
PATH_TRIED = 5
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


def paths(lengths: dict[int, int]) -> list[PathRow]:
    """Graph scores on the chain task."""
    from lrp_hooks import instrument

    (task,) = (task for task in TASKS if task.name == "chain")
    model, rows = load_model(task), []
    for length, count in lengths.items():
        tried, known = 0, []
        with instrument(model) as lrp:
            for prompt in harvest(model, task, length, PATH_TRIED * count, SEED).prompts:
                tried += 1
                if path_holds(lrp, prompt):
                    known.append(known_path(lrp, model.config, prompt))
                if len(known) == count:
                    break
        print(f"chain's path, {length} tokens: holds on {len(known)} of {tried}", flush=True)
        if known:
            rows += score_paths(model, length, known, tried)
    return rows


def show(board: list[dict[str, Any]], found: list[PathRow]) -> None:
    print("| method | hit@1 | AUC | rank | AUC of abs(R) | ms |\n|---|---|---|---|---|---|")
    for line in board:
        cells = f"{line['hit']:.2f} | {line['auc']:.2f} | {line['rank']:.1f} | {line['unsigned_auc']:.2f}"
        print(f"| {line['method']} | {cells} | {line['milliseconds']:.0f} |")
    print("\n| graph | tokens | prompts | edge AUC | precision | agreement | follows | first |\n" + "|---" * 8 + "|")
    for row in found:
        edges = f"{row.edge_auc:.2f} | {row.precision:.2f} | {row.agreement:.2f}"
        print(f"| {row.method} | {row.tokens} | {row.prompts} | {edges} | {row.follows:.2f} | {row.first:.2f} |")


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
    with_paths = not options.tasks or "chain" in options.tasks
    found = paths(SMOKE_PATHS if options.smoke else PATH_PROMPTS) if with_paths else []
    board = leaderboard(rows)
    show(board, found)
    if options.smoke:
        return smoke_status(board)
    if not options.methods and not options.tasks:
        write_result(
            "planted",
            board,
            version=VERSION,
            cells=[asdict(row) for row in rows],
            paths=[asdict(row) for row in found],
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
