"""One backward pass to one graph: listens at the residual points, then does what has no closed form."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrp_hooks.checkpointing import Checkpointing
from lrp_hooks.errors import GraphError, NoClosedFormError
from lrp_hooks.graph.build import GraphBuilder
from lrp_hooks.graph.collect import TransitionSource
from lrp_hooks.graph.packed import StateCollector
from lrp_hooks.graph.plan import Method, Step
from lrp_hooks.structure import Skeleton
from lrp_hooks.tape import ForwardRecord, Tape

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class GraphMaker:
    """Feeds a builder: closed forms while the backward pass runs, packed products after it.

    Attributes:
        method: with "auto", a block without a closed form is done by packed products and a warning says so.
        memory: what was measured about activations, for the size of packed chunks.
    """

    skeleton: Skeleton
    tape: Tape
    record: ForwardRecord
    source: TransitionSource
    states: StateCollector
    builder: GraphBuilder
    method: Method
    memory: Checkpointing

    def on_point(self, point: int, hidden: Tensor, gradient: Tensor) -> None:
        """Called in the backward pass at every residual point, from the last to the first."""
        above = self.states.latest
        try:
            self.source.on_point(point, hidden, gradient)
        except NoClosedFormError as error:
            if self.method == "exact" or self.builder.detail:
                raise
            self._fall_back(point, str(error))
            self.states.keep_block(point, hidden, above)
        self.builder.local(point)
        self.states.on_point(point, hidden, gradient)

    def _fall_back(self, block: int, why: str) -> None:
        plan = self.builder.plan
        logger.warning("packed products are used for block %d, as slow as they are: %s", block, why)
        steps = tuple(s.packed() if s.kind == "exact" and s.block == block else s for s in plan.steps)
        self.builder.plan = replace(plan, steps=steps)

    def finish(self) -> None:
        """Everything that needs blocks to be run again."""
        for step in self.builder.plan.packed_steps():
            if self.builder.detail:
                raise GraphError("detail needs closed forms: packed products know no heads or paths. do: detail=False")
            self._packed(step)

    def _packed(self, step: Step) -> None:
        span = self.states.span(self.skeleton, self.tape, step.block, step.end)
        self.builder.stream(step, lambda wanted: span.row_blocks(wanted, self.memory))


def scores_of(record: ForwardRecord, row: int, point: float) -> Tensor:
    """Relevance [T] of one sequence at a residual point or mid point that the running pass has reached."""
    done = record.latest
    assert done is not None
    assert record.attention_mask is not None
    table, key = (done.mid, int(point)) if point % 1 else (done.points, int(point))
    mask = record.attention_mask[row]
    if key not in table:  # no gradient reached it
        return torch.zeros(mask.shape, device=mask.device)
    return torch.where(mask, table[key][row].to(mask.device), 0.0)
