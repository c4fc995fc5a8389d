"""Cases: one failure each, as lines of JSON that people can write by hand and every problem of which is named.

A line needs ``id`` and one of ``prompt`` (plain text) or ``messages`` (a chat). Everything else may be missing: a case
without target and contrast is one whose error token is still to be found.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from lrp_hooks.cases.jsonl import read_all
from lrp_hooks.cases.verify import Instruction, instruction
from lrp_hooks.errors import CaseError
from lrp_hooks.files import write_atomically


class Strict(BaseModel):
    """Unknown fields and wrong types are errors; made once, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Message(Strict):
    """One turn of a chat."""

    role: Annotated[str, Field(min_length=1)]
    content: str


class CaseToken(Strict):
    """A token of the model's vocabulary.

    Attributes:
        id: vocabulary id; None where only the text is known.
        text: what it decodes to.
        rank: place among the model's choices at that position, from 1.
        logit: the model's, at that position.
    """

    id: Annotated[int, Field(ge=0)] | None = None
    text: str | None = None
    rank: Annotated[int, Field(ge=1)] | None = None
    logit: float | None = None

    @model_validator(mode="after")
    def _named(self) -> CaseToken:
        if self.id is None and self.text is None:
            raise ValueError("a token needs an id or a text")
        return self


class Span(Strict):
    """Characters ``start`` .. ``stop - 1`` of the prompt, or of one of the messages, under a name."""

    name: Annotated[str, Field(min_length=1)]
    start: Annotated[int, Field(ge=0)]
    stop: int
    message: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> Span:
        if self.stop <= self.start:
            raise ValueError(f"the span {self.start}:{self.stop} holds no character")
        return self


class Prompted(Strict):
    """What a model was given.

    Attributes:
        id: unique in its file.
        prompt, messages: a text as it stands, or a chat, which goes through the chat template; exactly one of the two.
    """

    id: Annotated[str, Field(min_length=1)]
    prompt: str | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _asks_something(self) -> Prompted:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("exactly one of prompt and messages is needed")
        if self.prompt is not None and not self.prompt.strip():
            raise ValueError("the prompt is empty")
        return self

    @property
    def question(self) -> str:
        """The prompt, or the last message."""
        return (self.prompt or "") if self.messages is None else self.messages[-1].content

    @property
    def last(self) -> int | None:
        """Index of the last message, None for a plain prompt."""
        return None if self.messages is None else len(self.messages) - 1

    @property
    def given(self) -> str | list[dict[str, str]]:
        """As `encode_prompt` takes it."""
        return self.question if self.messages is None else [message.model_dump() for message in self.messages]


class Judged(Prompted):
    """A prompt with what an answer must do.

    Attributes:
        instruction_ids, parameters: the instructions by name, and the parameters of each.
    """

    instruction_ids: tuple[str, ...] = ()
    parameters: tuple[dict[str, JsonValue], ...] = ()

    @model_validator(mode="after")
    def _can_be_judged(self) -> Judged:
        if len(self.instruction_ids) != len(self.parameters):
            raise ValueError("as many parameters as instruction_ids are needed")
        try:
            _ = self.instructions
        except CaseError as error:
            raise ValueError(str(error)) from error
        return self

    @property
    def instructions(self) -> tuple[Instruction, ...]:
        """The verifiers."""
        return verifiers(self.instruction_ids, self.parameters)


def verifiers(ids: Sequence[str], parameters: Sequence[Mapping[str, Any]]) -> tuple[Instruction, ...]:
    """The verifiers of instructions by name.

    Raises:
        CaseError: an unknown name, parameters that do not fit.
    """
    return tuple(instruction(name, kw) for name, kw in zip(ids, parameters, strict=True))


class Case(Judged):
    """One failure.

    Attributes:
        completion: what it had said before the error token.
        response: all that it said.
        ids: token ids of prompt and completion, where tokenizing the texts again might give others.
        target: the token that it chose.
        contrast: the token that would have been right.
        position: place of the error token in the response, in tokens; 0 is another answer altogether.
        kind: how the pair was found.
        passes: whether the answer that follows from the contrast passes everything, not only what it repairs.
        segments: named parts of the prompt.
        source: where the prompt comes from, such as "ifeval:1000".
        model, revision: who made the error.
        written_by: who wrote the answer, where that was not ``model``: ranks and logits are then those of a model that
            was made to say it (teacher forcing).
        proposed_by: the model that proposed the contrast, where it was not among the failing one's best choices.
    """

    completion: str = ""
    response: str | None = None
    ids: tuple[Annotated[int, Field(ge=0)], ...] | None = None
    target: CaseToken | None = None
    contrast: CaseToken | None = None
    position: Annotated[int, Field(ge=0)] | None = None
    kind: (
        Literal["one-way", "before-one-way", "stop", "marker", "end", "before-end", "success-drop", "first", "given"]
        | None
    ) = None
    passes: bool | None = None
    segments: tuple[Span, ...] = ()
    source: str = ""
    model: str = ""
    revision: str | None = None
    proposed_by: str = ""
    written_by: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Case:
        if self.target is not None and self.target == self.contrast:
            raise ValueError("target and contrast are the same token")
        for span in self.segments:
            self._check(span)
        return self

    def _check(self, span: Span) -> None:
        if self.messages is None and span.message is not None:
            raise ValueError(f"segment {span.name!r}: there are no messages")
        if self.messages is not None and not 0 <= (-1 if span.message is None else span.message) < len(self.messages):
            raise ValueError(f"segment {span.name!r}: message {span.message} is none of {len(self.messages)}")
        text = self.prompt if self.messages is None else self.messages[span.message or 0].content
        if span.stop > len(text or ""):
            raise ValueError(f"segment {span.name!r} ends at {span.stop}, its text has {len(text or '')} characters")

    @property
    def delta_logit(self) -> float | None:
        """logit(target) - logit(contrast), where both are known."""
        if self.target is None or self.contrast is None or self.target.logit is None or self.contrast.logit is None:
            return None
        return self.target.logit - self.contrast.logit


Kind = TypeVar("Kind", bound=Strict)


def case_from(row: dict[str, Any], where: str) -> Case:
    """A case from a JSON object.

    Raises:
        CaseError: one line per problem: where, which field, what.
    """
    return validated(Case, row, where)


def validated(kind: type[Kind], row: dict[str, Any], where: str) -> Kind:
    """A JSON object as a record of ``kind``; strict, but lists may stand for tuples as JSON has no tuples."""
    try:
        return kind.model_validate_json(json.dumps(row))
    except ValidationError as error:
        raise CaseError("\n".join(problems(error, where))) from error


def problems(error: ValidationError, where: str) -> list[str]:
    """Each problem in one line: where, the field's path, what is wrong."""
    found = []
    for each in error.errors(include_url=False):
        field = ".".join(str(part) for part in each["loc"])
        words = each["msg"].removeprefix("Value error, ")
        found.append(f"{where}: {field + ': ' if field else ''}{words}")
    return found


def read_cases(path: str | Path) -> list[Case]:
    """All cases of a file.

    Raises:
        CaseError: names every problem (the first 20) with line and field; two cases with one id are a problem.
    """
    return read_all(Path(path), lambda row, where, _: case_from(row, where), lambda case: case.id)


def to_line(record: Strict) -> dict[str, Any]:
    """A record as a JSON object without the fields that say nothing."""
    fields: dict[str, Any] = record.model_dump(mode="json", exclude_defaults=True)
    return fields


def write_cases(path: str | Path, cases: Iterable[Case]) -> None:
    """Write all cases at once; the file is complete or as it was before.

    Raises:
        CaseError: two cases with one id.
    """
    many: Sequence[Case] = list(cases)
    seen: set[str] = set()
    for case in many:
        if case.id in seen:
            raise CaseError(f"two cases have the id {case.id!r}")
        seen.add(case.id)
    write_records(path, many)


def write_records(path: str | Path, records: Iterable[Strict]) -> None:
    """Write a line of JSON for each; the file is complete or as it was before."""
    lines = [json.dumps(to_line(record), ensure_ascii=False) + "\n" for record in records]
    write_atomically(Path(path), lambda file: file.writelines(line.encode(errors="surrogatepass") for line in lines))
