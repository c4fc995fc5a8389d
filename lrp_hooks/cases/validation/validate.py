"""Validation by intervention: how many words are masked until the prediction changes (arXiv 2604.17761, appendix G).

A ranking is good when few of its words are enough. Words are masked from the one that supports the target most. Where
the case has a verifier, the model goes on from the masked input, and masking goes on until its answer passes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lrp_hooks.cases.inputs import CaseInput, words_of
from lrp_hooks.cases.schema import Strict
from lrp_hooks.cases.validation.climb import judged
from lrp_hooks.cases.validation.masking import REPLACEMENTS, Effect, Masker, Replacement, mask_of, word_texts
from lrp_hooks.cases.validation.repair import Repair
from lrp_hooks.errors import InputError, first_line
from lrp_hooks.loading.loaded import LoadedModel

RANDOM = "random"
STEPS = (1, 1, 2, 4)
"""How many numbers of words are tried in one batch, one batch after the other; the last again and again."""


@dataclass(frozen=True)
class Rules:
    """How to validate.

    Attributes:
        replacements: what masking means. With the first one that is not "pad", which masks in the attention only, the
            model also goes on, where the case has a verifier.
        most: words masked at most.
        draws: random rankings, the control.
        where: mask words of the "prompt" only, or of the whole "input", the answer so far included.
        continued: let the model go on after the change, and ask the verifier.
        until_pass: go on masking after the change until the answer passes; up to ``most`` answers per ranking.
        max_new_tokens: the longest answer, what was said before the error included.
    """

    replacements: tuple[Replacement, ...] = ("neutral",)
    most: int = 12
    draws: int = 3
    where: str = "input"
    continued: bool = True
    seed: int = 0
    until_pass: bool = False
    max_new_tokens: int = 160

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}")
        if self.most < 1 or self.draws < 0 or not self.replacements:
            raise InputError("validation needs a replacement and at least one word; draws must not be negative")
        unknown = [name for name in self.replacements if name not in REPLACEMENTS]
        if unknown:
            raise InputError(f"unknown replacement {unknown[0]!r}. choices: {', '.join(REPLACEMENTS)}")
        if self.where not in ("input", "prompt"):
            raise InputError(f"unknown part {self.where!r} to mask. choices: input, prompt")

    @property
    def judged(self) -> Replacement | None:
        """The replacement from which the model goes on."""
        return next((each for each in self.replacements if each != "pad"), None) if self.continued else None


class Flip(Strict):
    """One ranking of one case.

    Attributes:
        ranking: name of the rules, or "random".
        draw: which of the random rankings.
        changed: words masked until the first choice is another token; None when ``most`` are not enough.
        overtaken: words masked until the contrast's logit is above the target's; None likewise.
        passes: whether the answer after the change satisfies the verifier, False without a change; None where it was
            not asked.
        passed: words masked until the answer satisfies it; None when ``most`` are not enough, or it was not asked.
        words: the words masked until the answer passes, else up to the change, else all that were; the most relevant
            first.
    """

    ranking: str
    replacement: str
    draw: int = 0
    changed: int | None = None
    overtaken: int | None = None
    passes: bool | None = None
    passed: int | None = None
    words: tuple[str, ...] = ()


class Validation(Strict):
    """All rankings of one case.

    Attributes:
        words: how many words there are to mask.
        most: how many were masked at most.
        until_pass: masking went on until the answer passed.
        unjudged: why no answer was judged: what the case or its benchmark lacks.
        failure: what went wrong when answers were judged.
    """

    words: int
    most: int
    flips: tuple[Flip, ...]
    until_pass: bool = False
    unjudged: str = ""
    failure: str = ""


def validate(
    loaded: LoadedModel, given: CaseInput, scores: Mapping[str, Sequence[float]], rules: Rules, repair: Repair | None
) -> Validation:
    """Mask the words of each ranking until the prediction changes, and until the answer passes where that is asked for.

    A verifier that fails costs the verdicts, not the rest.

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
    failure = ""
    for replacement in rules.replacements:
        masker = Masker(loaded, given, replacement)
        if masker.effects([frozenset()])[0].top != given.target:
            raise InputError("the model does not choose the target here: there is nothing to change")
        made = [_flip(given, masker, replacement, rules.most, *order) for order in orders]
        if repair is not None and replacement == rules.judged:
            try:
                made = judged(repair, given, masker, made, [order for _, _, order in orders], rules)
            except Exception as error:  # words to flip are worth keeping
                failure = first_line(error)
        flips += made
    return Validation(
        words=len(words),
        most=min(rules.most, len(words)),
        flips=tuple(flips),
        until_pass=rules.until_pass and repair is not None,
        failure=failure,
    )


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
    words = word_texts(given, order[: changed or most])
    return Flip(ranking=name, replacement=replacement, draw=draw, changed=changed, overtaken=overtaken, words=words)


def batches(most: int) -> Iterator[range]:
    """The numbers 1 .. ``most`` in order, few at first: most rankings need one or two words."""
    at, sizes = 1, iter(STEPS)
    while at <= most:
        size = next(sizes, STEPS[-1])
        yield range(at, min(at + size, most + 1))
        at += size


def _first(counts: range, happened: Sequence[bool]) -> int | None:
    return next((count for count, yes in zip(counts, happened, strict=True) if yes), None)


def _overtaken(effect: Effect) -> bool:
    return effect.target < effect.contrast
