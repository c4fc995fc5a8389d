"""What FLOP counts predict for `benchmarks.scaling`, written down before anything was measured.

B is the matrices of a block, D the width, d that of all heads together, T the tokens; attention's products are causal.

- Attribution / plain: 1.00 for every shape. Rules change factors inside a backward pass that runs anyway, and reading
  relevance off takes some D numbers a token against 4 B; as passes over memory its share falls as 1 / D.
- Graph / attribution: 1 + T d / B about, for four products more a block. B grows as D squared, d as D: 1.02 for the
  smallest shape at 128 tokens, 1.003 at 8B.
- k targets of one trace / one attribution: (1 + k) / 2, since a backward pass without gradients of weights costs one
  forward; / k traces: (1 + k) / 2k, which ends at a half.
- instrument() / load: it runs the model four times on ten tokens, which cost what reading the weights costs: four
  passes over them, where loading is two (read and write). About 2 at every size. remove() touches no weights: 0.
- Packed / exact, attribution included on both sides: one forward and backward of the prompt per target row, that is
  the number of rows (all T, but one in the last block), less what exact edges add: 1.13 at 1,024 tokens of the smallest
  shape.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.shapes import Shape

EDGE_PRODUCTS = 4
"""Causal products that exact edges add to a block: scores and weighted values, in a first and a second pass."""


def predicted_graph(shape: Shape, tokens: int) -> float:
    """Attribution with its graph / attribution, in FLOPs."""
    alone = shape.forward(tokens) + shape.backward(tokens)
    return 1 + shape.layers * EDGE_PRODUCTS * shape.product(tokens) / alone


def predicted_targets(shape: Shape, tokens: int, count: int) -> tuple[float, float]:
    """``count`` targets of one trace / one attribution, and / as many traces, in FLOPs."""
    forward, backward = shape.forward(tokens), shape.backward(tokens)
    to_one = (forward + count * backward) / (forward + backward)
    return to_one, to_one / count


def predicted_packed(shape: Shape, tokens: int, rows: float) -> float:
    """Attribution and packed edges / attribution with exact ones, in FLOPs; ``rows`` are packed per block."""
    bare = replace(shape, vocabulary=0)
    once, alone = bare.forward(tokens) + bare.backward(tokens), shape.forward(tokens) + shape.backward(tokens)
    return (alone + rows * once) / (alone * predicted_graph(shape, tokens))
