"""Validation by intervention: how many words are masked until the prediction changes (arXiv 2604.17761, appendix G).

A ranking is good when few of its words are enough. Words are masked from the one that supports the target most.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lrp_hooks.cases.inputs import CaseInput, words_of
from lrp_hooks.cases.masking import REPLACEMENTS, Effect, Masker, Replacement
from lrp_hooks.cases.repair import Repair
from lrp_hooks.cases.schema import Strict
from lrp_hooks.errors import InputError
from lrp_hooks.loading.loaded import LoadedModel

RANDOM = "random"
STEPS = (1, 1, 2, 4)
"""How many numbers of words are tried in one batch, one batch after the other; the last again and again."""


@dataclass(frozen=True)
class Rules:
    """How to validate.

    Attributes:
        replacements: what masking means; the first one is also continued, where the case has a verifier.
        most: words masked at most.
        draws: random rankings, the control.
        where: mask words of the "prompt" only, or of the whole "input", the answer so far included.
        continued: let the model go on after the change, and ask the verifier.
    """

    replacements: tuple[Replacement, ...] = ("neutral",)
    most: int = 12
    draws: int = 3
    where: str = "input"
    continued: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.most < 1 or self.draws < 0 or not self.replacements:
            raise InputError("validation needs a replacement and at least one word; draws must not be negative")
        unknown = [name for name in self.replacements if name not in REPLACEMENTS]
        if unknown:
            raise InputError(f"unknown replacement {unknown[0]!r}. choices: {', '.join(REPLACEMENTS)}")
        if self.where not in ("input", "prompt"):
            raise InputError(f"unknown part {self.where!r} to mask. choices: input, prompt")


class Flip(Strict):
    """One ranking of one case.

    Attributes:
        ranking: name of the rules, or "random".
        draw: which of the random rankings.
        changed: words masked until the first choice is another token; None when ``most`` are not enough.
        overtaken: words masked until the contrast's logit is above the target's; None likewise.
        passes: whether the continuation after the change satisfies the verifier; None where it was not asked.
        words: the words masked up to the change, or all that were, the most relevant first.
    """

    ranking: str
    replacement: str
    draw: int = 0
    changed: int | None = None
    overtaken: int | None = None
    passes: bool | None = None
    words: tuple[str, ...] = ()


class Validation(Strict):
    """All rankings of one case.

    Attributes:
        words: how many words there are to mask.
        most: how many were masked at most.
    """

    words: int
    most: int
    flips: tuple[Flip, ...]


def validate(
    loaded: LoadedModel, given: CaseInput, scores: Mapping[str, Sequence[float]], rules: Rules, repair: Repair | None
) -> Validation:
    """Mask the words of each ranking until the prediction changes.

    Args:
        scores: per ranking the relevance of each token, in logits.
        repair: the case's verifier, where it has one.

    Raises:
        InputError: no word can be masked, or the model does not choose the target to begin with.
    """
    words = maskable_words(given, rules.where)
    if not words:
        raise InputError(f"the {rules.where} has no word that can be masked")
    orders = [(name, 0, ranked(words, own)) for name, own in scores.items()]
    orders += [(RANDOM, draw, shuffled(words, f"{rules.seed}:{given.case.id}:{draw}")) for draw in range(rules.draws)]
    flips: list[Flip] = []
    for place, replacement in enumerate(rules.replacements):
        masker = Masker(loaded, given, replacement)
        if masker.effects([frozenset()])[0].top != given.target:
            raise InputError("the model does not choose the target here: there is nothing to change")
        made = [_flip(given, masker, replacement, rules.most, *order) for order in orders]
        asked = repair if place == 0 and rules.continued and replacement != "pad" else None
        flips += made if asked is None else asked.asked(given, masker, made, dict(_masks(orders, made)))
    return Validation(words=len(words), most=min(rules.most, len(words)), flips=tuple(flips))


def maskable_words(given: CaseInput, where: str) -> list[tuple[int, ...]]:
    """Words that may be masked: no markers, and not the word at the end, after which the question is asked."""
    free = [name != "special" and (where == "input" or name != "answer") for name in given.names]
    last = len(given.ids) - 1
    return [word for word in words_of(given.texts, free) if last not in word]


def ranked(words: Sequence[tuple[int, ...]], scores: Sequence[float]) -> list[tuple[int, ...]]:
    """Words by their summed relevance, what supports the target most first."""
    return sorted(words, key=lambda word: -sum(scores[i] for i in word))


def shuffled(words: Sequence[tuple[int, ...]], seed: str) -> list[tuple[int, ...]]:
    """Words in an order that depends on the seed alone."""
    order = list(words)
    random.Random(seed).shuffle(order)
    return order


def _flip(
    given: CaseInput, masker: Masker, replacement: str, most: int, name: str, draw: int, order: list[tuple[int, ...]]
) -> Flip:
    """Mask more and more words of one ranking until both changes have happened."""
    changed = overtaken = None
    for counts in batches(min(most, len(order))):
        effects = masker.effects([mask_of(order, count) for count in counts])
        changed = changed or _first(counts, [effect.top != given.target for effect in effects])
        overtaken = overtaken or _first(counts, [_overtaken(effect) for effect in effects])
        if changed and overtaken:
            break
    shown = order[: changed or most]
    words = tuple("".join(given.texts[i].text for i in word).strip() for word in shown)
    return Flip(ranking=name, replacement=replacement, draw=draw, changed=changed, overtaken=overtaken, words=words)


def batches(most: int) -> Iterator[range]:
    """The numbers 1 .. ``most`` in order, few at first: most rankings need one or two words."""
    at, sizes = 1, iter(STEPS)
    while at <= most:
        size = next(sizes, STEPS[-1])
        yield range(at, min(at + size, most + 1))
        at += size


def mask_of(order: Sequence[tuple[int, ...]], count: int) -> frozenset[int]:
    """Tokens of the first ``count`` words."""
    return frozenset(i for word in order[:count] for i in word)


def _first(counts: range, happened: Sequence[bool]) -> int | None:
    return next((count for count, yes in zip(counts, happened, strict=True) if yes), None)


def _overtaken(effect: Effect) -> bool:
    return effect.target < effect.contrast


def _masks(
    orders: Sequence[tuple[str, int, list[tuple[int, ...]]]], flips: Sequence[Flip]
) -> list[tuple[tuple[str, int], frozenset[int]]]:
    """The masked tokens at which each ranking changed the prediction, random ones left out."""
    return [
        ((name, draw), mask_of(order, flip.changed))
        for (name, draw, order), flip in zip(orders, flips, strict=True)
        if flip.changed is not None and name != RANDOM
    ]
