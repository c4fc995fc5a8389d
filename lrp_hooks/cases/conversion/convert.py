"""Failures that other programs have recorded: pairs of prompt and completion, lm-eval's sample logs, traces of agents.

A trace holds its error token and is a case. The others hold none: as answers they can be searched for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrp_hooks.cases.answers.run import Answer
from lrp_hooks.cases.conversion.lm_eval import Log, answers_from_lm_eval, from_lm_eval
from lrp_hooks.cases.conversion.pairs import answers_from_pairs, from_pairs
from lrp_hooks.cases.conversion.traces import from_traces
from lrp_hooks.cases.schema import Case
from lrp_hooks.errors import InputError

FORMATS = ("lm-eval", "pairs", "trace")


def convert(
    path: str | Path, form: str, *, metric: str | None = None, filter: str | None = None, tokenizer: Any = None
) -> list[Case]:
    """The cases of a file in one of `FORMATS`.

    Args:
        metric, filter: for lm-eval, see `Log`.
        tokenizer: for traces, see `from_traces`.

    Raises:
        InputError: an unknown format, or an option that it has no use for.
        CaseError: names each problem with its line and field.
    """
    _check(form, metric=metric, filter=filter)
    if tokenizer is not None and form != "trace":
        raise InputError("only cases from traces have a use for a tokenizer. do: leave it out, or --to answers")
    if form == "trace":
        return from_traces(path, tokenizer)
    return from_pairs(path) if form == "pairs" else from_lm_eval(Log(Path(path), metric, filter))


def convert_answers(
    path: str | Path,
    form: str,
    *,
    metric: str | None = None,
    filter: str | None = None,
    benchmark: str | None = None,
    max_new_tokens: int = 160,
    tokenizer: Any = None,
) -> tuple[list[Answer], int]:
    """The answers of a file, judged, for `find_cases` to go on from; and how many of them lm-eval judges otherwise.

    Args:
        metric, filter: for lm-eval, see `Log`.
        benchmark: for lm-eval, whose verifier judges; without it the one that knows the documents.
        max_new_tokens: the longest continuation that the search may make of an answer, in tokens.
        tokenizer: cuts prompts and answers into tokens now; without it the searched model's does.

    Raises:
        InputError: an unknown format or benchmark, or an option that the format has no use for.
        CaseError: names each problem with its line and field.
        ExecutionError: answers are judged by running them, and that is not allowed.
    """
    _check(form, metric=metric, filter=filter, benchmark=benchmark)
    if form == "trace":
        raise InputError("a trace holds its error token: it is a case already. do: --to cases")
    if form == "pairs":
        return answers_from_pairs(path, max_new_tokens=max_new_tokens, tokenizer=tokenizer), 0
    log = Log(Path(path), metric, filter)
    return answers_from_lm_eval(log, benchmark=benchmark, max_new_tokens=max_new_tokens, tokenizer=tokenizer)


def _check(form: str, **of_lm_eval: str | None) -> None:
    if form not in FORMATS:
        raise InputError(f"unknown format {form!r}. choices: {', '.join(FORMATS)}")
    given = [name for name, value in of_lm_eval.items() if value is not None]
    if given and form != "lm-eval":
        raise InputError(f"a {given[0]} belongs to lm-eval's logs alone")
