"""Packed products: the oracle of the closed form, and the way for spans of blocks and blocks without softmax attention.

Blocks are run on copies of the sequence, one copy per target row, and one backward pass gives the rows of a chunk.
Source: arXiv 2604.17761, appendix A.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from lrp_hooks.graph.prune import RowBlocks
from lrp_hooks.ops import relevance_sum
from lrp_hooks.recording.checkpointing import Checkpointing
from lrp_hooks.recording.records import BlockInputs, ForwardRecord
from lrp_hooks.recording.tape import Tape
from lrp_hooks.structure.skeleton import Skeleton

MOST_COPIES = 64
"""More copies than this save no time."""


@dataclass(frozen=True, eq=False)
class PackedSpan:
    """One sequence through neighbouring blocks, ready to be run on copies.

    Attributes:
        blocks: each block with how it was called.
        hidden: [1, T, D] at the first block's input; gradient: [1, T, D] at the last block's output.
        unscale: divides the edges (the float16 seed).
    """

    blocks: Sequence[tuple[nn.Module, BlockInputs]]
    hidden: Tensor
    gradient: Tensor
    tape: Tape
    unscale: float

    def edges(self, rows: Tensor) -> Tensor:
        """[R, T] edges into rows [R]."""
        if len(rows) < 2:
            return self._on_copies(rows)
        try:
            return self._on_copies(rows)
        except (RuntimeError, ValueError, IndexError):  # blocks whose masks or biases are made for the batch's size
            return torch.cat([self._on_copies(row) for row in torch.split(rows, 1)])

    def _on_copies(self, rows: Tensor) -> Tensor:
        copies = self.hidden.expand(len(rows), -1, -1).clone().requires_grad_()
        with torch.enable_grad(), self.tape.recording(None):
            out = copies
            for block, inputs in self.blocks:
                out = inputs.call(block, out)
        seed = torch.zeros_like(out)
        index = torch.arange(len(rows), device=rows.device)
        seed[index, rows] = self.gradient[0, rows].to(seed.device)
        (grads,) = torch.autograd.grad(out, copies, seed)
        return relevance_sum(copies.detach(), grads) / self.unscale

    def row_blocks(self, wanted: Tensor, memory: Checkpointing) -> RowBlocks:
        """The wanted rows in chunks of as many copies as fit."""
        chunk = copies_that_fit(memory, self.hidden.shape[1], len(self.blocks), self.hidden.device)
        return RowBlocks(torch.split(wanted.to(self.hidden.device), chunk) if len(wanted) else (), self.edges)


@dataclass(eq=False)
class StateCollector:
    """Keeps one row's hidden states and gradients at residual points of one backward pass.

    Attributes:
        points: at which; None for all. Those of the latest point are there besides.
    """

    record: ForwardRecord
    row: int
    points: frozenset[int] | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    gradient: dict[int, Tensor] = field(default_factory=dict)
    latest: tuple[int, Tensor] | None = None

    def on_point(self, point: int, hidden: Tensor, gradient: Tensor) -> None:
        one = slice(self.row, self.row + 1)
        if self.points is None or point in self.points:
            self.hidden[point], self.gradient[point] = hidden[one].detach(), gradient[one].detach()
        self.latest = point, gradient[one].detach()

    def keep_block(self, block: int, hidden: Tensor, above: tuple[int, Tensor] | None) -> None:
        """Keep what a block turned out to need, when the pass is at its input; ``above``: `latest` before that."""
        assert above is not None
        assert above[0] == block + 1
        self.hidden[block] = hidden[self.row : self.row + 1].detach()
        self.gradient[block + 1] = above[1]

    def span(self, skeleton: Skeleton, tape: Tape, source: int, end: int) -> PackedSpan:
        """Blocks ``source`` .. ``end - 1``."""
        batch, inputs = self.record.rows, self.record.block_inputs
        blocks = [(skeleton.blocks[b][1], inputs[b].of_row(self.row, batch)) for b in range(source, end)]
        return PackedSpan(blocks, self.hidden[source], self.gradient[end], tape, self.record.seed_scale)


def copies_that_fit(memory: Checkpointing, length: int, span: int, device: torch.device) -> int:
    """How many copies of ``length`` tokens may run through ``span`` blocks at once.

    From the activation bytes that instrumenting the model measured on a probe, and the memory that is free now.
    """
    one = memory.block_bytes(1, length) * span
    return max(1, min(MOST_COPIES, int(memory.room(device) / max(one, 1.0))))
