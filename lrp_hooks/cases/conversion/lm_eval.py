"""Sample logs of lm-eval (``samples_<task>_<time>.jsonl``, from ``--log_samples``), as cases or as answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lrp_hooks.cases.answers.run import Answer
from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.registry import benchmark_for
from lrp_hooks.cases.benchmarks.source import Row
from lrp_hooks.cases.conversion.pairs import answer_from
from lrp_hooks.cases.jsonl import read_all
from lrp_hooks.cases.sandbox import permission
from lrp_hooks.cases.schema import Case, case_from
from lrp_hooks.errors import CaseError

METRICS = ("prompt_level_strict_acc", "exact_match", "acc", "pass@1")
Made = TypeVar("Made")


@dataclass(frozen=True)
class Log:
    """A file and how it is read.

    Attributes:
        path: the file.
        metric: the field that tells whether a document passed; without it the first of `METRICS` that is there.
        filter: whose verdicts count, where lm-eval has put the responses through several filters and written a line for
            each; without it those of the first line's.
    """

    path: Path
    metric: str | None = None
    filter: str | None = None

    def read(self, make: Callable[[dict[str, Any], str], Made | None], key: Callable[[Made], str]) -> list[Made]:
        """What ``make`` makes of each document and where it stands.

        Raises:
            CaseError: every problem, with its line; a filter that no line has.
        """
        seen: dict[str | None, None] = {}

        def of_the_filter(row: dict[str, Any], where: str, _: int) -> Made | None:
            seen[row.get("filter")] = None
            return make(row, where) if row.get("filter") == (self.filter or next(iter(seen))) else None

        found = read_all(self.path, of_the_filter, key)
        if self.filter and self.filter not in seen:
            names = ", ".join(str(name) for name in seen if name is not None)
            raise CaseError(f"{self.path}: filter: no line has {self.filter!r}. there are: {names or 'none'}")
        return found

    def passed(self, row: dict[str, Any], where: str) -> bool:
        """The log's own verdict on a document.

        Raises:
            CaseError: the metric is not there, or is no verdict.
        """
        name = self.metric or next((name for name in METRICS if name in row), METRICS[0])
        value = _field(row, name, where)
        if not isinstance(value, (bool, int, float)):
            raise CaseError(f"{where}: {name}: a number or true/false is expected, not {value!r}")
        return float(value) >= 1.0

    def judges(self, row: dict[str, Any]) -> bool:
        """Whether a verdict of the log's own is there, or is asked for by name."""
        return self.metric is not None or any(name in row for name in METRICS)


def from_lm_eval(log: Log) -> list[Case]:
    """One case per document that failed.

    Raises:
        CaseError: every problem, with line and field.
    """

    def make(row: dict[str, Any], where: str) -> Case | None:
        if log.passed(row, where):
            return None
        made = {"id": f"doc-{_field(row, 'doc_id', where)}", "source": log.path.stem}
        return case_from({**made, **_prompt(row, where), "response": _response(row, where)}, where)

    return log.read(make, lambda case: case.id)


def answers_from_lm_eval(
    log: Log, *, benchmark: str | None = None, max_new_tokens: int, tokenizer: Any = None
) -> tuple[list[Answer], int]:
    """Every document as an answer, judged by the benchmark that its ``doc`` comes from.

    Args:
        benchmark: its name; without it the one whose documents have such fields.
        max_new_tokens, tokenizer: see `answers_from_pairs`.

    Returns:
        The answers, and how many of them the log judges otherwise.

    Raises:
        CaseError: every problem, with line and field; a document that no benchmark's verifier knows.
        ExecutionError: answers are judged by running them, and that is not allowed.
    """
    otherwise: list[str] = []

    def make(row: dict[str, Any], where: str) -> Answer:
        problem = _problem(row, benchmark, where)
        if problem.executes:
            permission()
        fields = {
            "id": problem.id,
            **_prompt(row, where),
            "response": _response(row, where),
            "ended": None,
            "max_new_tokens": max_new_tokens,
            "instruction_ids": list(problem.instruction_ids),
            "parameters": [dict(each) for each in problem.parameters],
            "written_by": log.path.stem,
        }
        answer = answer_from(fields, where, tokenizer)
        if log.judges(row) and answer.error is None and log.passed(row, where) != answer.passed:
            otherwise.append(answer.id)
        return answer

    return log.read(make, lambda answer: answer.id), len(otherwise)


def _problem(row: dict[str, Any], benchmark: str | None, where: str) -> Problem:
    doc = _field(row, "doc", where)
    if not isinstance(doc, dict):
        raise CaseError(f"{where}: doc: an object is expected, not {type(doc).__name__}")
    return benchmark_for(doc, benchmark, where).problem(Row(doc, f"{where}: doc", _field(row, "doc_id", where)))


def _field(row: dict[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise CaseError(f"{where}: {name}: missing. there are: {', '.join(row)}")
    return row[name]


def _response(row: dict[str, Any], where: str) -> str:
    """The first response of the first request."""
    value = _field(row, "resps", where)
    while isinstance(value, list) and value:
        value = value[0]
    if not isinstance(value, str):
        raise CaseError(f"{where}: resps: no text; only generation tasks have responses")
    return value


def _prompt(row: dict[str, Any], where: str) -> dict[str, Any]:
    """What the model was given: a text, or chat messages written as JSON."""
    value = _field(row, "arguments", where)
    while isinstance(value, (list, dict)) and value:  # {"gen_args_0": {"arg_0": …}}, formerly [[…, {…}]]
        value = value[0] if isinstance(value, list) else next(iter(value.values()))
    if not isinstance(value, str):
        raise CaseError(f"{where}: arguments: no text")
    try:
        messages = json.loads(value)
    except ValueError:
        messages = None
    chat = isinstance(messages, list) and messages and all(isinstance(m, dict) and "role" in m for m in messages)
    return (
        {"messages": [{"role": m["role"], "content": m.get("content")} for m in messages]}
        if chat
        else {"prompt": value}
    )
