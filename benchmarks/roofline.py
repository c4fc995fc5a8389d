"""Bytes, FLOPs and the least time on an H100 of every kernel, from shapes alone.

    python -m benchmarks.roofline              # the table of docs/kernels.md

The floor is the larger of FLOPs / peak and bytes / bandwidth: each tensor read once, each result written once, causal
halves skipped. No kernel can be faster; how much slower one is, `benchmarks.gpu` measures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.shapes import Shape, whole

PEAK = 989e12
"""Dense bf16 FLOPs per second of an H100 SXM."""
BANDWIDTH = 3.35e12
"""Bytes per second of its memory."""
BYTES = 2
"""Of a bf16 number."""


MODELS = (whole("Qwen3-0.6B"), whole("Qwen3-4B"))
LENGTHS = (1536, 12288, 131072)
PARTS = 16
"""Edges a row that are taken apart: value and key path, strongest head."""


@dataclass(frozen=True)
class Cost:
    """One kernel over one layer."""

    kernel: str
    flops: float
    bytes: float

    @property
    def seconds(self) -> float:
        return max(self.flops / PEAK, self.bytes / BANDWIDTH)

    @property
    def bound(self) -> str:
        return "compute" if self.flops / PEAK > self.bytes / BANDWIDTH else "memory"


def costs(model: Shape, tokens: int) -> Iterator[Cost]:
    """Each kernel of one layer, bf16, causal, all rows active."""
    product = model.product(tokens)
    query, shared = tokens * model.heads * model.head * BYTES, tokens * model.groups * model.head * BYTES
    line = tokens * model.heads * 4  # one float32 per row and head
    hidden, inner = tokens * model.width * BYTES, tokens * model.inner * BYTES
    yield Cost("attention, forward", 2 * product, 2 * query + 2 * shared + line)
    yield Cost("attention, dk and dv", 4 * product, 2 * query + 4 * shared + 2 * line)
    yield Cost("attention, dq", 3 * product, 3 * query + 2 * shared + 2 * line)
    read = 2 * query + 2 * shared + 2 * line
    yield Cost("edges, dense", 2 * product, read + tokens * tokens * 4)
    yield Cost("edges, histogram", 2 * product, read)
    yield Cost("edges, list", 2 * product, read)
    yield Cost("edges, row and column sums", 2 * product, read + tokens * 16)
    yield Cost("edges, log-sum-exp", product, query + shared + line)
    kept = PARTS * tokens  # three numbers of 8 bytes say which, four of 4 bytes come back
    yield Cost("edges, parts", 4 * kept * model.heads * model.head, read + 40 * kept)
    yield Cost("norm, scale", 2 * tokens * model.width, hidden + tokens * 4)
    yield Cost("norm, backward", 3 * tokens * model.width, 2 * hidden + tokens * 4)
    yield Cost("gated product, forward", 5 * tokens * model.inner, 3 * inner)
    yield Cost("gated product, backward", 12 * tokens * model.inner, 5 * inner)
    yield Cost("relevance", 2 * tokens * model.width, 2 * hidden + tokens * 4)


def model_costs(shape: Shape, tokens: int) -> Iterator[Cost]:
    """A whole model, bf16: FLOPs of its matrices, weights read once a pass."""
    weights = shape.parameters * BYTES
    forward, both = shape.forward(tokens), shape.forward(tokens) + shape.backward(tokens)
    edges = sum(cost.flops for cost in costs(shape, tokens) if cost.kernel in ("edges, histogram", "edges, list"))
    yield Cost("model, forward", forward, weights)
    yield Cost("model, attribution", both, 2 * weights)
    yield Cost("model, graph", both + shape.layers * edges, 2 * weights)


def table() -> str:
    """Markdown: a row per kernel and length, per layer; and the graph (histogram and list) of the whole model."""
    lines = [
        "| model | tokens | kernel (one layer) | GFLOP | MB | floor, µs | bound by |",
        "|---|---|---|---|---|---|---|",
    ]
    for model in MODELS:
        for tokens in LENGTHS:
            for cost in costs(model, tokens):
                numbers = f"{cost.flops / 1e9:.4g} | {cost.bytes / 1e6:.4g} | {cost.seconds * 1e6:.4g}"
                lines.append(f"| {model.name} | {tokens:,} | {cost.kernel} | {numbers} | {cost.bound} |")
    lines += ["", "| model | tokens | edges of all layers, two passes, s |", "|---|---|---|"]
    for model in MODELS:
        for tokens in LENGTHS:
            found = {cost.kernel: cost.seconds for cost in costs(model, tokens)}
            both = model.layers * (found["edges, histogram"] + found["edges, list"])
            lines.append(f"| {model.name} | {tokens:,} | {both:.3g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
    sys.exit(0)
