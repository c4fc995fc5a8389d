"""Attribution + whole graph against attribution alone, and against the packed procedure, on the demo model.

All transitions, all targets (node_threshold 0) unless stated, top_p 0.85. The packed procedure re-runs every block on
copies of the sequence (arXiv 2604.17761, appendix A: 32 copies); a sample of its chunks is timed and extrapolated.

    python -m benchmarks.graph          # the committed result: benchmarks/results/graph.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.measure import Clock, Step, load, measured_peak, random_ids, seconds, smoke_metrics, write_result

COPIES, SAMPLED = 32, 8
CASES = ((512, 0.0, 7), (512, 0.01, 5), (1024, 0.0, 5), (1024, 0.01, 5), (4096, 0.0, 3))
"""Tokens, node threshold, timed pairs."""
SMOKE_CASES = ((512, 0.0, 3),)
SMOKE_LIMIT = 1.6
"""For the ratio of the fastest times at 512 tokens with all targets; what is measured is in results/graph.json."""
MEMORY_TOKENS = 8192


@dataclass(frozen=True)
class Row:
    """One length. ``packed_ratio``: extrapolated packed time over the time that the graph adds to attribution (a lower
    bound where that is less than 2 %)."""

    tokens: int
    node_threshold: float
    attribution_seconds: float
    graph_seconds: float
    ratio: float
    fastest_ratio: float
    spread: tuple[float, float]
    edges: int
    packed_seconds: float | None
    packed_ratio: float | None


def packed_seconds(trace: Any, target: Any, rows_per_block: float) -> float:
    """Extrapolated seconds of the packed procedure: ``SAMPLED`` chunks spread over the blocks."""
    samples = packed_samples(trace, target, COPIES, SAMPLED)
    return statistics.mean(samples) * len(trace._lrp.skeleton.blocks) * rows_per_block


def packed_samples(trace: Any, target: Any, copies: int, sampled: int, clock: Clock = time.perf_counter) -> list[float]:
    """Seconds per row of sampled chunks of the packed procedure, spread over the blocks."""
    import torch

    from lrp_hooks.graph.packed import StateCollector

    lrp = trace._lrp
    states = StateCollector(trace._record, 0)
    trace._listen(target, states.on_point, frozenset())
    blocks = len(lrp.skeleton.blocks)
    timed = []
    for sample in range(sampled):
        block = sample * blocks // sampled
        wanted = torch.arange(copies) + (sample * 7) % max(1, states.hidden[0].shape[1] - copies)
        span = states.span(lrp.skeleton, lrp.tape, block, block + 1)
        timed.append(seconds(lambda span=span, wanted=wanted: span.edges(wanted), clock) / copies)
    return timed


def attribution_step(model: Any, ids: Any, checkpoint: Any) -> Step:
    """One trace and one attribution."""
    return _step(model, ids, checkpoint, lambda trace, target: trace.attribute(target))


def graph_step(model: Any, ids: Any, checkpoint: Any, node_threshold: float = 0.0) -> Step:
    """The same, and the whole graph in the same backward pass."""
    options = {"node_threshold": node_threshold, "connected": False}
    return _step(model, ids, checkpoint, lambda trace, target: trace.graph(target, **options))


def _step(model: Any, ids: Any, checkpoint: Any, ask: Any) -> Step:
    from lrp_hooks import LogitDiff, instrument

    def step() -> None:
        with instrument(model, checkpoint=checkpoint) as lrp:
            ask(lrp.trace(input_ids=ids), LogitDiff())

    return step


def compare(model: Any, tokens: int, repeats: int, node_threshold: float, packed: bool) -> Row:
    """Alternating timings after one warm-up, without checkpointing, instrumented once."""
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
        # below the noise of the clock the largest difference of a pair bounds what the graph adds from above
        added = both - alone if both > 1.02 * alone else max(0.02 * alone, *(b - a for a, b in pairs))
        fastest = min(b for _, b in pairs) / min(a for a, _ in pairs)
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
        fastest_ratio=fastest,
        spread=(min(ratios), max(ratios)),
        edges=len(made[-1]),
        packed_seconds=slow,
        packed_ratio=None if slow is None else slow / added,
    )


def added_memory(tokens: int) -> dict[str, float]:
    """Peaks of fresh processes, in MB: attribution alone, attribution and graph, with checkpointing."""
    peaks = [measured_peak(make, random_ids(tokens), True)[0] for make in (attribution_step, graph_step)]
    return {"tokens": tokens, "attribution_peak": peaks[0], "graph_peak": peaks[1], "added": peaks[1] - peaks[0]}


def _smoke_status(row: Row) -> int:
    smoke_metrics("graph", {"ratio": min(row.ratio, row.fastest_ratio)})
    if min(row.ratio, row.fastest_ratio) <= SMOKE_LIMIT:
        return 0
    print(f"the graph's time ratio {row.fastest_ratio:.2f} is above its limit {SMOKE_LIMIT}", file=sys.stderr)
    return 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, nargs="*", help="only these lengths; nothing is written")
    parser.add_argument("--smoke", action="store_true", help="one short comparison, nothing written")
    parser.add_argument("--memory", action="store_true", help="only the memory; nothing is written")
    options = parser.parse_args()
    if options.memory:
        print(added_memory(MEMORY_TOKENS))
        return 0
    model = load()
    rows = []
    print("| tokens | threshold | attribution s | + graph s | ratio (min-max) | fastest | packed s | packed / added |")
    print("|---|---|---|---|---|---|---|---|")
    for tokens, threshold, repeats in SMOKE_CASES if options.smoke else CASES:
        if options.tokens and tokens not in options.tokens:
            continue
        row = compare(model, tokens, repeats, threshold, packed=tokens == 512 and not options.smoke)
        rows.append(row)
        spread = f"{row.spread[0]:.2f}-{row.spread[1]:.2f}"
        times = f"{row.attribution_seconds:.2f} | {row.graph_seconds:.2f} | {row.ratio:.2f} ({spread})"
        slow = "| " if row.packed_seconds is None else f"{row.packed_seconds:.0f} | {row.packed_ratio:.0f}"
        print(f"| {tokens} | {threshold} | {times} | {row.fastest_ratio:.2f} | {slow} |", flush=True)
    if options.smoke:
        return _smoke_status(rows[0])
    if not options.tokens:
        memory = added_memory(MEMORY_TOKENS)
        print(memory)
        write_result("graph", [asdict(row) for row in rows], memory=memory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
