"""Attribution + whole graph against attribution alone, and against the packed procedure, on the demo model.

All transitions, all targets (node_threshold 0) unless stated, top_p 0.85. The packed procedure re-runs every block on
copies of the sequence (arXiv 2604.17761, appendix A: 32 copies); a sample of its chunks is timed and extrapolated.

    python -m benchmarks.graph          # the committed result: benchmarks/results/graph.json
"""

from __future__ import annotations

import json
import statistics
import sys
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.overhead import RESULT, environment, load, random_ids, seconds

COPIES, SAMPLED = 32, 8
CASES = ((512, 0.0, 3), (512, 0.01, 3), (1024, 0.0, 3), (1024, 0.01, 3))
"""Tokens, node threshold, timed pairs."""


@dataclass(frozen=True)
class Row:
    """One length. ``packed_ratio``: extrapolated packed time over the time that the graph adds to attribution."""

    tokens: int
    node_threshold: float
    attribution_seconds: float
    graph_seconds: float
    ratio: float
    spread: tuple[float, float]
    edges: int
    packed_seconds: float | None
    packed_ratio: float | None


def packed_seconds(trace: Any, target: Any, rows_per_block: float) -> float:
    """Extrapolated seconds of the packed procedure: ``SAMPLED`` chunks spread over the blocks."""
    import torch

    from lrp_hooks.graph.packed import StateCollector

    lrp = trace._lrp
    states = StateCollector(trace._record, 0)
    trace._listen(target, states.on_point, frozenset())
    blocks = len(lrp.skeleton.blocks)
    timed = []
    for sample in range(SAMPLED):
        block = sample * blocks // SAMPLED
        wanted = torch.arange(COPIES) + (sample * 7) % max(1, states.hidden[0].shape[1] - COPIES)
        span = states.span(lrp.skeleton, lrp.tape, block, block + 1)
        timed.append(seconds(lambda span=span, wanted=wanted: span.edges(wanted)))
    return statistics.mean(timed) * blocks * rows_per_block / COPIES


def compare(model: Any, tokens: int, repeats: int, node_threshold: float, packed: bool) -> Row:
    from lrp_hooks import LogitDiff, instrument

    with instrument(model, checkpoint=False) as lrp:
        target, ids = LogitDiff(), random_ids(tokens)

        def attribution() -> None:
            lrp.trace(input_ids=ids).attribute(target)

        def graph() -> None:
            made.append(lrp.trace(input_ids=ids).graph(target, node_threshold=node_threshold, connected=False))

        made: list[Any] = []
        seconds(attribution), seconds(graph)
        pairs = [(seconds(attribution), seconds(graph)) for _ in range(repeats)]
        ratios = [b / a for a, b in pairs]
        alone, both = (statistics.median(column) for column in zip(*pairs, strict=True))
        slow = None
        if packed:
            trace = lrp.trace(input_ids=ids)
            relevance = trace.attribute(target).layers[0, 1:].abs()
            slow = packed_seconds(trace, target, float((relevance > node_threshold).sum(1).float().mean()))
    return Row(
        tokens=tokens,
        node_threshold=node_threshold,
        attribution_seconds=alone,
        graph_seconds=both,
        ratio=statistics.median(ratios),
        spread=(min(ratios), max(ratios)),
        edges=len(made[-1]),
        packed_seconds=slow,
        packed_ratio=None if slow is None else slow / max(both - alone, 1e-9),
    )


def main() -> int:
    model = load()
    rows = []
    print("| tokens | node threshold | attribution s | + graph s | ratio (min-max) | packed s | packed / added |")
    print("|---|---|---|---|---|---|---|")
    for tokens, threshold, repeats in CASES:
        row = compare(model, tokens, repeats, threshold, packed=tokens == 512)
        rows.append(row)
        spread = f"{row.spread[0]:.2f}-{row.spread[1]:.2f}"
        times = f"{row.attribution_seconds:.2f} | {row.graph_seconds:.2f} | {row.ratio:.2f} ({spread})"
        slow = "| " if row.packed_seconds is None else f"{row.packed_seconds:.0f} | {row.packed_ratio:.0f}"
        print(f"| {tokens} | {threshold} | {times} | {slow} |", flush=True)
    result = RESULT.with_name("graph.json")
    facts = {**environment(), "command": "python -m benchmarks.graph"}
    result.write_text(json.dumps({**facts, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
