"""Train the planted models: a few minutes on one core, seeded.

python -m benchmarks.planted.train              # all of them, into benchmarks/planted/weights
python -m benchmarks.planted.train chain        # one
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor

from benchmarks.planted.model import WEIGHTS, fresh_model, save_model
from benchmarks.planted.prompt import Task
from benchmarks.planted.tasks import TASKS

LENGTHS = (16, 32, 64)
NOTHING = -100
BATCH, RATE, WARM_UP = 64, 3e-3, 50


def lessons(task: Task, random: Random, length: int, count: int) -> tuple[Tensor, Tensor]:
    """[count, length] prompts, and what follows each token: [count, length], `NOTHING` where it is not learned."""
    made = [task.lesson(random, length) for _ in range(count)]
    answers = torch.full((count, length), NOTHING)
    for row, each in enumerate(made):
        for position, answer in each.answers.items():
            answers[row, position] = answer
    return torch.tensor([each.ids for each in made]), answers


def step(model: Any, optimiser: Any, ids: Tensor, answers: Tensor) -> float:
    """One update; the loss is that of the answers alone."""
    logits = model(ids, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), ignore_index=NOTHING)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def rate(at: int, steps: int) -> float:
    """Share of the full learning rate: linear up, then linear down to a twentieth."""
    return min((at + 1) / WARM_UP, max(0.05, 1 - at / steps))


def train(task: Task, seed: int = 0, steps: int | None = None) -> Any:
    """The trained model. Deterministic: same seed, same torch, one thread."""
    steps = task.steps if steps is None else steps
    random, model = Random(seed), fresh_model(task, seed).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    start = time.perf_counter()
    for at in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * rate(at, steps)
        loss = step(model, optimiser, *lessons(task, random, random.choice(LENGTHS), BATCH))
        if at % 50 == 0 or at + 1 == steps:
            print(f"{task.name}, step {at}: loss {loss:.3f}, {time.perf_counter() - start:.0f} s", flush=True)
    return model.eval()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=", ".join(task.name for task in TASKS))
    parser.add_argument("--folder", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for task in TASKS:
        if not options.tasks or task.name in options.tasks:
            save_model(train(task), task, options.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
