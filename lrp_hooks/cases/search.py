"""The error token of one failed answer, and the token that would have repaired it.

Target: for an instruction that can only be broken, the first token after which no continuation can pass; else the token
at which the chance of success falls most, p* = argmax_p [s(y_<p) - s(y_<=p)], with s the share of sampled continuations
that pass. Contrast: the best alternative there whose own greedy continuation passes and ends by itself.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from lrp_hooks.cases.generate import decode, end_ids
from lrp_hooks.cases.judge import Grade, Judge
from lrp_hooks.cases.run import Answer
from lrp_hooks.cases.tree import Branch, Tree, sampler
from lrp_hooks.demo_model import LoadedModel
from lrp_hooks.errors import InputError

Kind = Literal["one-way", "before-one-way", "success-drop", "first"]
NONE_PASSES = "no alternative passes"
NONE_ENDS = "an alternative passes but does not end by itself"
ONLY_TRIVIAL = "only trivial answers pass"
NEVER = "no sampled answer passes"
BUDGET = "budget used up"
BREAKS = 2
"""How many places where an instruction broke are tried."""


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        goal: what counts as better: an answer that passes everything, or one that repairs an instruction.
        alternatives: how many of the model's choices are tried at a position.
        samples: continuations per position for the chance of success, m; 0 leaves that search out.
        grid: positions at which it is measured before bisection.
        budget: tokens of continuations per answer; a stage that has begun is finished.
        min_words: shorter answers are trivial.
        width: branches written at the same time.
    """

    goal: Grade = Grade.REPAIRS
    alternatives: int = 10
    samples: int = 8
    grid: int = 4
    budget: int = 6000
    min_words: int = 5
    width: int = 32
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.goal is Grade.NO_BETTER:
            raise InputError("the goal is to repair or to pass")
        for name in ("alternatives", "grid", "budget", "min_words", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.samples < 0 or self.temperature <= 0:
            raise InputError("samples must not be negative, temperature must be positive")


@dataclass(frozen=True)
class Alternative:
    """Another token at a position, and what came of it.

    Attributes:
        rank: among the model's choices there, from 1.
        grade: of the finished answer.
        passes_unended: it would count if it had ended by itself.
        trivial: it would count if it said more.
        counts: it is a contrast.
    """

    id: int
    rank: int
    logit: float
    grade: Grade
    passes_unended: bool
    trivial: bool
    counts: bool


@dataclass(frozen=True)
class Pair:
    """Position, target and contrast."""

    position: int
    kind: Kind
    target: int
    target_rank: int
    target_logit: float
    contrast: Alternative


class Search:
    """The search of one answer.

    Attributes:
        tree: the answer with its continuations; counts their tokens.
        tried: positions at which alternatives were continued.
        reason: why there is no pair, once `pair` has found none.
    """

    def __init__(self, loaded: LoadedModel, answer: Answer, settings: Settings):
        self._tokenizer, self._answer, self._settings = loaded.tokenizer, answer, settings
        self._ends = end_ids(loaded.model, loaded.tokenizer)
        self._verifiers = answer.instructions
        prompt = answer.messages[-1].content
        self._judge = Judge(self._verifiers, answer.followed, settings.goal, settings.min_words, prompt)
        self.tree = Tree(loaded.model, [*answer.prompt_ids, *answer.ids], self._ends)
        self.tried: list[int] = []
        self.reason = ""
        self._shares: dict[int, float] = {}

    def pair(self) -> Pair | None:
        """The first position that has a contrast: where an instruction broke, then the success drop, then the start."""
        places = self._one_way()
        found = self._continued([*places, (0, "first")])
        pair = self._best(places, found)
        if pair is None and self._settings.samples and self.tree.tokens < self._settings.budget:
            drop = self._drop(self._end())
            if drop and drop not in found:
                more: list[tuple[int, Kind]] = [(drop, "success-drop")]
                found |= self._continued(more)
                pair = self._best(more, found)
        pair = pair or self._best([(0, "first")], found)
        if pair is None:
            self.reason = self._why([a for many in found.values() for a in many])
        return pair

    def _best(self, places: Sequence[tuple[int, Kind]], found: dict[int, list[Alternative]]) -> Pair | None:
        """At the first place that has any, the contrast with the best grade, and among those the best rank."""
        for position, kind in places:
            good = [a for a in found[position] if a.counts]
            if good:
                return self._pair(position, kind, max(good, key=lambda a: (a.grade, -a.rank)))
        return None

    def _why(self, seen: Sequence[Alternative]) -> str:
        if any(a.passes_unended for a in seen):
            return NONE_ENDS
        if any(a.trivial for a in seen):
            return ONLY_TRIVIAL
        return BUDGET if self.tree.tokens >= self._settings.budget else self.reason or NONE_PASSES

    def _pair(self, position: int, kind: Kind, best: Alternative) -> Pair:
        logits = self._logits(position)
        target = self._token(position)
        logit = float(logits[target])
        return Pair(position, kind, target, int((logits > logit).sum()) + 1, logit, best)

    def _token(self, position: int) -> int:
        """What was said there; after the last token, the end."""
        ids = self._answer.ids
        return ids[position] if position < len(ids) else max(self._ends, key=lambda i: float(self._logits(position)[i]))

    def _one_way(self) -> list[tuple[int, Kind]]:
        """Where broken instructions broke, the earliest first, each with the token before it.

        The token before often decides: " rock" is what went wrong, though only the " " after it makes it a word.
        """
        failed = zip(self._verifiers, self._answer.followed, strict=True)
        breaks = {self._first_token(each.hopeless) for each, followed in failed if not followed} - {None}
        places: list[tuple[int, Kind]] = []
        for position in sorted(p for p in breaks if p is not None)[:BREAKS]:
            places += [(position, "one-way"), (position - 1, "before-one-way")]
        return [(p, kind) for i, (p, kind) in enumerate(places) if p > 0 and p not in [q for q, _ in places[:i]]]

    def _end(self) -> int:
        """From where on there is no chance of success: where everything is ruled out, or after the end of the answer.

        The token that ended the answer counts: what is missing may be missing because the answer ended too soon.
        """
        found = self._first_token(self._judge.hopeless)
        return len(self._answer.ids) + self._answer.ended if found is None else found

    def _first_token(self, hopeless: Callable[[str], bool]) -> int | None:
        """The first token after which the answer is hopeless."""
        ids = self._answer.ids
        found = bisect_left(range(len(ids)), True, key=lambda i: hopeless(self._text(ids[: i + 1])))
        return found if found < len(ids) else None

    def _text(self, ids: Sequence[int]) -> str:
        return decode(self._tokenizer, ids)

    def _said(self, branch: Branch) -> str:
        """The answer that a branch makes, from its beginning."""
        kept = branch.start - len(self._answer.prompt_ids)
        return self._text([*self._answer.ids[:kept], *branch.ids])

    def _branch(self, position: int, first: int | None = None) -> Branch:
        left = self._answer.max_new_tokens - position
        return Branch(len(self._answer.prompt_ids) + position, max(left, 1), [] if first is None else [first])

    def _logits(self, position: int) -> Tensor:
        return self.tree.logits[len(self._answer.prompt_ids) + position - 1].float()

    def _continued(self, places: Sequence[tuple[int, Kind]]) -> dict[int, list[Alternative]]:
        """The model's other choices at the places, each continued greedily, all at once."""
        choices = {position: self._choices(position) for position, _ in places}
        branches = {p: [self._branch(p, token) for token, _, _ in many] for p, many in choices.items()}
        self.tried += list(choices)
        self.tree.grow([b for many in branches.values() for b in many], stop=self._stop, width=self._settings.width)
        return {
            p: [self._graded(branch, *choice) for branch, choice in zip(branches[p], choices[p], strict=True)]
            for p in choices
        }

    def _choices(self, position: int) -> list[tuple[int, int, float]]:
        """Id, rank and logit of the best tokens besides the one that was said."""
        values, ids = self._logits(position).topk(self._settings.alternatives + 1)
        ranked = zip(ids.tolist(), range(1, len(ids) + 1), values.tolist(), strict=True)
        return [choice for choice in ranked if choice[0] != self._token(position)][: self._settings.alternatives]

    def _stop(self, branch: Branch) -> bool:
        return self._judge.hopeless(self._said(branch))

    def _graded(self, branch: Branch, token: int, rank: int, logit: float) -> Alternative:
        text = self._said(branch)
        grade, trivial = self._judge.grade(text), self._judge.trivial(text)
        enough = grade >= self._settings.goal
        return Alternative(
            token,
            rank,
            logit,
            grade,
            passes_unended=enough and not branch.ended and not trivial,
            trivial=enough and trivial,
            counts=enough and branch.ended and not trivial,
        )

    def _drop(self, end: int) -> int | None:
        """Where the chance of success falls most before position ``end``, where there is none."""
        grid = self._grid(end)
        self._measure(grid)
        edges = [*grid, end]
        self._shares[end] = 0.0
        if not any(self._shares[p] for p in grid):
            self.reason = NEVER
            return None
        low, high = max(pairwise(edges), key=lambda e: self._shares[e[0]] - self._shares[e[1]])
        while high - low > 1 and self.tree.tokens < self._settings.budget:
            middle = (low + high) // 2
            self._measure([middle])
            if self._shares[low] - self._shares[middle] >= self._shares[middle] - self._shares[high]:
                high = middle
            else:
                low = middle
        return low

    def _grid(self, end: int) -> list[int]:
        """The first position and starts of sentences or lines, evenly spread."""
        texts = [self._text([i]) for i in self._answer.ids[:end]]
        starts = [
            i + 1 for i, text in enumerate(texts) if i + 1 < end and text.rstrip(" ")[-1:] in {".", "!", "?", "\n"}
        ]
        step = max(len(starts) / max(self._settings.grid - 1, 1), 1.0)
        picked = {starts[int(k * step)] for k in range(self._settings.grid - 1) if int(k * step) < len(starts)}
        return sorted({0, *picked})

    def _measure(self, positions: Sequence[int]) -> None:
        """Sample continuations of all these positions at once."""
        new = [p for p in positions if p not in self._shares]
        branches = {p: [self._branch(p) for _ in range(self._settings.samples)] for p in new}
        seed = zlib.crc32(f"{self._settings.seed}:{self._answer.id}:{new}".encode())
        choose = sampler(seed, self._settings.temperature)
        self.tree.grow(
            [b for many in branches.values() for b in many], choose, stop=self._stop, width=self._settings.width
        )
        for position, many in branches.items():
            passed = sum(b.ended and self._judge.good(self._said(b)) for b in many)
            self._shares[position] = passed / len(many)
