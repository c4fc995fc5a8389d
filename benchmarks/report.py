"""``docs/benchmarks.md`` and its plots, from the committed results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS
from benchmarks.suites import SUITES, Suite, table

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "docs" / "benchmarks.md"
IMAGES = ROOT / "docs" / "images" / "benchmarks"
TIMES = RESULTS / "run.json"
"""How long each suite took with its gate: suite -> seconds, threads, load, commit."""
FACTS = ("cores", "machine", "torch", "transformers", "threads", "load", "commit")
HEAD = (
    "# Benchmarks",
    "",
    "Written by `python -m benchmarks --report` from [results](../benchmarks/results). Ratios are taken within one",
    "run, medians of alternating pairs, on SmolLM2-135M-Instruct with random tokens unless stated. No number is taken",
    "before the tests named beside it pass.",
)


def write_report() -> None:
    """The page, and one SVG per suite that has a plot."""
    from benchmarks.plots import write_plots

    results = read_results()
    plots = write_plots(results, IMAGES)
    REPORT.write_text(page(results, plots, read_times()))
    print(f"wrote {REPORT.relative_to(ROOT)} and {len(plots)} plots")


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Suite -> its committed result, for suites whose result is a table here."""
    paths = {suite.name: folder / f"{suite.name}.json" for suite in SUITES if suite.columns}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def read_times() -> dict[str, dict[str, Any]]:
    """Suite -> how long it took, under which circumstances."""
    times: dict[str, dict[str, Any]] = json.loads(TIMES.read_text())["suites"] if TIMES.is_file() else {}
    return times


def page(results: dict[str, dict[str, Any]], plots: dict[str, Path], times: dict[str, dict[str, Any]]) -> str:
    """The page as markdown."""
    lines = [*HEAD, "", in_all(times), "", origins(results)]
    for suite in SUITES:
        if suite.name in results:
            lines += section(suite, results[suite.name], plots.get(suite.name))
        elif suite.page:
            name = Path(suite.page).name
            lines += [
                "",
                f"## {suite.name}",
                "",
                f"{suite.question} [{name}]({name}); `python -m benchmarks {suite.name}`.",
            ]
    return "\n".join(lines) + "\n"


def in_all(times: dict[str, dict[str, Any]]) -> str:
    """How long everything that ``python -m benchmarks`` runs took, in words."""
    wanted = [suite.name for suite in SUITES if not suite.alone]
    known = {name: times[name] for name in wanted if times.get(name, {}).get("seconds") is not None}
    missing = [name for name in wanted if name not in known]
    if not known:
        return "How long `python -m benchmarks` takes in all has not been recorded yet."
    minutes = sum(entry["seconds"] for entry in known.values()) / 60
    where = f"threads {_range(known, 'threads', 'd')}, load {_range(known, 'load', '.1f')}"
    commits = list(dict.fromkeys(entry["commit"] for entry in known.values()))
    run = f"commit {commits[0]}" if len(commits) == 1 else f"not in one run: commits {', '.join(commits)}"
    said = f"{minutes:.0f} minutes in all, tests included ({where}; {run})"
    if missing:
        known_part = f"Of `python -m benchmarks`, {len(known)} of {len(wanted)} suites took {said}"
        return f"{known_part}; of {', '.join(missing)} no time is known."
    return f"`python -m benchmarks` took {said}."


def _range(entries: dict[str, dict[str, Any]], name: str, form: str) -> str:
    values = [entry[name] for entry in entries.values()]
    ends = dict.fromkeys((format(min(values), form), format(max(values), form)))
    return " to ".join(ends)


def origins(results: dict[str, dict[str, Any]]) -> str:
    """Which commits the tables come from, in words."""
    suites: dict[str, list[str]] = {}
    for name, result in results.items():
        suites.setdefault(result["commit"], []).append(name)
    if len(suites) == 1:
        return f"All tables come from commit {next(iter(suites))}."
    parts = (f"{commit} ({', '.join(names)})" for commit, names in suites.items())
    return f"The tables come from different commits, so not from one run: {', '.join(parts)}."


def section(suite: Suite, result: dict[str, Any], plot: Path | None) -> list[str]:
    """One suite: question, plot, tables, where the numbers come from."""
    lines = ["", f"## {suite.name}", "", suite.question]
    if plot is not None:
        lines += ["", f"![{suite.name}](images/benchmarks/{plot.name})"]
    lines += ["", *table(suite.columns, result["rows"])]
    for more in suite.more:
        if result.get(more.rows):
            lines += ["", more.says, "", *table(more.columns, result[more.rows])]
    for note in suite.notes:
        lines += ["", note]
    facts = ", ".join(f"{name} {result[name]}" for name in FACTS if name in result)
    gates = ", ".join(f"`{test}`" for test in suite.gate)
    lines += ["", f"`{result['command']}`; {facts}; gated by {gates}."]
    lines += [f"{name}: {_words(value)}." for name, value in result.items() if isinstance(value, dict)]
    return lines + [f"Skipped: {reason}." for reason in result.get("skipped", ())]


def _words(values: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:,.0f}" for name, value in values.items())
