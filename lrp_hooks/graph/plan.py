"""Which residual points a graph has, and how each of its transitions is made."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from lrp_hooks.errors import GraphError
from lrp_hooks.structure.skeleton import Skeleton

Method = Literal["auto", "exact", "packed"]
METHODS = ("auto", "exact", "packed")


@dataclass(frozen=True)
class Step:
    """One transition: from residual point ``below`` to ``above``.

    Attributes:
        kind: "exact", the closed form of one block; "packed", blocks ``block`` .. ``end - 1`` run on copies; "local",
            from the mid point of a block to its output, where tokens do not mix.
    """

    below: float
    above: float
    kind: Literal["exact", "packed", "local"]

    @property
    def block(self) -> int:
        """First block of the transition."""
        return int(self.below)

    @property
    def end(self) -> int:
        """Residual point after the last block. The MLP above a mid point mixes no tokens: the edges are the same."""
        return math.ceil(self.above)

    def packed(self) -> Step:
        return replace(self, kind="packed")


@dataclass(frozen=True)
class Plan:
    """The points of a graph, ascending, and the transitions between neighbours."""

    points: tuple[float, ...]
    steps: tuple[Step, ...]

    @property
    def exact_blocks(self) -> frozenset[int]:
        """Blocks whose closed form is wanted."""
        return frozenset(step.block for step in self.steps if step.kind == "exact")

    def packed_steps(self) -> list[Step]:
        return [step for step in self.steps if step.kind == "packed"]


def make_plan(
    skeleton: Skeleton, points: Sequence[float] | None = None, *, mid: bool = False, method: Method = "auto"
) -> Plan:
    """Plan a graph over chosen residual points (default: all; with ``mid`` also the mid points that exist).

    Raises:
        GraphError: points out of range or not ascending, a mid point that a block does not have, or a transition that
            the method cannot make.
    """
    check_one_stream(skeleton)
    if method not in METHODS:
        raise GraphError(f"method={method!r} is unknown. choices: {', '.join(METHODS)}")
    if mid and points is not None:
        raise GraphError("mid=True goes with all points. do: list mid points of chosen blocks as l + 0.5")
    chosen = _all_points(skeleton, mid) if points is None else _ending(check_points(skeleton, points), skeleton)
    return Plan(chosen, tuple(_step(below, above, method) for below, above in pairwise(chosen)))


def _all_points(skeleton: Skeleton, mid: bool) -> tuple[float, ...]:
    if mid and not any(skeleton.mid):
        raise GraphError(
            "no block of this model has a point between attention and MLP (they run in parallel). do: mid=False"
        )
    chosen: list[float] = [0]
    for block, child in enumerate(skeleton.mid):
        chosen += [block + 0.5, block + 1] if mid and child is not None else [block + 1]
    return tuple(chosen)


def check_one_stream(skeleton: Skeleton) -> None:
    """Raises:
    GraphError: for encoder-decoder models.
    """
    if skeleton.encoder is not None:
        raise GraphError(
            "in an encoder-decoder model every decoder block also reads the encoder's output: its residual points are "
            "no cuts, and edges through cross-attention are not made yet. do: attribute(), whose .layers and "
            ".encoder.layers have both streams"
        )


def check_points(skeleton: Skeleton, points: Sequence[float]) -> tuple[float, ...]:
    """Residual points in order, whole numbers as int.

    Raises:
        GraphError: an encoder-decoder model; fewer than two, out of range, not ascending, or a mid point that a block
            does not have.
    """
    check_one_stream(skeleton)
    last = len(skeleton.blocks)
    words = ", ".join(map(str, points))
    if len(points) < 2:
        raise GraphError("a transition needs two residual points")
    if any(not 0 <= p <= last for p in points):
        raise GraphError(f"residual points {words} must lie in 0..{last}")
    if any(b <= a for a, b in pairwise(points)):
        raise GraphError(f"residual points {words} must ascend")
    for point in points:
        if point % 1 not in (0, 0.5):
            raise GraphError(f"residual point {point}: l is the point before block l, l + 0.5 its mid point")
        if point % 1 and skeleton.mid[int(point)] is None:
            raise GraphError(f"block {int(point)} has no point between attention and MLP (they run in parallel)")
    return tuple(p if p % 1 else int(p) for p in points)


def _ending(points: tuple[float, ...], skeleton: Skeleton) -> tuple[float, ...]:
    last = len(skeleton.blocks)
    if points[-1] != last:
        words = ", ".join(map(str, points))
        raise GraphError(f"residual points {words} must end at {last}, where the logits are read. do: add {last}")
    return points


def _step(below: float, above: float, method: Method) -> Step:
    if below % 1:
        if above - below == 0.5:
            return Step(below, above, "local")
        raise GraphError(
            f"a transition from mid point {below} to {above} leaves its block. do: add residual point {int(below) + 1}"
        )
    if above - below <= 1 and method != "packed":
        return Step(below, above, "exact")
    if method == "exact":
        raise GraphError(f"residual points {below} and {above} are several blocks apart: no closed form. do: 'auto'")
    return Step(below, above, "packed")
