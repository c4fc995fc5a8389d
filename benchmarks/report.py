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
FACTS = ("cores", "machine", "torch", "transformers", "commit")
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
    REPORT.write_text(page(results, plots))
    print(f"wrote {REPORT.relative_to(ROOT)} and {len(plots)} plots")


def read_results(folder: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """Suite -> its committed result, for suites whose result is a table here."""
    paths = {suite.name: folder / f"{suite.name}.json" for suite in SUITES if suite.columns}
    return {name: json.loads(path.read_text()) for name, path in paths.items() if path.is_file()}


def page(results: dict[str, dict[str, Any]], plots: dict[str, Path]) -> str:
    """The page as markdown."""
    lines = list(HEAD)
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


def section(suite: Suite, result: dict[str, Any], plot: Path | None) -> list[str]:
    """One suite: question, plot, tables, where the numbers come from."""
    lines = ["", f"## {suite.name}", "", suite.question]
    if plot is not None:
        lines += ["", f"![{suite.name}](images/benchmarks/{plot.name})"]
    lines += ["", *table(suite.columns, result["rows"])]
    for more in suite.more:
        if result.get(more.rows):
            lines += ["", more.says, "", *table(more.columns, result[more.rows])]
    facts = ", ".join(f"{name} {result[name]}" for name in FACTS)
    gates = ", ".join(f"`{test}`" for test in suite.gate)
    lines += ["", f"`{result['command']}`; {facts}; gated by {gates}."]
    lines += [f"{name}: {_words(value)}." for name, value in result.items() if isinstance(value, dict)]
    return lines + [f"Skipped: {reason}." for reason in result.get("skipped", ())]


def _words(values: dict[str, float]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:,.0f}" for name, value in values.items())
