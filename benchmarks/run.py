"""Run suites, each in a process of its own: gates first, smoke numbers against the committed ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import METRICS_VARIABLE, RESULTS, environment
from benchmarks.report import write_report
from benchmarks.suites import Suite

ROOT = Path(__file__).parents[1]
COMMITTED = RESULTS / "smoke.json"
Metrics = dict[str, dict[str, float]]
"""Suite -> number's name -> number."""


def gate_is_green(suite: Suite) -> bool:
    """No number without its test."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *suite.gate], cwd=ROOT, check=False)
    if done.returncode:
        print(f"{suite.name}: its tests fail, so nothing is measured ({' '.join(suite.gate)})", file=sys.stderr)
    return not done.returncode


def run(suite: Suite, *words: str, root: Path = ROOT, variables: Mapping[str, str] | None = None) -> bool:
    """Whether the suite ran and kept its limits."""
    print(f"\n## {suite.name}: {suite.question}", flush=True)
    start = time.perf_counter()
    command = [sys.executable, "-m", f"benchmarks.{suite.name}", *words]
    done = subprocess.run(command, cwd=root, env={**os.environ, **(variables or {})}, check=False)
    print(f"{suite.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return not done.returncode


def run_all(suites: Sequence[Suite], *, resume: bool) -> int:
    """Full profiles and the report. Exit status: 1 when a gate was red or a limit was missed."""
    left = [suite for suite in suites if not (resume and is_done(suite))]
    good = all([gate_is_green(suite) and run(suite) for suite in left])
    write_report()
    return int(not good)


def is_done(suite: Suite) -> bool:
    """Whether the suite's result is of this commit, and nothing was changed since."""
    path = RESULTS / f"{suite.name}.json"
    if not path.is_file():
        return False
    code = ["lrp_hooks", "kernels", "benchmarks", ":(exclude)benchmarks/results"]
    changed = subprocess.run(["git", "status", "--porcelain", *code], cwd=ROOT, capture_output=True, check=False)
    return not changed.stdout and json.loads(path.read_text()).get("commit") == environment()["commit"]


def smoke_numbers(suites: Sequence[Suite], root: Path = ROOT, **variables: str) -> tuple[Metrics, bool]:
    """The numbers of the smoke profiles, and whether every suite kept its own limits."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metrics.jsonl"
        extra = {METRICS_VARIABLE: str(file), **variables}
        good = all([run(suite, "--smoke", root=root, variables=extra) for suite in suites])
        lines = file.read_text().splitlines() if file.is_file() else []
    return {line["suite"]: line["values"] for line in map(json.loads, lines)}, good


def run_smoke(suites: Sequence[Suite], *, record: bool) -> int:
    """Smoke profiles against the committed numbers. Exit status: 1 when one is worse than its noise allows."""
    found, good = smoke_numbers(suites)
    if record:
        if good:
            remember(found)
        return int(not good)
    wrong = regressions(suites, found, committed())
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong) or not good)


def committed() -> Metrics:
    if not COMMITTED.is_file():
        return {}
    numbers: Metrics = json.loads(COMMITTED.read_text())["numbers"]
    return numbers


def remember(found: Metrics) -> None:
    """Write ``results/smoke.json``; suites that did not run keep their numbers."""
    facts: dict[str, Any] = {**environment(), "command": "python -m benchmarks --smoke --record"}
    COMMITTED.write_text(json.dumps({**facts, "numbers": {**committed(), **found}}, indent=1) + "\n")


def regressions(suites: Sequence[Suite], found: Metrics, before: Metrics) -> list[str]:
    """What got worse than its noise allows, and numbers that should have come and did not, in words."""
    wrong = []
    for suite in suites:
        for name, bound in suite.bounds.items():
            value, known = found.get(suite.name, {}).get(name), before.get(suite.name, {}).get(name)
            if value is None:
                wrong.append(f"{suite.name}: its smoke profile gave no {name}")
            elif known is not None and bound.broken(value, known):
                limit = bound.limit(known)
                wrong.append(f"{suite.name}: {name} {value:.3f} is beyond {limit:.3f} (committed: {known:.3f})")
    return wrong
