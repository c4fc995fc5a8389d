"""Run suites, each in a process of its own: gates first, smoke numbers against the committed ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import METRICS_VARIABLE, RESULTS, circumstances, environment
from benchmarks.report import TIMES, in_all, read_times, write_report
from benchmarks.resume import SCRATCH
from benchmarks.suites import Bound, Columns, Suite, table

ROOT = Path(__file__).parents[1]
COMMITTED = RESULTS / "smoke.json"
SMOKE_SECONDS = 180
"""What all smoke profiles together are meant to take. A clock on a busy machine: said, not enforced."""
Metrics = dict[str, dict[str, float]]
"""Suite -> number's name -> number."""


@dataclass(frozen=True)
class Smoke:
    """One run of smoke profiles.

    Attributes:
        seconds: per suite.
        good: whether every suite kept its own limits.
    """

    numbers: Metrics
    seconds: dict[str, float]
    good: bool


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
    good = all([measured(suite) for suite in left])
    write_report()
    print(f"\n{in_all(read_times())}")
    return int(not good)


def measured(suite: Suite) -> bool:
    """Gate and suite; how long they took goes to ``results/run.json``, if they came to a result."""
    start, interrupted, before = time.perf_counter(), (SCRATCH / f"{suite.name}.jsonl").is_file(), written(suite)
    if not gate_is_green(suite):
        return False
    good = run(suite)
    if written(suite) != before:
        remember_time(suite, None if interrupted else time.perf_counter() - start)
    return good


def written(suite: Suite) -> int | None:
    """When the suite's result was written, in ns; None if it never was."""
    path = RESULTS / f"{suite.name}.json"
    return path.stat().st_mtime_ns if path.is_file() else None


def remember_time(suite: Suite, seconds: float | None) -> None:
    """Write how long a suite took with its gate; None where it went on from an interrupted run."""
    facts = {"seconds": seconds, **circumstances(), "commit": environment()["commit"]}
    known = {**read_times(), suite.name: facts}
    TIMES.write_text(json.dumps({"command": "python -m benchmarks", "suites": known}, indent=1) + "\n")


def is_done(suite: Suite) -> bool:
    """Whether the suite's result is of this commit, and nothing was changed since."""
    path = RESULTS / f"{suite.name}.json"
    if not path.is_file():
        return False
    code = ["lrp_hooks", "kernels", "benchmarks", ":(exclude)benchmarks/results"]
    changed = subprocess.run(["git", "status", "--porcelain", *code], cwd=ROOT, capture_output=True, check=False)
    return not changed.stdout and json.loads(path.read_text()).get("commit") == environment()["commit"]


def smoke_numbers(suites: Sequence[Suite], root: Path = ROOT, **variables: str) -> Smoke:
    """Run the smoke profiles."""
    seconds, good = {}, True
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "metrics.jsonl"
        extra = {METRICS_VARIABLE: str(file), **variables}
        for suite in suites:
            start = time.perf_counter()
            good = run(suite, "--smoke", root=root, variables=extra) and good
            seconds[suite.name] = time.perf_counter() - start
        lines = file.read_text().splitlines() if file.is_file() else []
    return Smoke({line["suite"]: line["values"] for line in map(json.loads, lines)}, seconds, good)


def run_smoke(suites: Sequence[Suite], *, record: bool) -> int:
    """Smoke profiles against the committed numbers. Exit status: 1 when one is worse than its noise allows."""
    found = smoke_numbers(suites)
    print("\n" + "\n".join(summary(suites, found, committed())), flush=True)
    if record:
        if found.good:
            remember(found)
        return int(not found.good)
    wrong = regressions(suites, found.numbers, committed())
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong) or not found.good)


SUMMARY: Columns = {
    "suite": ("suite", ""),
    "number": ("number", ""),
    "now": ("now", ".3f"),
    "committed": ("committed", ".3f"),
    "bound": ("bound", ""),
    "kept": ("kept", ""),
    "s": ("seconds", ".0f"),
}


def summary(suites: Sequence[Suite], found: Smoke, before: Metrics) -> list[str]:
    """Markdown: every number beside the committed one with its bound, and the time of all."""
    rows = []
    for suite in suites:
        own: list[dict[str, Any]] = [
            _compared(name, bound, found.numbers.get(suite.name, {}).get(name), before.get(suite.name, {}).get(name))
            for name, bound in suite.bounds.items()
        ]
        own = own or [{"number": "(its own limits only)"}]
        own[0] |= {"suite": suite.name, "seconds": found.seconds.get(suite.name)}
        rows += own
    here, total = circumstances(), sum(found.seconds.values())
    place = f"threads {here['threads']}, load {here['load']:.1f}"
    return [*table(SUMMARY, rows), "", f"{total:.0f} s in all, meant to be below {SMOKE_SECONDS}; {place}"]


def _compared(name: str, bound: Bound, value: float | None, known: float | None) -> dict[str, Any]:
    row = {"number": name, "now": value, "committed": known}
    if known is not None:
        sign = "at most" if bound.smaller_is_better else "at least"
        row["bound"] = f"{sign} {bound.limit(known):.3f}"
    if value is None or known is None:
        return {**row, "kept": "no number" if value is None else "not known yet"}
    return {**row, "kept": "NO" if bound.broken(value, known) else "yes"}


def committed() -> Metrics:
    if not COMMITTED.is_file():
        return {}
    numbers: Metrics = json.loads(COMMITTED.read_text())["numbers"]
    return numbers


def remember(found: Smoke) -> None:
    """Write ``results/smoke.json``; suites that did not run keep their numbers."""
    before: dict[str, Any] = json.loads(COMMITTED.read_text()) if COMMITTED.is_file() else {}
    facts: dict[str, Any] = {**environment(), **circumstances(), "command": "python -m benchmarks --smoke --record"}
    seconds = {name: round(took, 1) for name, took in found.seconds.items()}
    facts["seconds"] = {**before.get("seconds", {}), **seconds}
    COMMITTED.write_text(json.dumps({**facts, "numbers": {**committed(), **found.numbers}}, indent=1) + "\n")


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
