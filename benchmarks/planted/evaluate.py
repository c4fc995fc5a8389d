"""Every method on every planted task: one row per task, length and method, and the leaderboard over them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.methods import Method
from benchmarks.planted.prompt import Planted
from benchmarks.planted.scores import Found, evidence, found
from benchmarks.planted.verify import Harvest


@dataclass(frozen=True)
class Row:
    """Scores of one method on one task at one length, means over the prompts.

    Attributes:
        hit, auc, rank: of `Found`, for the evidence that the method's map gives.
        unsigned_auc: the same AUC for |R|, which needs no direction.
        prompts: verified; wrong, tried: what they were taken from.
        milliseconds: median of one attribution.
    """

    task: str
    tokens: int
    method: str
    hit: float
    auc: float
    rank: float
    unsigned_auc: float
    prompts: int
    wrong: int
    tried: int
    milliseconds: float


def score_method(model: Any, method: Method, prompts: Sequence[Planted]) -> tuple[list[Found], list[Found], float]:
    """Per prompt the scores of the directed and of the unsigned map, and the median milliseconds of one map."""
    directed, unsigned, seconds = [], [], []
    with method.open(model) as attribute:
        for prompt in prompts:
            start = time.perf_counter()
            scores = attribute(torch.tensor([prompt.ids]), prompt.wrong, prompt.right)
            seconds.append(time.perf_counter() - start)
            directed.append(found(evidence(scores, prompt, method.signed), prompt.cause, prompt.ignored))
            unsigned.append(found(scores.abs(), prompt.cause, prompt.ignored))
    return directed, unsigned, 1e3 * statistics.median(seconds)


def score_task(model: Any, task: str, tokens: int, harvest: Harvest, methods: Iterable[Method]) -> list[Row]:
    """One row per method. Without a verified prompt there is nothing to score, and no row."""
    rows: list[Row] = []
    for method in methods if harvest.prompts else ():
        directed, unsigned, milliseconds = score_method(model, method, harvest.prompts)
        row = Row(
            task=task,
            tokens=tokens,
            method=method.name,
            hit=statistics.mean(f.hit for f in directed),
            auc=statistics.mean(f.auc for f in directed),
            rank=statistics.mean(f.rank for f in directed),
            unsigned_auc=statistics.mean(f.auc for f in unsigned),
            prompts=len(harvest.prompts),
            wrong=harvest.wrong,
            tried=harvest.tried,
            milliseconds=milliseconds,
        )
        rows.append(row)
    return rows


def leaderboard(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Per method the means over tasks and lengths, and hit@1 per task; best hit@1 first.

    Every task and length counts the same, however many prompts it has.
    """
    board = []
    for name in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == name]
        line: dict[str, Any] = {"method": name}
        for field in ("hit", "auc", "rank", "unsigned_auc", "milliseconds"):
            line[field] = statistics.mean(getattr(row, field) for row in own)
        for task in dict.fromkeys(row.task for row in own):
            line[f"hit_{task}"] = statistics.mean(row.hit for row in own if row.task == task)
        for tokens in sorted({row.tokens for row in own}):
            line[f"hit_{tokens}"] = statistics.mean(row.hit for row in own if row.tokens == tokens)
        board.append(line)
    return sorted(board, key=lambda line: (-line["hit"], -line["auc"]))
