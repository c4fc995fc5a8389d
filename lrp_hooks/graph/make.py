"""One backward pass to one graph: listens at the residual points, then does what has no closed form."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lrp_hooks.errors import GraphError, NoClosedFormError
from lrp_hooks.graph.build import GraphBuilder
from lrp_hooks.graph.collect import TransitionSource
from lrp_hooks.graph.packed import StateCollector
from lrp_hooks.graph.plan import Method, Step
from lrp_hooks.recording.checkpointing import Checkpointing
from lrp_hooks.recording.records import ForwardRecord
from lrp_hooks.recording.result import around_points
from lrp_hooks.recording.tape import Tape
from lrp_hooks.relevance import Relevance
from lrp_hooks.structure.skeleton import Skeleton

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


def explained_positions(relevance: Relevance, row: int) -> tuple[int, ...]:
    """The tokens at the last residual point whose logits are explained: the target's, or all that the head reads."""
    if relevance.position is not None:
        return (int(relevance.position[row]),)
    return tuple(torch.nonzero(relevance.layers[row, -1]).flatten().tolist())


def check_cuts(record: ForwardRecord, relevance: Relevance, row: int, method: Method) -> float:
    """Largest share of sum |R| that passes a residual point on another way: shared keys and values, inputs per layer.

    Such ways have no edges in a graph of residual points.

    Raises:
        NoClosedFormError: there are such ways, and the graph was to be exact.
    """
    points, nothing = relevance.layers.shape[1], torch.zeros_like(relevance.value)
    passing = None if record.latest is None else around_points(record.latest, points, nothing)
    if passing is None:
        return 0.0
    whole = relevance.layers[row].abs().sum(-1).clamp_min(torch.finfo(torch.float32).tiny)
    around = float((passing[row].to(whole).abs() / whole).max())
    if around and method == "exact":
        raise NoClosedFormError(
            f"up to {around:.0%} of relevance passes residual points on other ways (keys and values or inputs that "
            "several blocks share), and a graph of residual points has no edges for those. "
            "do: method='auto' draws all others, and the graph says the share"
        )
    if around:
        logger.warning("up to %.0f%% of relevance passes residual points on other ways; no edges show it", 100 * around)
    return around


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
