"""One small SVG per suite, drawn from its committed result; the same result gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Rows = list[dict[str, Any]]
SIZE = (7.0, 3.2)
"""Inches."""


def write_plots(results: dict[str, dict[str, Any]], folder: Path) -> dict[str, Path]:
    """Draw what has a plot; suite -> file."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for name, draw in PLOTS.items():
        if name in results and results[name]["rows"]:
            made[name] = folder / f"{name}.svg"
            _draw(draw, results[name]["rows"], made[name])
    return made


def write_memory(rows: Rows, path: Path) -> None:
    """Memory against prompt length, `benchmarks.long`'s rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _draw(memory, rows, path)


def _draw(draw: Callable[[Any, Rows], None], rows: Rows, path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, rows)
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def _at_measured(axes: Any, places: Iterable[float]) -> None:
    """A logarithmic axis with a tick, written as a plain number, at each place where something was measured."""
    axes.set_xscale("log")
    ticks = sorted(set(places))
    axes.set_xticks(ticks, [f"{tick:,.4g}" if tick < 1000 else f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()


def ratios(axes: Any, rows: Rows, group: str, label: str) -> None:
    """Time ratio against prompt length: medians, and from least to largest."""
    for name in dict.fromkeys(row[group] for row in rows):
        own = [row for row in rows if row[group] == name]
        middle = [row["ratio"] for row in own]
        reach = [[abs(row["spread"][i] - row["ratio"]) for row in own] for i in range(2)]
        axes.errorbar(
            [row["tokens"] for row in own], middle, yerr=reach, marker="o", capsize=3, label=f"{label} {name}"
        )
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set(xlabel="tokens", ylabel="time ratio")
    _at_measured(axes, [row["tokens"] for row in rows])
    axes.legend(frameon=False)


def memory(axes: Any, rows: Rows) -> None:
    """What each stage adds, on logarithmic axes: linear growth is a line at 45 degrees, the grey one."""
    own = [row for row in rows if row["model"] == "demo"]
    for stage in dict.fromkeys(row["stage"] for row in own):
        some = [row for row in own if row["stage"] == stage]
        axes.plot([row["tokens"] for row in some], [row["added"] for row in some], marker="o", label=stage)
    tokens = sorted({row["tokens"] for row in own})
    axes.plot(tokens, [row / 10 for row in tokens], color="0.6", linewidth=0.8)
    axes.set(xlabel="tokens", ylabel="memory added, MB", yscale="log")
    _at_measured(axes, tokens)
    axes.legend(frameon=False)


def bars(axes: Any, rows: Rows, y: str, label: str, interval: str | None = None) -> None:
    """One horizontal bar per method, the best on top."""
    ordered = sorted(rows, key=lambda row: row[y])
    values = [row[y] for row in ordered]
    errors = None
    if interval is not None:
        errors = [[row[y] - row[interval][0] for row in ordered], [row[interval][1] - row[y] for row in ordered]]
    axes.barh([row["method"] for row in ordered], values, xerr=errors, color="#4878a8", ecolor="0.3")
    axes.set(xlabel=label)
    axes.axvline(0.0, color="0.6", linewidth=0.8)


def faithfulness(axes: Any, rows: Rows) -> None:
    chosen = [row for row in rows if row["source"] == "all"]
    bars(axes, chosen, "gap", "area between LeRF and MoRF curves, 95 % interval", "gap_interval")


def cuts(axes: Any, rows: Rows) -> None:
    """What stays of the difference after each cut, against how many edges are kept, for the first rules."""
    own = [row for row in rows if row["composite"] == rows[0]["composite"]]
    for name, label in (("kept_cut", "kept edges cut"), ("random_cut", "as many random"), ("others_cut", "all others")):
        axes.plot([row["edges"] for row in own], [row[name] for row in own], marker="o", label=label)
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    axes.set(xlabel=f"edges kept ({rows[0]['composite']})", ylabel="share of the difference left")
    _at_measured(axes, [round(row["edges"], 1) for row in own])
    axes.legend(frameon=False)


def sizes(axes: Any, rows: Rows) -> None:
    """Time ratios of one shape each, the smallest first: medians, and from least to largest."""
    places = range(len(rows))
    for ratio, spread, label in (
        ("ratio", "spread", "attribution ÷ plain"),
        ("graph_ratio", "graph_spread", "graph ÷ attribution"),
    ):
        middle = [row[ratio] for row in rows]
        reach = [[abs(row[spread][i] - row[ratio]) for row in rows] for i in range(2)]
        axes.errorbar(places, middle, yerr=reach, marker="o", capsize=3, label=label)
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set_xticks(places, [f"{row['model']}\n{row['layers']} layers" for row in rows])
    axes.set(ylabel="time ratio")
    axes.legend(frameon=False)


PLOTS: dict[str, Callable[[Any, Rows], None]] = {
    "overhead": lambda axes, rows: ratios(axes, rows, "checkpoint", "checkpointing"),
    "graph": lambda axes, rows: ratios(axes, rows, "node_threshold", "node threshold"),
    "scaling": sizes,
    "planted": lambda axes, rows: bars(axes, rows, "hit", "hit@1 on planted causes"),
    "faithfulness": faithfulness,
    "graph_faithfulness": cuts,
}
