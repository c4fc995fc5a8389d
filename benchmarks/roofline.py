"""Bytes, FLOPs and the least time on a GPU of every kernel, from shapes alone.

    python -m benchmarks.roofline              # the table of docs/kernels.md

The floor is the larger of FLOPs / peak and bytes / bandwidth: each tensor read once, each result written once, causal
halves skipped. No kernel can be faster; how much slower one is, `benchmarks.gpu` measures.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.shapes import Shape, whole

BYTES = 2
"""Of a bf16 number."""


@dataclass(frozen=True)
class Chip:
    """What its maker states of a GPU: dense bf16 FLOPs per second, and bytes per second of its memory."""

    name: str
    peak: float
    bandwidth: float


CHIPS = (
    Chip("H100", 989e12, 3.35e12),
    Chip("H200", 989e12, 4.8e12),
    Chip("A100", 312e12, 2.04e12),
    Chip("MI300X", 1307e12, 5.3e12),
)
H100 = CHIPS[0]


def chip_of(device: str) -> Chip:
    """The chip whose name is part of a device's; the H100, with its own name, for one that is not listed."""
    return next((chip for chip in CHIPS if chip.name in device), H100)


MODELS = (whole("Qwen3-0.6B"), whole("Qwen3-4B"))
LENGTHS = (1536, 12288, 131072)
PARTS = 16
"""Edges a row that are taken apart: value and key path, strongest head."""

PREDICTED = {
    "attention, forward": 2.5,
    "attention, dk and dv": 3.0,
    "attention, backward": 3.0,
    "edges, log-sum-exp": 3.0,
    "edges, dense": 2.5,
    "edges, histogram": 4.0,
    "edges, list": 3.0,
    "edges, row and column sums": 2.5,
    "edges, parts": 4.0,
    "norm, scale": 1.3,
    "norm, backward": 1.3,
    "gated product, forward": 1.3,
    "gated product, backward": 1.3,
    "relevance": 1.3,
    "model, forward": 2.0,
    "model, forward and backward": 2.5,
    "model, attribution": 3.0,
    "model, graph": 4.0,
}
"""Measured divided by floor at 12,288 tokens of Qwen3-0.6B, as expected before the first run on a GPU: triton's flash
attention is known to reach 40 % of a Hopper chip; weights cost an exponential each, the histogram two atomic additions
an edge; streaming kernels reach four fifths of the bandwidth."""


@dataclass(frozen=True)
class Cost:
    """One kernel over one layer."""

    kernel: str
    flops: float
    bytes: float

    def floor(self, chip: Chip = H100) -> float:
        """The least seconds."""
        return max(self.flops / chip.peak, self.bytes / chip.bandwidth)

    def bound(self, chip: Chip = H100) -> str:
        return "compute" if self.flops / chip.peak > self.bytes / chip.bandwidth else "memory"


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
    yield Cost("model, forward and backward", both, 2 * weights)
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
                numbers = f"{cost.flops / 1e9:.4g} | {cost.bytes / 1e6:.4g} | {cost.floor() * 1e6:.4g}"
                lines.append(f"| {model.name} | {tokens:,} | {cost.kernel} | {numbers} | {cost.bound()} |")
    lines += ["", "| model | tokens | edges of all layers, two passes, s |", "|---|---|---|"]
    for model in MODELS:
        for tokens in LENGTHS:
            found = {cost.kernel: cost.floor() for cost in costs(model, tokens)}
            both = model.layers * (found["edges, histogram"] + found["edges, list"])
            lines.append(f"| {model.name} | {tokens:,} | {both:.3g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
    sys.exit(0)
