"""Prompts of the planted tasks: what a model learns from, and what it is expected to fail on.

Every task makes two kinds of prompts of one length: those that a model learns from, and *planted* ones on which it is
expected to say the wrong token because of tokens that are put there on purpose. A planted prompt comes with its
repaired twin, which differs in the planted tokens only: `benchmarks.planted.verify` keeps a prompt when the model is
wrong on it and right on its twin, so that the cause is known by intervention and not by belief.

A small alphabet serves all tasks (`benchmarks.planted.alphabet`); the answer is predicted at the last token. The tasks
are in `habits` and `recall`, their table in `tasks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from benchmarks.planted.alphabet import BOS, FILLERS, QUERY


@dataclass(frozen=True)
class Lesson:
    """A prompt to learn from.

    Attributes:
        ids: its tokens; recall tasks ask several questions in a row, each with its answer behind it.
        answers: position -> the token that should follow it; the last position always has one.
    """

    ids: tuple[int, ...]
    answers: dict[int, int]


@dataclass(frozen=True)
class Planted:
    """A prompt with a planted failure.

    Attributes:
        ids: the prompt; repaired: its twin of the same length, which differs at planted tokens only.
        wrong, right: the token that the failure produces, and the one that would be right.
        cause: positions whose relevance is sought.
        speaks_for_right: the cause pulls towards the right token, too weakly (an underweighted instruction): it is
            sought among tokens that speak for the contrast. Else among those that speak for the wrong token.
        ignored: positions that are neither cause nor innocent: what legitimately carries the right token.
        hops: token positions from the answer's source to the last token, where the way is part of the task.
    """

    ids: tuple[int, ...]
    repaired: tuple[int, ...]
    wrong: int
    right: int
    cause: tuple[int, ...]
    speaks_for_right: bool = False
    ignored: tuple[int, ...] = ()
    hops: tuple[int, ...] = ()


@dataclass(frozen=True)
class Task:
    """One kind of failure.

    Attributes:
        cause: what is wrong, in words.
        lesson, planted: make a prompt of a given length; steps: of training on lessons.
        blocks: of the model that learns it; a "near" one sees a token and the one before, a "far" one all before.
    """

    name: str
    cause: str
    lesson: Callable[[Random, int], Lesson]
    planted: Callable[[Random, int], Planted]
    steps: int
    blocks: tuple[Literal["near", "far"], ...] = ("near", "far")


Chunk = tuple[int, ...]


def laid_out(random: Random, chunks: list[Chunk], length: int) -> tuple[list[int], list[int]]:
    """Chunks in their order between fillers, after BOS; the last chunk ends the prompt. Tokens, and chunks' starts."""
    room = length - 1 - sum(map(len, chunks))
    if room < 0:
        raise ValueError(f"{length} tokens do not hold chunks of {sum(map(len, chunks))}")
    cuts = sorted(random.randint(0, room) for _ in chunks[:-1])
    gaps = [b - a for a, b in zip([0, *cuts], [*cuts, room], strict=True)]
    ids, starts = [BOS], []
    for gap, chunk in zip(gaps, chunks, strict=True):
        ids += random.choices(FILLERS, k=gap)
        starts.append(len(ids))
        ids += chunk
    return ids, starts


def questions(random: Random, answers: dict[Chunk, int], most: int) -> tuple[Chunk, dict[int, int]]:
    """``? key answer ? key answer ... ? key``: the chunk, and which of its offsets predict what."""
    asked = random.sample(list(answers), min(most, len(answers)))
    chunk: list[int] = []
    wanted = {}
    for key in asked:
        chunk += [QUERY, *key]
        wanted[len(chunk) - 1] = answers[key]
        chunk.append(answers[key])
    return tuple(chunk[:-1]), wanted


def how_many(random: Random, length: int, cost: int, most: int) -> int:
    """Facts of a lesson: from 2 to as many as fit with a question for each, at ``cost`` tokens. Many questions per
    prompt are what makes recall quick to learn."""
    return random.randint(2, max(2, min(most, (length - 1) // cost)))


def lesson(random: Random, length: int, facts: list[Chunk], answers: dict[Chunk, int]) -> Lesson:
    """Facts in their order, then as many questions as there is room for."""
    key = len(next(iter(answers)))
    room = length - 1 - sum(map(len, facts))
    asked, wanted = questions(random, answers, (room + 1) // (key + 2))
    ids, starts = laid_out(random, [*facts, asked], length)
    return Lesson(tuple(ids), {starts[-1] + offset: answer for offset, answer in wanted.items()})


def replaced(ids: list[int], position: int, token: int) -> tuple[int, ...]:
    """The prompt with another token at one position."""
    return (*ids[:position], token, *ids[position + 1 :])
