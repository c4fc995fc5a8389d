"""Benchmarks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lrp_hooks.cases.benchmarks.competition_math import math_problems
from lrp_hooks.cases.benchmarks.gsm8k import gsm8k_problems
from lrp_hooks.cases.benchmarks.humaneval import evalplus_problems, humaneval_problems
from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.ifeval import ifeval_prompts
from lrp_hooks.errors import InputError

BENCHMARKS: Mapping[str, Callable[[str | Path | None], Sequence[Problem]]] = {
    "ifeval": lambda path: ifeval_prompts(path=path),
    "gsm8k": gsm8k_problems,
    "math": math_problems,
    "humaneval": humaneval_problems,
    "evalplus": evalplus_problems,
}


def problems(
    benchmark: str, *, path: str | Path | None = None, instruction: str | None = None, limit: int | None = None
) -> list[Problem]:
    """The problems of a benchmark, in its order.

    Args:
        path: a local file in the published format; without it the file of a package, downloaded once and cached.
        instruction: only IFEval's prompts that hold it.
        limit: at most so many.

    Raises:
        InputError: an unknown benchmark, one without a package and no file, an instruction without IFEval.
        CaseError: a local file with errors (names line and field).
        ModelLoadError: the package cannot be reached.
    """
    if benchmark not in BENCHMARKS:
        raise InputError(f"unknown benchmark {benchmark!r}. choices: {', '.join(BENCHMARKS)}")
    if instruction is not None and benchmark != "ifeval":
        raise InputError("only IFEval has instructions to choose from")
    if instruction is not None:
        return ifeval_prompts(instruction, path=path, limit=limit)
    return list(BENCHMARKS[benchmark](path))[:limit]
