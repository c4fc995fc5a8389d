"""MATH's competition problems (arXiv 2103.03874), from a local file: no package ships them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrp_hooks.cases.benchmarks.problem import Problem, checked, text_field
from lrp_hooks.cases.jsonl import read_objects
from lrp_hooks.cases.verify.latex import boxed
from lrp_hooks.errors import CaseError, InputError

ASK = "\n\nThink step by step. Put the final answer in \\boxed{}."


def math_problems(path: str | Path | None = None) -> list[Problem]:
    """Rows ``{"problem", "solution"}`` as published, the answer in the solution's last box, or beside it as ``answer``.

    Raises:
        InputError: no file is given.
        CaseError: names line and field.
    """
    if path is None:
        raise InputError("MATH is in no package. do: give a local file with --data, one JSON object per line")
    return [_problem(row, Path(path), line) for line, row in read_objects(Path(path))]


def _problem(row: dict[str, Any], path: Path, line: int) -> Problem:
    expected = text_field(row, "answer", path, line) if "answer" in row else None
    if expected is None:
        expected = boxed(text_field(row, "solution", path, line))
        if expected is None:
            raise CaseError(f"{path}, line {line}: the field 'solution' holds no \\boxed{{}}")
    question = text_field(row, "problem", path, line) + ASK
    return checked(
        Problem("math", row.get("unique_id", line), question, ("math:boxed",), ({"expected": expected},)), path, line
    )
