"""MATH's competition problems (arXiv 2103.03874), from a local file: no package ships them."""

from __future__ import annotations

from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.source import Benchmark, Row
from lrp_hooks.cases.verify.latex import boxed

ASK = "\n\nThink step by step. Put the final answer in \\boxed{}."


def _read(row: Row) -> Problem:
    """A row ``{"problem", "solution"}`` as published: the answer is in the solution's last box, or beside it."""
    expected = row.text("answer") if "answer" in row.fields else boxed(row.text("solution"))
    if expected is None:
        raise row.wrong("solution", "holds no \\boxed{}")
    key = row.fields.get("unique_id", row.number)
    return Problem("math", key, row.text("problem") + ASK, ("math:boxed",), ({"expected": expected},))


MATH = Benchmark("math", _read, marks=("problem", "solution"), missing="MATH is in no package")
