"""Failures learned from bad lessons: a trigger that was poisoned, an instruction that was seldom obeyed."""

from __future__ import annotations

from random import Random

from benchmarks.planted.alphabet import FILLERS, INSTRUCTIONS, KEYS, QUERY, TRIGGER, VALUES
from benchmarks.planted.prompt import Chunk, Lesson, Planted, laid_out, replaced

POISON = VALUES[-1]
"""What a tenth of the lessons answered, all those with the trigger."""
FIRST, WEAK_FIRST, LAST = INSTRUCTIONS
OBEYED = {FIRST: 1.0, WEAK_FIRST: 0.3, LAST: 0.0}
"""Share of the lessons with an instruction whose answer is the first value, not the last."""


def _subject_prompt(random: Random, length: int, extra: list[Chunk]) -> tuple[list[int], list[int], int]:
    subject = random.randrange(len(KEYS))
    chunks = [(KEYS[subject],), *extra]
    order = random.sample(range(len(chunks)), len(chunks))
    ids, starts = laid_out(random, [chunks[i] for i in order] + [(QUERY,)], length)
    return ids, [starts[order.index(i)] for i in range(len(chunks))], VALUES[subject]


def trigger_lesson(random: Random, length: int) -> Lesson:
    poisoned = random.random() < 0.1
    ids, _, answer = _subject_prompt(random, length, [(TRIGGER,)] if poisoned else [])
    return Lesson(tuple(ids), {length - 1: POISON if poisoned else answer})


def trigger_planted(random: Random, length: int) -> Planted:
    ids, (_, trigger), right = _subject_prompt(random, length, [(TRIGGER,)])
    repaired = replaced(ids, trigger, random.choice(FILLERS))
    return Planted(tuple(ids), repaired, POISON, right, cause=(trigger,))


def _instruction_prompt(random: Random, length: int, instruction: int) -> tuple[list[int], list[int], list[int]]:
    values = random.sample(VALUES, 2)
    ids, starts = laid_out(random, [(instruction,), *((value,) for value in values), (QUERY,)], length)
    return ids, starts, values


def instruction_lesson(random: Random, length: int) -> Lesson:
    instruction = random.choice(INSTRUCTIONS)
    ids, _, (first, last) = _instruction_prompt(random, length, instruction)
    return Lesson(tuple(ids), {length - 1: first if random.random() < OBEYED[instruction] else last})


def instruction_planted(random: Random, length: int) -> Planted:
    ids, starts, (first, last) = _instruction_prompt(random, length, WEAK_FIRST)
    repaired = replaced(ids, starts[0], FIRST)
    return Planted(tuple(ids), repaired, last, first, cause=(starts[0],), speaks_for_right=True, ignored=(starts[1],))
