"""Makes each block's closed form when the one backward pass reaches the block's input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from lrp_hooks.errors import NoClosedFormError
from lrp_hooks.graph.carried import carried_parts, is_token_local
from lrp_hooks.graph.edges import Transition, transition
from lrp_hooks.graph.parallel import side_by_side
from lrp_hooks.recording.records import ForwardRecord
from lrp_hooks.recording.tape import Tape
from lrp_hooks.structure.skeleton import Skeleton


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
        blocks: which blocks are wanted.
        each: called with (block, transition).
    """

    skeleton: Skeleton
    tape: Tape
    record: ForwardRecord
    knowledge: BlockKnowledge
    row: int
    blocks: frozenset[int]
    each: Callable[[int, Transition], None]

    def on_point(self, point: int, hidden: Tensor, gradient: Tensor) -> None:
        """Called in the backward pass; block ``point`` lies between residual points ``point`` and ``point + 1``.

        Raises:
            NoClosedFormError: the block mixes tokens in other ways than by softmax attention calls side by side.
        """
        current = self.record.current()
        parked = current.parked.pop(point, None)
        if point not in self.blocks:
            return
        if parked is None:
            raise NoClosedFormError(
                f"block {point} made no softmax attention call: its edges have no closed form. do: method='packed'"
            )
        block, inputs = self.skeleton.blocks[point][1], self.record.block_inputs[point]
        self._check_local(point, hidden)
        carried = None
        if len(parked.inputs) > 1:
            runs = carried_parts(block, inputs, hidden, self.tape, len(parked.inputs))
            parked, carried = side_by_side(parked, runs)
        elif point not in self.knowledge.constant_free:
            (run,) = carried_parts(block, inputs, hidden, self.tape)
            carried = None if run.constant_free else run.tangents
            if carried is None:
                self.knowledge.constant_free.add(point)
        relevance = current.points[point]
        made = transition(parked, hidden, relevance, carried, self.row, self.record.seed_scale)
        self.each(point, made)

    def _check_local(self, point: int, hidden: Tensor) -> None:
        if hidden.shape[1] < 2:  # one token mixes with nothing, and says nothing about longer prompts
            return
        known = self.knowledge.token_local
        if point not in known:
            block, inputs = self.skeleton.blocks[point][1], self.record.block_inputs[point]
            known[point] = is_token_local(block, inputs, hidden.detach(), self.tape)
        if not known[point]:
            path, block = self.skeleton.blocks[point]
            raise NoClosedFormError(
                f"{path} ({type(block).__name__}) mixes tokens outside its attention: no closed form. "
                "do: method='packed'"
            )
