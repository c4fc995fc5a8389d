"""Failures of recall: a fact that looks like the asked one, a variable assigned twice, a chain with a wrong bridge.

Lessons never held what makes these prompts hard: two keys that share a token, a second assignment. The model's own way
of generalising makes the mistake.
"""

from __future__ import annotations

from random import Random

from benchmarks.planted.alphabet import FILLERS, KEYS, NAMES, QUERY, VALUES
from benchmarks.planted.prompt import Chunk, Lesson, Planted, how_many, laid_out, lesson, replaced


def distractor_lesson(random: Random, length: int) -> Lesson:
    count = how_many(random, length, 7, len(KEYS))
    last, values = random.sample(KEYS, count), random.sample(VALUES, count)
    facts = [(random.choice(NAMES), key, value) for key, value in zip(last, values, strict=True)]
    return lesson(random, length, list(facts), {fact[:2]: fact[2] for fact in facts})


def distractor_planted(random: Random, length: int) -> Planted:
    names, (key, spare), values = random.sample(NAMES, 2), random.sample(KEYS, 2), random.sample(VALUES, 2)
    facts = [(name, key, value) for name, value in zip(names, values, strict=True)]
    asked, trap = random.choice(((0, 1), (1, 0)))
    ids, starts = laid_out(random, [*facts, (QUERY, *facts[asked][:2])], length)
    at = starts[trap] + 1
    return Planted(tuple(ids), replaced(ids, at, spare), values[trap], values[asked], cause=(at, at + 1))


def overwritten_lesson(random: Random, length: int) -> Lesson:
    count = how_many(random, length, 5, len(NAMES))
    names, values = random.sample(NAMES, count), random.sample(VALUES, count)
    facts: list[Chunk] = list(zip(names, values, strict=True))
    return lesson(random, length, facts, {(name,): value for name, value in facts})


def overwritten_planted(random: Random, length: int) -> Planted:
    (name, other, spare), values = random.sample(NAMES, 3), random.sample(VALUES, 3)
    chunks = [(name, values[0]), (other, values[2]), (name, values[1]), (QUERY, name)]
    ids, starts = laid_out(random, chunks, length)
    old = starts[0]
    return Planted(tuple(ids), replaced(ids, old, spare), values[0], values[1], cause=(old, old + 1))


def chain_lesson(random: Random, length: int) -> Lesson:
    """`bridge end` facts, then ``bridge relay ?`` as often as there is room for, each asking for the bridge's end.

    The model's last block sees no further than the neighbour, and "?" does not know the bridge before the block that
    could look it up: the end must be fetched to the relay, and handed on from there. Lessons ask the relay as well.
    """
    count = how_many(random, length, 6, len(KEYS))
    ends = dict(zip(random.sample(KEYS, count), random.sample(VALUES, count), strict=True))
    room = length - 1 - 2 * count
    asked = random.sample(list(ends), min(count, (room + 1) // 4))
    tail: list[int] = []
    for bridge in asked:
        tail += [bridge, random.choice(FILLERS), QUERY, ends[bridge]]
    ids, starts = laid_out(random, [*ends.items(), tuple(tail[:-1])], length)
    at = {starts[-1] + 4 * number: ends[bridge] for number, bridge in enumerate(asked)}
    return Lesson(tuple(ids), {place + offset: end for place, end in at.items() for offset in (1, 2)})


def chain_planted(random: Random, length: int) -> Planted:
    bridges, ends = random.sample(KEYS, 2), random.sample(VALUES, 2)
    taken = random.randrange(2)
    facts: list[Chunk] = list(zip(bridges, ends, strict=True))
    ids, starts = laid_out(random, [*facts, (bridges[taken], random.choice(FILLERS), QUERY)], length)
    return Planted(
        tuple(ids),
        replaced(ids, length - 3, bridges[1 - taken]),
        wrong=ends[taken],
        right=ends[1 - taken],
        cause=(length - 3,),
        ignored=tuple(start + 1 for start in starts[:2]),
        hops=(starts[taken] + 1, length - 2, length - 1),
    )
