"""The table of planted tasks: what is wrong, and the size of the model that learns it."""

from __future__ import annotations

from benchmarks.planted.habits import instruction_lesson, instruction_planted, trigger_lesson, trigger_planted
from benchmarks.planted.prompt import Task
from benchmarks.planted.recall import (
    chain_lesson,
    chain_planted,
    distractor_lesson,
    distractor_planted,
    overwritten_lesson,
    overwritten_planted,
)

TASKS = (
    Task("trigger", "a token that poisoned lessons tied to one answer", trigger_lesson, trigger_planted, 300),
    Task("distractor", "another fact with the asked key", distractor_lesson, distractor_planted, 300),
    Task("overwritten", "an earlier assignment of the asked name", overwritten_lesson, overwritten_planted, 300),
    Task(
        "instruction",
        "an instruction that lessons seldom obeyed",
        instruction_lesson,
        instruction_planted,
        700,
        ("far", "far"),
    ),
    Task("chain", "the bridge to the answer, exchanged", chain_lesson, chain_planted, 350, ("near", "far", "near")),
)
