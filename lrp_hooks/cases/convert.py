"""Cases from other formats: plain pairs of prompt and completion, lm-eval's sample logs, traces of agents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lrp_hooks.cases.jsonl import read_objects
from lrp_hooks.cases.schema import Case, case_from
from lrp_hooks.cases.traces import from_traces
from lrp_hooks.errors import CaseError, InputError

FORMATS = ("lm-eval", "pairs", "trace")


def convert(path: str | Path, form: str, *, metric: str | None = None, tokenizer: Any = None) -> list[Case]:
    """The cases of a file in one of `FORMATS`.

    Args:
        metric: for lm-eval, see `from_lm_eval`.
        tokenizer: for traces, see `from_traces`.

    Raises:
        InputError: an unknown format, or an option that it has no use for.
        CaseError: names each problem with its line and field.
    """
    if form not in FORMATS:
        raise InputError(f"unknown format {form!r}. choices: {', '.join(FORMATS)}")
    if metric is not None and form != "lm-eval":
        raise InputError("a metric belongs to lm-eval's logs alone")
    if tokenizer is not None and form != "trace":
        raise InputError("a tokenizer is of use for traces alone: the other formats hold no error token")
    if form == "trace":
        return from_traces(path, tokenizer)
    return from_pairs(path) if form == "pairs" else from_lm_eval(path, metric=metric)


def from_pairs(path: str | Path) -> list[Case]:
    """Lines ``{"prompt": …, "completion": …}``, with an optional ``id``; the completion is the whole response.

    Raises:
        CaseError: names line and field.
    """
    cases = []
    for number, row in read_objects(Path(path)):
        where = f"{path}, line {number}"
        unknown = sorted(row.keys() - {"id", "prompt", "completion"})
        if unknown:
            raise CaseError(f"{where}: {unknown[0]}: unknown field. choices: id, prompt, completion")
        if not isinstance(row.get("completion"), str) or not row["completion"].strip():
            raise CaseError(f"{where}: completion: a text that is not empty is needed")
        made = {"id": str(row.get("id", f"line-{number}")), "prompt": row.get("prompt"), "response": row["completion"]}
        cases.append(case_from({**made, "source": Path(path).name}, where))
    return _distinct(cases, path)


def from_lm_eval(path: str | Path, *, metric: str | None = None) -> list[Case]:
    """A sample log of lm-eval (``samples_<task>_<time>.jsonl``, from ``--log_samples``), one case per failed document.

    Args:
        metric: the field that tells whether a document passed; without it the first of ``prompt_level_strict_acc``,
            ``exact_match``, ``acc``, ``pass@1`` that is there.

    Raises:
        CaseError: names line and field.
    """
    cases = []
    for number, row in read_objects(Path(path)):
        where = f"{path}, line {number}"
        if _passed(row, metric, where):
            continue
        made = {
            "id": f"doc-{_field(row, 'doc_id', where)}",
            "response": _response(row, where),
            "source": Path(path).stem,
        }
        cases.append(case_from({**made, **_prompt(row, where)}, where))
    return _distinct(cases, path)


METRICS = ("prompt_level_strict_acc", "exact_match", "acc", "pass@1")


def _passed(row: dict[str, Any], metric: str | None, where: str) -> bool:
    name = metric or next((name for name in METRICS if name in row), METRICS[0])
    value = _field(row, name, where)
    if not isinstance(value, (bool, int, float)):
        raise CaseError(f"{where}: {name}: a number or true/false is expected, not {value!r}")
    return float(value) >= 1.0


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


def _distinct(cases: list[Case], path: str | Path) -> list[Case]:
    seen: set[str] = set()
    for case in cases:
        if case.id in seen:
            raise CaseError(f"{path}: two lines have the id {case.id!r}")
        seen.add(case.id)
    return cases
