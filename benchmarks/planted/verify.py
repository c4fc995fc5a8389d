"""Which planted prompts are failures whose cause is known: decided by intervention on the model."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from benchmarks.planted.prompt import Planted, Task


@dataclass(frozen=True)
class Harvest:
    """Verified prompts of one task and length, and how many were tried.

    Attributes:
        prompts: on each the model says the wrong token, and the right one when the planted token is replaced.
        wrong: how many of the tried ones the model gets wrong in the planted way; tried: how many were made.
    """

    prompts: list[Planted]
    wrong: int
    tried: int


def says(model: Any, prompts: list[tuple[int, ...]]) -> list[int]:
    """The model's first choice after each prompt; all of one length."""
    with torch.no_grad():
        logits = model(torch.tensor(prompts), use_cache=False, logits_to_keep=1).logits
    choices: list[int] = logits[:, -1].argmax(-1).tolist()
    return choices


def harvest(model: Any, task: Task, length: int, tried: int, seed: int) -> Harvest:
    """Make ``tried`` planted prompts and keep those whose cause holds."""
    random = Random(f"{task.name} {length} {seed}")
    made = [task.planted(random, length) for _ in range(tried)]
    before, after = says(model, [p.ids for p in made]), says(model, [p.repaired for p in made])
    wrong = [said == p.wrong for p, said in zip(made, before, strict=True)]
    held = [w and said == p.right for p, said, w in zip(made, after, wrong, strict=True)]
    return Harvest([p for p, ok in zip(made, held, strict=True) if ok], sum(wrong), tried)
