"""The error token of one failed answer, and the token that would have repaired it.

Target: for an instruction that can only be broken, the first token after which no continuation can pass; else the token
at which the chance of success falls most, p* = argmax_p [s(y_<p) - s(y_<=p)], with s the share of sampled continuations
that pass. Contrast: the best alternative there whose own greedy continuation passes and ends by itself; where the
model's best choices hold none, one that a reference model proposes. A place at which the target does not lead that
alternative clearly is kept for the case that no other place does better.
"""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from random import Random

from torch import Tensor

from lrp_hooks.cases.answers.generate import decode, end_ids
from lrp_hooks.cases.answers.run import Answer
from lrp_hooks.cases.judge import Grade, Judge
from lrp_hooks.cases.search.branch import Branch, sampler
from lrp_hooks.cases.search.forest import Forest, Growth
from lrp_hooks.cases.search.markers import Near, first_tokens, near
from lrp_hooks.cases.search.race import CLEAR, Alternative, Choice, Kind, Pair, Place, Race, Reason, Try
from lrp_hooks.cases.search.reference import Reference
from lrp_hooks.errors import InputError
from lrp_hooks.loading.loaded import LoadedModel

NONE_PASSES = "no alternative passes"
NONE_ENDS = "an alternative passes but does not end by itself"
ONLY_TRIVIAL = "only trivial answers pass"
BUDGET = "budget used up"
START: Place = (0, "first")
BREAKS, MISSES = 2, 6
"""How many places where an instruction broke are tried, and where what is missing was nearly said."""


@dataclass(frozen=True)
class Settings:
    """How to search.

    Attributes:
        goal: what counts as better: an answer that passes everything, or one that repairs an instruction.
        alternatives: how many of the model's choices are tried at a position.
        near: the worst rank at which the end, or a token that begins what the answer lacks, is tried; 0: none is.
        samples: continuations per position for the chance of success, m; 0 leaves that search out.
        grid: positions at which it is measured before bisection.
        budget: tokens of continuations per answer; a stage that has begun is finished.
        min_words: shorter answers are trivial.
        width: branches written at the same time, of all answers together.
        together: answers searched at the same time.
        control: positions drawn at random whose alternatives are continued, too, once the search is over: how often
            another token repairs an answer anywhere. They give no pair.
    """

    goal: Grade = Grade.REPAIRS
    alternatives: int = 10
    near: int = 20
    samples: int = 8
    grid: int = 4
    budget: int = 3000
    min_words: int = 5
    width: int = 64
    together: int = 8
    control: int = 0
    temperature: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.goal is Grade.NO_BETTER:
            raise InputError("the goal is to repair or to pass")
        for name in ("alternatives", "grid", "budget", "min_words", "width", "together"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if min(self.near, self.samples, self.control) < 0 or self.temperature <= 0:
            raise InputError("near, samples and control must not be negative, temperature must be positive")


Steps = Generator[Growth, None, Pair | None]


class Search:
    """The search of one answer.

    Attributes:
        tree: the answer with its continuations; counts their tokens.
        tried: positions at which alternatives were continued.
        reason: why there is no pair, once `steps` has found none.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        answer: Answer,
        settings: Settings,
        forest: Forest,
        reference: Reference | None = None,
    ):
        self._tokenizer, self._answer, self._settings = loaded.tokenizer, answer, settings
        self._reference = reference
        self._ends = end_ids(loaded.model, loaded.tokenizer)
        self._verifiers = answer.instructions
        self._judge = Judge(self._verifiers, answer.followed, settings.goal, settings.min_words, answer.question)
        self.tree = forest.plant([*answer.prompt_ids, *answer.ids])
        self._ended = self._ends_here() if answer.ended is None else answer.ended
        self.tried: list[int] = []
        self.reason = ""
        self._shares: dict[int, float] = {}
        self._found: dict[Place, list[Alternative]] = {}
        self._kinds: dict[int, Reason] = {}

    def steps(self) -> Steps:
        """The search, stage by stage; each yields the branches that it needs grown. Returns the pair, or None.

        Where an instruction broke comes first, with the token before it; then positions at which the answer nearly
        ended, which would have been right, and at which what is missing was nearly said; then the end of an answer that
        ended too soon; then the start itself; at last, where a good answer can be reached from the start, the place
        where the chance of it falls most. A later stage is not begun once an earlier one has a clear pair. When none
        has any pair, the reference model is asked at the same places.
        """
        pair = yield from self._own()
        if pair is None and self._reference is not None and not self._spent:
            pair = yield from self._proposed(self._reference)
        if pair is None:
            self.reason = self._why([a for many in self._found.values() for a in many])
        if self._settings.control:
            yield from self._continued([(position, "random") for position in self._random()])
        return pair

    def _own(self) -> Steps:
        """Stage by stage with the model's own choices; the first clear pair, else the first of all."""
        first: Pair | None = None
        for places, choices in self._stages():
            yield from self._continued(places, choices)
            pair = self._best(places)
            if pair is not None and pair.clear:
                return pair
            first = first or pair
            if self._spent:
                return first
        if self._settings.samples and self._hopeful(START):
            drop = yield from self._drop(self._end())
            places = self._fresh((drop or 0, "success-drop"))
            yield from self._continued(places)
            pair = self._best(places)
            first = pair if pair is not None and pair.clear else first or pair
        return first

    def _stages(self) -> Iterator[tuple[list[Place], dict[int, list[Choice]] | None]]:
        """Places that need no measuring, and the tokens to try there where these are not the model's best choices.

        A place where an instruction broke comes with the token before it, which often decides: " rock" is what went
        wrong, though only the " " after it makes it a word.
        """
        failed = zip(self._verifiers, self._answer.followed, strict=True)
        breaks = {self._first_token(each.hopeless) for each, followed in failed if not followed}
        for position in sorted(p for p in breaks if p is not None)[:BREAKS]:
            yield self._fresh((position, "one-way"), (position - 1, "before-one-way")), None
        logits, said = self._so_far()
        yield self._choosing("stop", near(sorted(self._ends), logits, said, self._settings.near))
        missed = near(first_tokens(self._tokenizer, self._lacks()), logits, said, self._settings.near)
        yield self._choosing("marker", [each for each in missed if each[0] != START[0]][:MISSES])
        end = len(self._answer.ids)
        if self._ended and self._end() > end:
            yield self._fresh((end, "end"), (end - 1, "before-end")), None
        best = self._choices(START[0])
        known = {token for token, _, _ in best}
        yield [START], {0: [*best, *(choice for choice in dict(missed).get(START[0], []) if choice[0] not in known)]}

    def _fresh(self, *places: Place) -> list[Place]:
        """Those that have not been tried, without the start, which has a stage of its own."""
        return [(position, kind) for position, kind in places if position > 0 and position not in self._kinds]

    def _choosing(self, kind: Kind, found: Near) -> tuple[list[Place], dict[int, list[Choice]]]:
        return self._fresh(*((position, kind) for position, _ in found)), dict(found)

    def _so_far(self) -> tuple[Tensor, Sequence[int]]:
        """What was said up to where no chance was left, and the logits [P, V] before each of these tokens."""
        ids, offset = self._answer.ids[: self._end() + 1], len(self._answer.prompt_ids)
        return self.tree.logits[offset - 1 : offset - 1 + len(ids)], ids

    def _lacks(self) -> list[str]:
        """Texts of which the answer lacks one, for each instruction that it does not follow."""
        text, verdicts = self._text(self._answer.ids), zip(self._verifiers, self._answer.followed, strict=True)
        return [missing for each, followed in verdicts if not followed for missing in each.lacks(text)]

    def _random(self) -> list[int]:
        """Positions of the control, drawn from those that the search has not tried."""
        rest = [p for p in range(1, len(self._answer.ids)) if p not in self._kinds]
        seed = zlib.crc32(f"{self._settings.seed}:{self._answer.id}:control".encode())
        return sorted(Random(seed).sample(rest, min(self._settings.control, len(rest))))

    def repairs(self) -> dict[Reason, tuple[int, int]]:
        """Per kind of place: alternatives that were continued, and how many of them led to a good answer.

        Alternatives that were given up because a better one had won count among the first.
        """
        made: dict[Reason, tuple[int, int]] = {}
        for (_, kind), found in self._found.items():
            tried, good = made.get(kind, (0, 0))
            made[kind] = (tried + len(found), good + sum(a.counts for a in found))
        return made

    def _proposed(self, reference: Reference) -> Steps:
        """What the reference model would have said at the places that were tried, in their order."""
        places = list(self._kinds.items())
        offset, ids = len(self._answer.prompt_ids), [*self._answer.prompt_ids, *self._answer.ids]
        proposals = reference.best(ids, [offset + p for p, _ in places], self._settings.alternatives)
        choices = {place[0]: self._ranked(place, tokens) for place, tokens in zip(places, proposals, strict=True)}
        own = {place: list(found) for place, found in self._found.items()}
        yield from self._continued(places, choices)
        for place in places:
            self._found[place] = [*own[place], *(replace(each, proposed=True) for each in self._found[place])]
        return self._best(places)

    def _ranked(self, place: Place, tokens: Sequence[int]) -> list[Choice]:
        """Id, rank and logit of tokens that have not been tried there, as the failing model sees them."""
        logits = self._logits(place[0])
        known = {a.id for a in self._found[place]} | {self._token(place[0])}
        return [(i, int((logits > logits[i]).sum()) + 1, float(logits[i])) for i in tokens if i not in known]

    def _hopeful(self, place: Place) -> bool:
        """Whether an alternative there led to a good answer, be it cut off or trivial; else samples find none."""
        return any(a.counts or a.passes_unended or a.trivial for a in self._found[place])

    @property
    def _spent(self) -> bool:
        return self.tree.tokens >= self._settings.budget

    def _best(self, places: Sequence[Place]) -> Pair | None:
        """Of the first place at which the target leads clearly, else of the first that has any: the contrast with the
        best grade, and among those the best rank."""
        pairs = []
        for position, kind in places:
            good = [a for a in self._found.get((position, kind), []) if a.counts]
            if good and kind != "random":
                pairs.append(self._pair(position, kind, max(good, key=lambda a: (a.grade, -a.rank))))
        return next((pair for pair in pairs if pair.clear), pairs[0] if pairs else None)

    def _why(self, seen: Sequence[Alternative]) -> str:
        if any(a.passes_unended for a in seen):
            return NONE_ENDS
        if any(a.trivial for a in seen):
            return ONLY_TRIVIAL
        return BUDGET if self._spent else NONE_PASSES

    def _pair(self, position: int, kind: Kind, best: Alternative) -> Pair:
        logits = self._logits(position)
        target = self._token(position)
        logit = float(logits[target])
        return Pair(position, kind, target, int((logits > logit).sum()) + 1, logit, best)

    def _ends_here(self) -> bool:
        """Whether the model would end where the answer does: what counts where nobody knows whether it was cut off."""
        return int(self.tree.logits[-1].argmax()) in self._ends

    def _token(self, position: int) -> int:
        """What was said there; after the last token, the end."""
        ids = self._answer.ids
        return ids[position] if position < len(ids) else max(self._ends, key=lambda i: float(self._logits(position)[i]))

    def _end(self) -> int:
        """From where on there is no chance of success: where everything is ruled out, or after the end of the answer.

        The token that ended the answer counts: what is missing may be missing because the answer ended too soon.
        """
        found = self._first_token(self._judge.hopeless)
        return len(self._answer.ids) + self._ended if found is None else found

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

    def _continued(
        self, places: Sequence[Place], choices: dict[int, list[Choice]] | None = None
    ) -> Generator[Growth, None, None]:
        """Other tokens at the places, the model's own choices unless given, each continued greedily, all at once."""
        if not places:
            return
        race = Race(self._in_vain, lambda tried: self._graded(tried.branch, *tried.choice))
        for order, (position, kind) in enumerate(places):
            if position not in self._kinds and kind != "stop":  # where it might have ended, it may also go on otherwise
                self._kinds[position] = kind
                self.tried.append(position)
            said = float(self._logits(position)[self._token(position)])
            for choice in self._choices(position) if choices is None else choices[position]:
                clear = said - choice[2] > CLEAR
                race.tries.append(Try(position, order, choice, self._branch(position, choice[0]), clear))
        yield Growth(self.tree, [each.branch for each in race.tries], stop=race.lost)
        for place in places:
            self._found[place] = [race.grade(each) for each in race.tries if each.position == place[0]]

    def _choices(self, position: int) -> list[Choice]:
        """Id, rank and logit of the best tokens besides the one that was said."""
        values, ids = self._logits(position).topk(self._settings.alternatives + 1)
        ranked = zip(ids.tolist(), range(1, len(ids) + 1), values.tolist(), strict=True)
        return [choice for choice in ranked if choice[0] != self._token(position)][: self._settings.alternatives]

    def _hopeless(self, branch: Branch) -> bool:
        return self._judge.hopeless(self._said(branch))

    def _in_vain(self, branch: Branch) -> bool:
        """Whether a greedy continuation will come to nothing: it cannot pass any more, or not end any more."""
        return branch.loops or self._hopeless(branch)

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

    def _drop(self, end: int) -> Generator[Growth, None, int | None]:
        """Where the chance of success falls most before position ``end``, where there is none; None without any."""
        yield from self._measure([0])
        if not self._shares[0]:
            return None
        grid = self._grid(end)
        yield from self._measure(grid)
        edges = [*grid, end]
        self._shares[end] = 0.0
        low, high = max(pairwise(edges), key=lambda e: self._shares[e[0]] - self._shares[e[1]])
        while high - low > 1 and not self._spent:
            middle = (low + high) // 2
            yield from self._measure([middle])
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

    def _measure(self, positions: Sequence[int]) -> Generator[Growth, None, None]:
        """Sample continuations of all these positions at once."""
        new = [p for p in positions if p not in self._shares]
        branches = {p: [self._branch(p) for _ in range(self._settings.samples)] for p in new}
        many = [b for each in branches.values() for b in each]
        for number, branch in enumerate(many):
            branch.number = number
        seed = zlib.crc32(f"{self._settings.seed}:{self._answer.id}:{new}".encode())
        choose = sampler(seed, self._settings.temperature)
        yield Growth(self.tree, many, choose, stop=self._hopeless)
        for position, drawn in branches.items():
            passed = sum(b.ended and self._judge.good(self._said(b)) for b in drawn)
            self._shares[position] = passed / len(drawn)
