"""Benchmarks by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrp_hooks.cases.benchmarks.competition_math import MATH
from lrp_hooks.cases.benchmarks.gsm8k import GSM8K
from lrp_hooks.cases.benchmarks.humaneval import EVALPLUS, HUMANEVAL
from lrp_hooks.cases.benchmarks.ifeval import IFEVAL, ifeval_prompts
from lrp_hooks.cases.benchmarks.own import OWN
from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.source import Benchmark
from lrp_hooks.errors import CaseError, InputError

BENCHMARKS: Mapping[str, Benchmark] = {each.name: each for each in (IFEVAL, GSM8K, MATH, HUMANEVAL, EVALPLUS, OWN)}


def named(benchmark: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        InputError: there is none.
    """
    if benchmark not in BENCHMARKS:
        raise InputError(f"unknown benchmark {benchmark!r}. choices: {', '.join(BENCHMARKS)}")
    return BENCHMARKS[benchmark]


def benchmark_for(fields: Mapping[str, Any], name: str | None, where: str) -> Benchmark:
    """The benchmark that a document comes from: the one of the name, or the one whose rows have such fields.

    Raises:
        InputError: an unknown name.
        CaseError: none has.
    """
    if name is not None:
        return named(name)
    found = next((b for b in BENCHMARKS.values() if b.marks and fields.keys() >= set(b.marks)), None)
    if found is None:
        raise CaseError(
            f"{where}: doc: no benchmark has documents with the fields {', '.join(fields)}: nothing can judge it. "
            "do: name the benchmark with --benchmark, or make pairs with 'expected' of them"
        )
    return found


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
    chosen = named(benchmark)
    if instruction is not None and benchmark != "ifeval":
        raise InputError("only IFEval has instructions to choose from")
    if instruction is not None:
        return ifeval_prompts(instruction, path=path, limit=limit)
    return chosen.problems(path)[:limit]
