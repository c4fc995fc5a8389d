"""Collectors: they listen at the residual points of one backward pass and make each block's edges when it arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.edges import Transition, carried_parts, is_token_local, packed_rows, transition
from lrp_hooks.structure import Skeleton
from lrp_hooks.tape import BlockInputs, ForwardRecord, Tape

By = Literal["sum", "head", "path"]


@dataclass(eq=False)
class BlockKnowledge:
    """What is found out once per instrumented model: which blocks are exact, which carry no constants."""

    token_local: dict[int, bool] = field(default_factory=dict)
    constant_free: set[int] = field(default_factory=set)


@dataclass(eq=False)
class TransitionSource:
    """Makes the `Transition` of a block the moment the gradient reaches the block's input.

    Attributes:
        row: which sequence of the batch.
        each: called with (block, transition, relevance at its input [T], relevance at its output [T]).
        blocks: which blocks are wanted.
    """

    skeleton: Skeleton
    tape: Tape
    record: ForwardRecord
    knowledge: BlockKnowledge
    row: int
    blocks: frozenset[int]
    each: Callable[[int, Transition, Tensor, Tensor], None]

    def on_point(self, point: int, hidden: Tensor, gradient: Tensor) -> None:
        """Called in the backward pass; block ``point`` lies between residual points ``point`` and ``point + 1``."""
        current = self.record.current()
        parked = current.parked.pop(point, None)
        if point not in self.blocks:
            return
        if parked is None:
            raise GraphError(
                f"block {point} made no softmax attention call: its edges have no closed form. do: method='packed'"
            )
        block, inputs = self.skeleton.blocks[point][1], self.record.block_inputs[point]
        self._check_local(point, hidden)
        carried = None
        if point not in self.knowledge.constant_free:
            carried = carried_parts(block, inputs, hidden, self.tape)
            if carried is None:
                self.knowledge.constant_free.add(point)
        relevance = current.points[point]
        made = transition(parked, hidden, relevance, carried, self.row, self.record.seed_scale)
        self.each(point, made, relevance[self.row], current.points[point + 1][self.row])

    def _check_local(self, point: int, hidden: Tensor) -> None:
        known = self.knowledge.token_local
        if point not in known:
            block, inputs = self.skeleton.blocks[point][1], self.record.block_inputs[point]
            known[point] = hidden.shape[1] < 2 or is_token_local(block, inputs, hidden.detach(), self.tape)
        if not known[point]:
            path, block = self.skeleton.blocks[point]
            raise GraphError(
                f"{path} ({type(block).__name__}) mixes tokens outside its attention: no closed form. "
                "do: method='packed'"
            )


@dataclass(eq=False)
class StateCollector:
    """Keeps hidden states and gradients at residual points, for packed products."""

    record: ForwardRecord
    row: int
    hidden: dict[int, Tensor] = field(default_factory=dict)
    gradient: dict[int, Tensor] = field(default_factory=dict)

    def on_point(self, point: int, hidden: Tensor, gradient: Tensor) -> None:
        self.hidden[point] = hidden[self.row : self.row + 1].detach()
        self.gradient[point] = gradient[self.row : self.row + 1].detach()

    def inputs(self, block: int, batch: int) -> BlockInputs:
        return self.record.block_inputs[block].of_row(self.row, batch)


def packed_matrix(
    skeleton: Skeleton, tape: Tape, states: StateCollector, source: int, end: int, batch: int, chunk: int = 32
) -> Tensor:
    """[T, T] edges from residual point ``source`` to ``end`` by packed products."""
    blocks = [(skeleton.blocks[b][1], states.inputs(b, batch)) for b in range(source, end)]
    hidden, gradient = states.hidden[source], states.gradient[end]
    wanted = torch.arange(hidden.shape[1], device=hidden.device)
    rows = [edges for _, edges in packed_rows(blocks, hidden, gradient, wanted, tape, chunk)]
    return states.record.unscaled(torch.cat(rows))


def transitions(points: Sequence[int] | None, blocks: int) -> list[tuple[int, int]]:
    """Pairs of neighbouring residual points of a list (default: all).

    Raises:
        GraphError: points out of range or not ascending.
    """
    chosen = list(range(blocks + 1)) if points is None else list(points)
    if len(chosen) < 2:
        raise GraphError("a transition needs two residual points")
    if any(not 0 <= p <= blocks for p in chosen):
        raise GraphError(f"residual points {chosen} must lie in 0..{blocks}")
    if any(b <= a for a, b in pairwise(chosen)):
        raise GraphError(f"residual points {chosen} must ascend")
    return list(pairwise(chosen))
