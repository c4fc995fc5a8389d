"""Cases from traces of agents: messages in OpenAI's form, the place where one went wrong, and what it should have said.

What the assistant said is one text per message: its content, then a line of JSON in ``<tool_call>`` tags per tool call
(the form of many chat templates), the arguments as they stand in the trace. The error is a place in that text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from lrp_hooks.cases.conversion.parting import Parting, parting, token_pair
from lrp_hooks.cases.jsonl import listed, read_objects
from lrp_hooks.cases.schema import Case, Message, Span, Strict, case_from, to_line, validated
from lrp_hooks.errors import CaseError, InputError

CALL = '<tool_call>\n{{"name": {name}, "arguments": {arguments}}}\n</tool_call>'


class Open(Strict):
    """As `Strict`, but fields that other programs write beside ours are left alone."""

    model_config = ConfigDict(extra="ignore")


class Function(Open):
    """What a tool call asks for; ``arguments`` as JSON text, or as the object itself."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str | dict[str, Any] = "{}"

    @property
    def text(self) -> str:
        """The arguments as they stand in the text of the message."""
        given = self.arguments
        return given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)


class ToolCall(Open):
    """One call of a tool."""

    function: Function
    id: str = ""


class Part(Open):
    """A piece of a message's content; only texts can be explained."""

    type: Literal["text"]
    text: str


class Turn(Open):
    """One message of a trace."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | tuple[Part, ...] | None = None
    tool_calls: tuple[ToolCall, ...] | None = None
    tool_call_id: str = ""

    @model_validator(mode="after")
    def _says_something(self) -> Turn:
        if self.tool_calls and self.role != "assistant":
            raise ValueError(f"only the assistant calls tools, not {self.role!r}")
        if self.content is None and not self.tool_calls:
            raise ValueError("content or tool_calls is needed")
        return self

    @property
    def said(self) -> str:
        """The content as one text."""
        return self.content or "" if not isinstance(self.content, tuple) else "".join(p.text for p in self.content)

    @property
    def text(self) -> str:
        """Content and tool calls as one text."""
        return "\n".join([*([self.said] if self.said else []), *map(_call, self.tool_calls or ())])

    def arguments_at(self, number: int) -> int:
        """Where in `text` the arguments of a tool call begin."""
        before = [*([self.said] if self.said else []), *map(_call, (self.tool_calls or ())[:number])]
        head = CALL.partition("{arguments}")[0].format(name=json.dumps((self.tool_calls or ())[number].function.name))
        return sum(len(text) + 1 for text in before) + len(head)


def _call(call: ToolCall) -> str:
    return CALL.format(name=json.dumps(call.function.name), arguments=call.function.text)


class Error(Strict):
    """Where a trace went wrong.

    Attributes:
        message: index of the assistant's message, from 0.
        tool_call: index of its tool call; the place is then inside the arguments of that call.
        start: first character of the error.
        text: the wrong text; it is looked for where ``start`` is not given, and must then be there once.
    """

    message: Annotated[int, Field(ge=0)]
    tool_call: Annotated[int, Field(ge=0)] | None = None
    start: Annotated[int, Field(ge=0)] | None = None
    text: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _placed(self) -> Error:
        if self.start is None and self.text is None:
            raise ValueError("start or text is needed")
        return self


class Trace(Open):
    """One failure of an agent.

    Attributes:
        expected: what should have stood in the place of the error.
    """

    messages: Annotated[tuple[Turn, ...], Field(min_length=2)]
    error: Error
    expected: Annotated[str, Field(min_length=1)]
    id: str | int = ""
    source: str = ""
    model: str = ""
    revision: str | None = None


def from_traces(path: str | Path, tokenizer: Any = None) -> list[Case]:
    """A file of traces: JSON lines, or one JSON document that is a trace or a list of them.

    Args:
        tokenizer: finds the first token at which what was said and what was expected part: target and contrast are
            then single tokens with ids, and ``completion`` and ``ids`` end before them. Without it their texts are
            taken as they stand, from the first character that differs on; a model with which they are no single
            tokens refuses them.

    Raises:
        CaseError: names each problem with its place and field.
    """
    cases, wrong, seen = [], list[str](), dict[str, str]()
    for where, row in _rows(Path(path)):
        try:
            case = _case(row, where, f"trace-{len(seen) + 1}", Path(path).name, tokenizer)
            if case.id in seen:
                raise CaseError(f"{where}: id: {case.id!r} is already that of {seen[case.id]}")
        except CaseError as error:
            wrong += str(error).splitlines()
            continue
        seen[case.id] = where.rpartition(", ")[2]
        cases.append(case)
    if wrong:
        raise CaseError(listed(wrong))
    return cases


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects and where they are: lines, or items of one document."""
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        yield from ((f"{path}, line {number}", row) for number, row in read_objects(path))
        return
    except (OSError, UnicodeDecodeError) as error:
        raise CaseError(f"cannot read {path}: {error}") from error
    for number, row in enumerate(document if isinstance(document, list) else [document]):
        alone = f"{path}, line 1" if "\n" not in text.strip() else f"{path}"
        where = f"{path}, item {number}" if isinstance(document, list) else alone
        if not isinstance(row, dict):
            raise CaseError(f"{where}: an object is expected, not {type(row).__name__}")
        yield where, row


def _case(row: dict[str, Any], where: str, name: str, source: str, tokenizer: Any) -> Case:
    trace = validated(Trace, row, where)
    said, start = _place(trace, where)
    wrong = said[start:]
    if trace.error.text is not None and wrong[: len(trace.error.text)] != trace.error.text:
        raise CaseError(f"{where}: error.text: {trace.error.text!r} does not stand at {trace.error.start}")
    before = trace.messages[: trace.error.message]
    fields: dict[str, Any] = {
        "id": str(trace.id) or name,
        "messages": [to_line(Message(role=turn.role, content=turn.text)) for turn in before],
        "response": said,
        "segments": [to_line(span) for span in _spans(before)],
        "kind": "given",
        "source": trace.source or source,
        "model": trace.model,
        "revision": trace.revision,
    }
    try:
        parted = parting(said[:start], wrong, trace.expected)
        found = _as_they_stand(parted, said, start, trace.error.text) if tokenizer is None else None
        found = found or token_pair(tokenizer, fields["messages"], parted)
    except InputError as error:
        raise CaseError(f"{where}: expected: {error}") from error
    return case_from({**fields, **found}, where)


def _as_they_stand(parted: Parting, said: str, start: int, text: str | None) -> dict[str, Any]:
    """Target and contrast by their texts, which a model's tokenizer has to take for one token each."""
    if text is None:
        raise InputError("without a tokenizer error.text is needed, to tell where the error ends. do: give --tokenizer")
    target = said[len(parted.before) : start + len(text)]
    if not target:
        raise InputError(
            f"{parted.before[start:] + parted.expected!r} differs only behind error.text. do: give more of it"
        )
    return {"completion": parted.before, "target": {"text": target}, "contrast": {"text": parted.expected}}


def _place(trace: Trace, where: str) -> tuple[str, int]:
    """The text of the message that went wrong, and the first wrong character in it."""
    error = trace.error
    if error.message >= len(trace.messages):
        raise CaseError(f"{where}: error.message: {error.message} is none of {len(trace.messages)} messages")
    turn = trace.messages[error.message]
    if turn.role != "assistant" or error.message == 0:
        raise CaseError(f"{where}: error.message: message {error.message} is no answer ({turn.role!r})")
    said, offset = turn.text, 0
    if error.tool_call is not None:
        calls = turn.tool_calls or ()
        if error.tool_call >= len(calls):
            raise CaseError(f"{where}: error.tool_call: {error.tool_call} is none of {len(calls)} calls")
        offset, inside = turn.arguments_at(error.tool_call), calls[error.tool_call].function.text
    else:
        inside = said
    return said, offset + _start(error, inside, where)


def _start(error: Error, inside: str, where: str) -> int:
    if error.start is not None:
        if error.start >= len(inside):
            raise CaseError(f"{where}: error.start: {error.start} is outside the text of {len(inside)} characters")
        return error.start
    count = inside.count(error.text or "")
    if count != 1:
        raise CaseError(f"{where}: error.text: {error.text!r} is there {count} times. do: give error.start")
    return inside.index(error.text or "")


def _spans(turns: Sequence[Turn]) -> Iterator[Span]:
    """One per message, named by its role; also by its number where the role comes again, and by the tool called."""
    roles = Counter(turn.role for turn in turns)
    tools = {call.id: call.function.name for turn in turns for call in turn.tool_calls or ()}
    for index, turn in enumerate(turns):
        if turn.text:
            name = turn.role if roles[turn.role] == 1 else f"{turn.role} {index}"
            tool = tools.get(turn.tool_call_id) if turn.role == "tool" else None
            yield Span(name=f"{name} ({tool})" if tool else name, start=0, stop=len(turn.text), message=index)
