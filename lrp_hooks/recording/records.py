"""What backward passes record: one `ForwardRecord` per forward, one `PassRecord` per backward pass through it.

Records hold reduced float32 scores; tensors of the autograd graph only while a pass runs, parked for the edges.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrp_hooks.patching.tensor_parallel import summed

if TYPE_CHECKING:
    from lrp_hooks.recording.tape import Tape

HALF_SEED_SCALES = (256.0, 16.0, 1.0, 1.0 / 16.0)
"""float16 seeds, tried in order until no score overflows."""


@dataclass
class Parked:
    """What the attention calls of one block leave for its edges, until the gradient reaches the block's input.

    Attributes:
        inputs: (setting, (q, k, v), (dq, dk, dv)) per call, all [B, heads, T, d].
        outputs: (gradient [B, T, H, e], <out, gradient> [B, T, H]) per call.
        weighted: of attention that is written out, products with values whose scores are still to come.
    """

    inputs: list[tuple[Any, tuple[Tensor, ...], tuple[Tensor | None, ...]]] = field(default_factory=list)
    outputs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    weighted: list[Any] = field(default_factory=list)


@dataclass
class PassRecord:
    """Scores of one backward pass. Keys are residual points, block indices or module paths."""

    tokens: Tensor | None = None
    points: dict[int, Tensor] = field(default_factory=dict)  # point -> [B, T]
    mid: dict[int, Tensor] = field(default_factory=dict)  # block -> [B, T]
    heads: dict[int, Tensor] = field(default_factory=dict)  # block -> [B, T, H]
    neurons: dict[int, Tensor] = field(default_factory=dict)  # block -> [B, T, I]
    biases: dict[str, Tensor] = field(default_factory=dict)  # path -> [B]
    attention: dict[int, Tensor] = field(default_factory=dict)  # block -> [B]
    around: dict[tuple[int, bool], Tensor] = field(default_factory=dict)  # (block, on its way further) -> [B]
    value: Tensor | None = None  # [B]
    parked: dict[int, Parked] = field(default_factory=dict)  # block -> what its edges need

    def park(self, block: int) -> Parked:
        return self.parked.setdefault(block, Parked())

    def add(self, table: dict[Any, Tensor], key: Any, scores: Tensor) -> None:
        """Sum into ``table[key]``: a module called twice contributes twice."""
        table[key] = table[key] + scores if key in table else scores


@dataclass(frozen=True, eq=False)
class BlockInputs:
    """How a block was called, without its hidden states."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    by_name: bool

    def call(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Run the block's forward on other hidden states [B, T, D]; only their output is returned."""
        if self.by_name:
            out = block.forward(*self.args, **self.kwargs, hidden_states=hidden)
        else:
            out = block.forward(hidden, *self.args, **self.kwargs)
        while not isinstance(out, Tensor):
            out = out[0]
        return out

    def of_row(self, row: int, batch: int) -> BlockInputs:
        """The same for one row of the batch: tensors with one entry per row are cut, the others shared."""

        def cut(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(cut(v) for v in value)
            if batch > 1 and isinstance(value, Tensor) and value.dim() and value.shape[0] == batch:
                return value[row : row + 1]
            return value

        return BlockInputs(cut(self.args), {name: cut(v) for name, v in self.kwargs.items()}, self.by_name)


@dataclass(eq=False)
class Asked:
    """What the next backward passes are asked for; the streams of one forward share it.

    Attributes:
        seed_scale: factor on the backward's seed (float16 gradients underflow); scores are divided by it.
        want: the optional tables that are filled: "heads", "neurons", "absorbed", "edges".
        only: blocks whose neurons are recorded; None for all.
    """

    seed_scale: float = 1.0
    want: frozenset[str] = frozenset({"absorbed"})
    only: frozenset[int] | None = None


@dataclass(eq=False)
class ForwardRecord:
    """One forward through the instrumented model and the latest backward pass through it.

    Attributes:
        asked: what is recorded; ``seed_scale``, ``want`` and ``only`` are its fields.
        encoder: the record of the encoder's stream, in encoder-decoder models; its ``decoder`` is this one.
        on_point: called with (residual point, hidden states, gradient) when the gradient has arrived there.
        block_inputs: how each block was called.
    """

    attention_mask: Tensor | None = None
    input_ids: Tensor | None = None
    asked: Asked = field(default_factory=Asked)
    encoder: ForwardRecord | None = None
    decoder: ForwardRecord | None = None
    raw_logits: Tensor | None = None
    latest: PassRecord | None = None
    tape: Tape | None = None
    on_point: Callable[[int, Tensor, Tensor], None] | None = None
    block_inputs: dict[int, BlockInputs] = field(default_factory=dict)
    task: int = -1

    @property
    def seed_scale(self) -> float:
        return self.asked.seed_scale

    @seed_scale.setter
    def seed_scale(self, scale: float) -> None:
        self.asked.seed_scale = scale

    @property
    def want(self) -> frozenset[str]:
        return self.asked.want

    @want.setter
    def want(self, want: frozenset[str]) -> None:
        self.asked.want = want

    @property
    def only(self) -> frozenset[int] | None:
        return self.asked.only

    @only.setter
    def only(self, only: frozenset[int] | None) -> None:
        self.asked.only = only

    def current(self) -> PassRecord:
        """The record of the backward pass that is running now; a new pass starts a new record."""
        task = torch._C._current_graph_task_id()
        if self.latest is None or task != self.task:
            self.latest, self.task = PassRecord(), task
            if self.tape is not None:
                self.tape.started(self)
        return self.latest

    @property
    def rows(self) -> int:
        """Sequences in the batch."""
        assert self.attention_mask is not None
        return self.attention_mask.shape[0]

    @property
    def columns(self) -> int:
        """Tokens per sequence."""
        assert self.attention_mask is not None
        return self.attention_mask.shape[1]

    def per_row(self, scores: Tensor) -> Tensor:
        """Sum over everything but the batch, [B], also where a block has joined batch and tokens (OPT)."""
        return scores.reshape(self.rows, -1).sum(1)

    def unscaled(self, scores: Tensor) -> Tensor:
        return scores if self.seed_scale == 1.0 else scores / self.seed_scale

    def summed(self, scores: Tensor) -> Tensor:
        """Over the ranks of a tensor parallel model, each of which has a part of the heads."""
        return summed(scores, None if self.tape is None else self.tape.ranks)
