"""The benchmark suites: what each measures, the tests that gate it, and its table for the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Suite:
    """One ``python -m benchmarks.NAME``.

    Attributes:
        question: what it answers.
        gate: tests that must pass before a number is taken.
        columns: heading -> field of a row, and how to write it.
        smoke: whether it has a ``--smoke`` profile.
    """

    name: str
    question: str
    gate: tuple[str, ...]
    columns: dict[str, tuple[str, str]]
    smoke: bool = False

    def table(self, rows: list[dict[str, Any]]) -> list[str]:
        """Markdown lines."""
        lines = ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        for row in rows:
            cells = (_cell(row.get(field), form) for field, form in self.columns.values())
            lines.append("| " + " | ".join(cells) + " |")
        return lines


def _cell(value: Any, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " to ".join(format(part, form) for part in value)
    return str(value) if not form else format(value, form)


SUITES = (
    Suite(
        "overhead",
        "What does instrumentation cost? Forward + backward, instrumented ÷ plain.",
        ("tests/lrp_hooks/test_instrument.py",),
        {
            "tokens": ("tokens", ",d"),
            "checkpointing": ("checkpoint", ""),
            "plain s": ("plain_seconds", ".2f"),
            "instrumented s": ("instrumented_seconds", ".2f"),
            "ratio": ("ratio", ".2f"),
            "of the fastest": ("fastest_ratio", ".2f"),
            "min to max": ("spread", ".2f"),
            "peak memory ratio": ("memory_ratio", ".2f"),
        },
        smoke=True,
    ),
    Suite(
        "graph",
        "What does the whole graph cost? Attribution + graph ÷ attribution, and the packed procedure of arXiv "
        "2604.17761 (sampled and extrapolated) ÷ what the graph adds.",
        ("tests/lrp_hooks/graph/test_edges.py",),
        {
            "tokens": ("tokens", ",d"),
            "node threshold": ("node_threshold", "g"),
            "attribution s": ("attribution_seconds", ".2f"),
            "+ graph s": ("graph_seconds", ".2f"),
            "ratio": ("ratio", ".2f"),
            "of the fastest": ("fastest_ratio", ".2f"),
            "min to max": ("spread", ".2f"),
            "edges kept": ("edges", ",d"),
            "packed ÷ added": ("packed_ratio", ",.0f"),
        },
        smoke=True,
    ),
)
