"""Run the suites behind their gates and write the report.

python -m benchmarks --smoke        # ratios on short prompts, nothing written; what CI runs
python -m benchmarks                # everything: benchmarks/results/*.json and docs/benchmarks.md
python -m benchmarks graph          # one suite
python -m benchmarks --report       # only the report, from the committed results
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import RESULTS
from benchmarks.suites import SUITES, Suite

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks.md"


def gate_is_green(suite: Suite) -> bool:
    """No number without its test."""
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", *suite.gate], cwd=ROOT, check=False)
    if done.returncode:
        print(f"{suite.name}: its tests fail, so nothing is measured ({' '.join(suite.gate)})", file=sys.stderr)
    return not done.returncode


def run(suite: Suite, smoke: bool) -> bool:
    """Whether the suite ran and kept its limits."""
    print(f"\n## {suite.name}: {suite.question}", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{suite.name}", *(["--smoke"] if smoke else [])]
    return not subprocess.run(command, cwd=ROOT, check=False).returncode


def report() -> None:
    """``docs/benchmarks.md`` from the committed results."""
    lines = [
        "# Benchmarks",
        "",
        "Written by `python -m benchmarks --report` from [results](../benchmarks/results). Ratios are taken within one",
        "run, medians of alternating pairs, on SmolLM2-135M-Instruct with random tokens unless stated.",
    ]
    for suite in SUITES:
        path = RESULTS / f"{suite.name}.json"
        if not path.is_file():
            continue
        result = json.loads(path.read_text())
        facts = ", ".join(f"{name} {result[name]}" for name in ("cores", "machine", "torch", "transformers", "commit"))
        lines += ["", f"## {suite.name}", "", suite.question, "", *suite.table(result["rows"]), ""]
        lines += [f"`{result['command']}`; {facts}; gated by {', '.join(f'`{test}`' for test in suite.gate)}."]
        lines += [f"{name}: {_words(value)}." for name, value in result.items() if isinstance(value, dict)]
    REPORT.write_text("\n".join(lines) + "\n")
    print(f"wrote {REPORT.relative_to(ROOT)}")


def _words(values: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:,.0f}" for name, value in values.items())


def main() -> int:
    names = [suite.name for suite in SUITES]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"which: {', '.join(names)}; default all")
    parser.add_argument(
        "--smoke", action="store_true", help="short profiles without gates; fails beyond a ratio's noise"
    )
    parser.add_argument("--report", action="store_true", help="only write the report")
    options = parser.parse_args()
    unknown = [name for name in options.suites if name not in names]
    if unknown:
        parser.error(f"unknown suite {unknown[0]!r}. choices: {', '.join(names)}")
    chosen = [suite for suite in SUITES if not options.suites or suite.name in options.suites]
    if options.report:
        report()
        return 0
    if options.smoke:  # the tests run beside it
        return int(not all([run(suite, smoke=True) for suite in chosen if suite.smoke]))
    good = all([gate_is_green(suite) and run(suite, smoke=False) for suite in chosen])
    report()
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
