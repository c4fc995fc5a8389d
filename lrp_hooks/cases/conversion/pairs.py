"""Pairs of prompt and completion, as cases or, where they say what a right answer is, as answers to be searched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import field_validator

from lrp_hooks.cases.answers.run import Answer, judged
from lrp_hooks.cases.benchmarks.own import Expected, named
from lrp_hooks.cases.jsonl import read_all
from lrp_hooks.cases.schema import Case, Prompted, case_from, validated
from lrp_hooks.cases.search.forcing import tokenized
from lrp_hooks.errors import CaseError, LrpError, first_line


class Pair(Prompted):
    """One line.

    Attributes:
        completion: all that was answered.
        expected: what a right answer is.
        model: who answered.
        ended: whether the answer ended by itself; None where that is not known.
    """

    completion: str
    expected: Expected | None = None
    model: str = ""
    ended: bool | None = None

    @field_validator("completion")
    @classmethod
    def _holds_something(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("a text that is not empty is needed")
        return value

    @property
    def asked(self) -> dict[str, Any]:
        """Fields that a case and an answer share."""
        verifiers = {} if self.expected is None else self.expected.verifiers
        fields = self.model_dump(mode="json", include={"id", "prompt", "messages"}, exclude_none=True)
        return {
            **fields,
            "response": self.completion,
            "instruction_ids": list(verifiers),
            "parameters": list(verifiers.values()),
        }


def from_pairs(path: str | Path) -> list[Case]:
    """Lines ``{"prompt" or "messages", "completion"}``, with an optional ``id``, ``expected``, ``model`` and ``ended``.

    Raises:
        CaseError: every problem, with line and field.
    """

    def make(row: dict[str, Any], where: str, line: int) -> Case:
        pair = _pair(row, where, line)
        return case_from({**pair.asked, "source": Path(path).name, "model": pair.model}, where)

    return read_all(Path(path), make, lambda case: case.id)


def answers_from_pairs(path: str | Path, *, max_new_tokens: int, tokenizer: Any = None) -> list[Answer]:
    """The same lines as answers, judged by their ``expected``, which all of them need.

    Args:
        max_new_tokens: the longest continuation that a search may make of one, in tokens.
        tokenizer: cuts prompt and completion into tokens now; without it that is done when they are searched.

    Raises:
        CaseError: every problem, with line and field.
    """

    def make(row: dict[str, Any], where: str, line: int) -> Answer:
        pair = _pair(row, where, line)
        if pair.expected is None:
            raise CaseError(f"{where}: expected: missing: nothing says what a right answer is. do: add it")
        fields = {"ended": pair.ended, "written_by": pair.model or Path(path).name, "max_new_tokens": max_new_tokens}
        return answer_from({**pair.asked, **fields}, where, tokenizer)

    return read_all(Path(path), make, lambda answer: answer.id)


def answer_from(fields: dict[str, Any], where: str, tokenizer: Any) -> Answer:
    """An answer that was written elsewhere, judged and, with a tokenizer, cut into tokens.

    Raises:
        CaseError: names where and the field.
    """
    plain = validated(Answer, fields, where)
    answer = plain.model_copy(update=judged(plain.instructions, plain.response))
    try:
        return answer if tokenizer is None else tokenized(tokenizer, answer)
    except LrpError as error:
        raise CaseError(f"{where}: {first_line(error)}") from error


def _pair(row: dict[str, Any], where: str, line: int) -> Pair:
    return validated(Pair, named(row, f"line-{line}"), where)
