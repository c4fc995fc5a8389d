"""Run a benchmark: completions and verdicts, one line each, resumable."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from lrp_hooks.cases.answers.generate import Completion, check_length, encode_prompt, generate
from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.jsonl import Appender, read_objects
from lrp_hooks.cases.sandbox import permission
from lrp_hooks.cases.schema import Judged, to_line, validated
from lrp_hooks.cases.verify import Instruction, verify, verify_loosely
from lrp_hooks.errors import CaseError, LrpError, first_line
from lrp_hooks.loading.loaded import LoadedModel


class Answer(Judged):
    """What was answered to one prompt, and how it was judged.

    Attributes:
        prompt_ids, ids: tokens of the prompt, markers included, and of the answer; may be missing where it was written
            elsewhere, until it is searched.
        ended: whether the answer ended by itself, not at the limit; None where that is not known.
        max_new_tokens: the limit.
        followed: the strict verdict on each instruction.
        loosely: whether it passes by the loose rules.
        error: why there is no verdict, or no answer.
        model: the model that generated it.
        written_by: who else wrote it, where no model generated it here; the model that is searched is made to say it
            (teacher forcing).
    """

    prompt_ids: tuple[int, ...] = ()
    ids: tuple[int, ...] = ()
    response: str = ""
    ended: bool | None = False
    max_new_tokens: Annotated[int, Field(ge=1)]
    followed: tuple[bool, ...] = ()
    loosely: bool | None = None
    error: str | None = None
    model: str = ""
    written_by: str = ""

    @property
    def passed(self) -> bool:
        return self.error is None and all(self.followed)

    @property
    def failed(self) -> bool:
        return self.error is None and not all(self.followed)


def judged(instructions: Sequence[Instruction], response: str) -> dict[str, Any]:
    """The fields of an answer that hold the verdict, or say why there is none.

    A verifier that raises is one bad case, not the end of a run.
    """
    try:
        verdict = verify(instructions, response)
        loosely = verdict.passed or verify_loosely(instructions, response).passed
    except Exception as error:
        return {"error": f"verifier: {first_line(error)}"}
    return {"followed": verdict.followed, "loosely": loosely}


@dataclass(frozen=True)
class Pace:
    """How far a run has come.

    Attributes:
        done, total: items.
        tokens: made so far, by this run.
        seconds: since it began.
        left: seconds that the rest will take at this pace; None before the first.
    """

    done: int
    total: int
    tokens: int
    seconds: float
    left: float | None


class Clock:
    """Counts what this run does, not what an earlier one has left."""

    def __init__(self, total: int, already: int, tell: Callable[[Pace], None] | None):
        self._total, self._already, self._tell = total, already, tell
        self._began, self._done, self._tokens = time.monotonic(), 0, 0

    def add(self, tokens: int) -> None:
        """One more is done."""
        self._done += 1
        self._tokens += tokens
        if self._tell is not None:
            spent = time.monotonic() - self._began
            rest = self._total - self._already - self._done
            self._tell(Pace(self._already + self._done, self._total, self._tokens, spent, spent / self._done * rest))


def read_answers(path: str | Path) -> list[Answer]:
    """All answers of a file.

    Raises:
        CaseError: names line and field.
    """
    return [validated(Answer, row, f"{path}, line {number}") for number, row in read_objects(Path(path))]


def run_benchmark(
    loaded: LoadedModel,
    prompts: Sequence[Problem],
    path: str | Path,
    *,
    batch_size: int = 8,
    max_new_tokens: int = 160,
    tell: Callable[[Pace], None] | None = None,
) -> list[Answer]:
    """Answer and judge the prompts that ``path`` does not hold yet; return all answers, in the prompts' order.

    Each answer is written when it is finished, at once and once. A prompt that cannot be answered is recorded with its
    error and does not stop the others.

    Raises:
        ExecutionError: answers are judged by running them, and that is not allowed; before the first is made.
        CaseError: the file holds answers of another model or another limit, or cannot be written; two prompts with one
            key.
    """
    out = Path(path)
    wanted = {prompt.id: prompt for prompt in prompts}
    if any(prompt.executes for prompt in prompts):
        permission()
    if len(wanted) < len(prompts):
        raise CaseError("two prompts have the same key")
    with Appender(out) as lines:
        there = {answer.id: answer for answer in read_answers(out)}
        _same_run(there, loaded.name, max_new_tokens, out)
        clock = Clock(len(wanted), len(wanted.keys() & there.keys()), tell)
        make = _Maker(loaded, max_new_tokens)
        for answer in make.answers([p for key, p in wanted.items() if key not in there], batch_size):
            lines.append(to_line(answer))
            there[answer.id] = answer
            clock.add(len(answer.ids))
    return [there[key] for key in wanted]


def _same_run(there: dict[str, Answer], model: str, limit: int, path: Path) -> None:
    for answer in there.values():
        if (answer.model, answer.max_new_tokens) != (model, limit):
            raise CaseError(
                f"{path} holds answers of {answer.model} with at most {answer.max_new_tokens} tokens, "
                f"not of {model} with {limit}. do: choose another file"
            )


class _Maker:
    """Answers of one model."""

    def __init__(self, loaded: LoadedModel, max_new_tokens: int):
        self._loaded, self._limit = loaded, max_new_tokens

    def answers(self, prompts: Sequence[Problem], batch_size: int) -> Iterator[Answer]:
        """Answers as they are finished; prompts of like length share a batch."""
        fitting: list[tuple[list[int], Problem]] = []
        for prompt in prompts:
            try:
                ids = encode_prompt(self._loaded.tokenizer, self._answer(prompt).given)
                check_length(self._loaded.model, len(ids), self._limit)
                fitting.append((ids, prompt))
            except LrpError as error:
                yield self._answer(prompt, error=first_line(error))
        fitting.sort(key=lambda pair: len(pair[0]))
        for first in range(0, len(fitting), batch_size):
            group = fitting[first : first + batch_size]
            many = [pair[0] for pair in group]
            made = generate(self._loaded.model, self._loaded.tokenizer, many, max_new_tokens=self._limit)
            for row, completion in made:
                yield self._judged(group[row][1], completion)

    def _judged(self, prompt: Problem, completion: Completion) -> Answer:
        fields: dict[str, Any] = {
            "prompt_ids": completion.prompt_ids,
            "ids": completion.ids,
            "response": completion.text,
            "ended": completion.ended,
        }
        return self._answer(prompt, **fields, **judged(prompt.instructions, completion.text))

    def _answer(self, prompt: Problem, **fields: Any) -> Answer:
        return Answer(
            id=prompt.id,
            prompt=prompt.prompt if prompt.plain else None,
            messages=prompt.chat,
            instruction_ids=prompt.instruction_ids,
            parameters=tuple(dict(each) for each in prompt.parameters),
            max_new_tokens=self._limit,
            model=self._loaded.name,
            **fields,
        )
