"""Search many failed answers for their error token; one line each, resumable; and what came of it in numbers."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lrp_hooks.cases.answers.generate import decode, end_ids
from lrp_hooks.cases.answers.run import Answer, Clock, Pace
from lrp_hooks.cases.jsonl import Appender, read_objects
from lrp_hooks.cases.judge import Grade
from lrp_hooks.cases.sandbox import permission
from lrp_hooks.cases.schema import Case, CaseToken, Strict, to_line, validated
from lrp_hooks.cases.search.forcing import tokenized
from lrp_hooks.cases.search.forest import Forest, Growth
from lrp_hooks.cases.search.race import CLEAR, Pair, Reason
from lrp_hooks.cases.search.reference import Reference
from lrp_hooks.cases.search.stages import Search, Settings
from lrp_hooks.cases.segments import instruction_spans
from lrp_hooks.cases.verify import INSTRUCTIONS
from lrp_hooks.errors import CaseError, first_line
from lrp_hooks.loading.loaded import LoadedModel

NOT_COMPARABLE = "the official verdict is random"
NO_MODEL_ANSWER = "the model had no answer"


class Outcome(Strict):
    """What came of one failed answer.

    Attributes:
        case: the case that was found, None when the answer was dropped.
        reason: why it was dropped.
        tokens, seconds: what the search cost; of steps that were shared with other answers, its part.
        tried: positions at which alternatives were continued.
        repairs: per kind of place, alternatives that were continued and how many of them led to a good answer.
    """

    id: Annotated[str, Field(min_length=1)]
    case: Case | None = None
    reason: str = ""
    tokens: int = 0
    seconds: float = 0.0
    tried: tuple[int, ...] = ()
    repairs: Annotated[dict[Reason, tuple[int, int]], Field(default_factory=dict)]
    model: str = ""

    @property
    def clear(self) -> bool:
        """Found, and the target leads by more than one logit."""
        return self.case is not None and (self.case.delta_logit or 0.0) > CLEAR


@dataclass(frozen=True)
class Summary:
    """A search in numbers.

    Attributes:
        searched, kept, clear: answers; cases; cases whose target leads by more than one logit.
        passing: cases whose contrast leads to an answer that passes everything.
        first: cases at position 0: another answer altogether.
        proposed: cases whose contrast the reference model proposed.
        forced: cases whose answer was written elsewhere.
        own_choice: of those, cases whose target is the model's first choice too.
        kinds: kept cases by how they were found.
        repairs: per kind of place, alternatives that were continued and how many led to a good answer.
        reasons: dropped answers by reason.
        tokens, seconds: what it cost.
    """

    searched: int
    kept: int
    clear: int
    passing: int
    first: int
    proposed: int
    forced: int
    own_choice: int
    kinds: dict[str, int]
    repairs: dict[Reason, tuple[int, int]]
    reasons: dict[str, int]
    tokens: int
    seconds: float


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """Count."""
    cases = [each.case for each in outcomes if each.case is not None]
    return Summary(
        searched=len(outcomes),
        kept=len(cases),
        clear=sum(each.clear for each in outcomes),
        passing=sum(bool(case.passes) for case in cases),
        first=sum(case.position == 0 for case in cases),
        proposed=sum(bool(case.proposed_by) for case in cases),
        forced=sum(bool(case.written_by) for case in cases),
        own_choice=sum(bool(case.written_by) and case.target is not None and case.target.rank == 1 for case in cases),
        kinds=dict(Counter(str(case.kind) for case in cases).most_common()),
        repairs=_repairs(outcomes),
        reasons=dict(Counter(each.reason for each in outcomes if each.case is None).most_common()),
        tokens=sum(each.tokens for each in outcomes),
        seconds=sum(each.seconds for each in outcomes),
    )


def _repairs(outcomes: Sequence[Outcome]) -> dict[Reason, tuple[int, int]]:
    made: dict[Reason, tuple[int, int]] = {}
    for outcome in outcomes:
        for kind, (tried, good) in outcome.repairs.items():
            before = made.get(kind, (0, 0))
            made[kind] = (before[0] + tried, before[1] + good)
    return made


def read_outcomes(path: str | Path) -> list[Outcome]:
    """All outcomes of a file.

    Raises:
        CaseError: names line and field.
    """
    return [validated(Outcome, row, f"{path}, line {number}") for number, row in read_objects(Path(path))]


def find_cases(
    loaded: LoadedModel,
    answers: Sequence[Answer],
    path: str | Path,
    *,
    settings: Settings | None = None,
    reference: LoadedModel | None = None,
    tell: Callable[[Pace], None] | None = None,
) -> list[Outcome]:
    """Search the failed ones among ``answers`` that ``path`` does not hold yet; return all outcomes in their order.

    An answer that cannot be searched is recorded with its reason and does not stop the others.

    Args:
        reference: a model with the same tokenizer, which proposes contrast tokens where the model's own choices hold
            none that repairs the answer.

    Raises:
        InputError: the reference model has another tokenizer.
        ExecutionError: answers are judged by running them, and that is not allowed.
        CaseError: answers or outcomes of another model; the file cannot be written.
    """
    failed = [answer for answer in answers if answer.failed]
    if any(each.executes for answer in failed for each in answer.instructions):
        permission()
    asked = None if reference is None else Reference(reference, loaded)
    out = Path(path)
    with Appender(out) as lines:
        there = {outcome.id: outcome for outcome in read_outcomes(out)}
        strangers = ({a.model for a in failed if not a.written_by} | {o.model for o in there.values()}) - {loaded.name}
        if strangers:
            raise CaseError(f"answers of {', '.join(sorted(strangers))} cannot be searched with {loaded.name}")
        clock = Clock(len(failed), sum(answer.id in there for answer in failed), tell)
        todo = [answer for answer in failed if answer.id not in there]
        for outcome in search_all(loaded, todo, settings or Settings(), asked):
            lines.append(to_line(outcome))
            there[outcome.id] = outcome
            clock.add(outcome.tokens)
    return [there[answer.id] for answer in failed]


def search_all(
    loaded: LoadedModel, answers: Sequence[Answer], settings: Settings, reference: Reference | None = None
) -> Iterator[Outcome]:
    """Search failed answers, several at the same time; each outcome as soon as it is known.

    Nothing that is wrong with one answer alone stops the others.
    """
    waiting, running = deque(answers), list[_Running]()
    with Forest(loaded.model, end_ids(loaded.model, loaded.tokenizer), settings.width) as forest:
        while waiting or running:
            while waiting and len(running) < settings.together:
                running.append(_Running(loaded, waiting.popleft(), settings, forest, reference))
            for each in running:
                each.advance()
            yield from (each.outcome for each in running if each.outcome is not None)
            running = [each for each in running if each.outcome is None]
            if running and all(not each.ready for each in running):
                forest.step()


def find_case(loaded: LoadedModel, answer: Answer, settings: Settings, reference: Reference | None = None) -> Outcome:
    """Search one failed answer. Never raises for what is wrong with this answer alone."""
    (outcome,) = search_all(loaded, [answer], settings, reference)
    return outcome


class _Running:
    """One answer that is being searched.

    Attributes:
        outcome: what came of it, once that is known.
    """

    def __init__(
        self, loaded: LoadedModel, answer: Answer, settings: Settings, forest: Forest, reference: Reference | None
    ):
        self.outcome: Outcome | None = None
        self._loaded, self._answer, self._forest = loaded, answer, forest
        self._reference = "" if reference is None else reference.name
        self._growth: Growth | None = None
        try:
            self._answer = tokenized(loaded.tokenizer, answer)
            if not self._answer.ids:
                self._end(reason=NO_MODEL_ANSWER)
                return
            if not all(each.comparable for each in answer.instructions):
                self._end(reason=NOT_COMPARABLE)
                return
            self._search = Search(loaded, self._answer, settings, forest, reference)
            self._steps = self._search.steps()
        except Exception as error:  # one bad answer is not the end of the search
            self._end(reason=f"error: {first_line(error)}")

    @property
    def ready(self) -> bool:
        """Whether its branches are grown."""
        return self._growth is None or self._growth.finished

    def advance(self) -> None:
        """Go on as far as there is nothing to wait for."""
        while self.outcome is None and self.ready:
            try:
                if self._growth is not None and self._growth.error is not None:
                    raise self._growth.error
                self._growth = next(self._steps)
                self._forest.add(self._growth)
            except StopIteration as done:
                self._done(done.value)
            except Exception as error:  # one bad answer is not the end of the search
                self._end(reason=f"error: {first_line(error)}", **self._spent())

    def _done(self, pair: Pair | None) -> None:
        if pair is None:
            self._end(reason=self._search.reason, **self._spent())
        else:
            self._end(case=_case(self._loaded, self._answer, pair, self._reference), **self._spent())

    def _spent(self) -> dict[str, Any]:
        tree = self._search.tree
        return {
            "tokens": tree.tokens,
            "seconds": round(tree.seconds, 3),
            "tried": tuple(self._search.tried),
            "repairs": self._search.repairs(),
        }

    def _end(self, **fields: Any) -> None:
        self.outcome = Outcome(id=self._answer.id, model=self._loaded.name, **fields)


def _case(loaded: LoadedModel, answer: Answer, pair: Pair, reference: str) -> Case:
    """The case as it is stored: exact ids beside the texts."""
    tokenizer, best = loaded.tokenizer, pair.contrast
    said = answer.ids[: pair.position]
    named = [name for name in answer.instruction_ids if not answer.written_by or name in INSTRUCTIONS]
    return Case(
        id=answer.id,
        prompt=answer.prompt,
        messages=answer.messages,
        instruction_ids=answer.instruction_ids,
        parameters=answer.parameters,
        completion=decode(tokenizer, said),
        response=answer.response,
        ids=(*answer.prompt_ids, *said),
        target=_token(tokenizer, pair.target, pair.target_rank, pair.target_logit),
        contrast=_token(tokenizer, best.id, best.rank, best.logit),
        position=pair.position,
        kind=pair.kind,
        passes=best.grade is Grade.PASSES,
        segments=instruction_spans(answer.question, named, answer.last),
        source=answer.id,
        model=loaded.name,
        written_by=answer.written_by,
        proposed_by=reference if best.proposed else "",
    )


def _token(tokenizer: Any, token: int, rank: int, logit: float) -> CaseToken:
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    return CaseToken(id=token, text=text, rank=rank, logit=round(logit, 4))
