"""What a backward pass records: one `ForwardRecord` per forward, one `PassRecord` per backward pass through it.

Nothing is recorded by forward hooks (they fire twice under checkpointing): taps are identity functions in the autograd
graph whose backward sees the gradient once per pass. Records hold reduced float32 scores, never tensors of the graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.ops import RuleFunction, relevance_sum
from lrp_hooks.parallel import is_sharded, local, summed
from lrp_hooks.patching import NotCopyable, loaded


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


@dataclass(frozen=True, eq=False)
class AttentionRun:
    """One call of the attention function, as the block makes it.

    Attributes:
        q, k, v: [B, H, T, d]; mask: what the block passes; options: its keywords.
        block: index of the block, None outside.
    """

    base: Callable[..., Any]
    module: Any
    q: Tensor
    k: Tensor
    v: Tensor
    mask: Any
    options: dict[str, Any]
    block: int | None

    def run(self, mask: Any) -> tuple[Tensor, Any]:
        """(out [B, T, H, d], weights or None) with another mask."""
        out, weights = self.base(self.module, self.q, self.k, self.v, mask, **self.options)
        return out, weights


class Detour(ABC):
    """Takes every attention call while it is set: blocks run without their attention, or with parts of it cut."""

    @abstractmethod
    def attend(self, call: AttentionRun) -> tuple[Tensor, Any]:
        """Called instead of the attention function; returns (out [B, T, H, d], weights or None)."""

    @abstractmethod
    def scores(self, q: Tensor, k: Tensor) -> None:
        """Told of queries and keys [B, H, T, d] of an attention that a block writes out."""

    @abstractmethod
    def weigh(self, weights: Tensor, v: Tensor, block: int | None) -> Tensor:
        """The weights [B, H, T, T] that such an attention goes on with; ``v`` [B, H, T, d] are its values."""


class Tape(NotCopyable):
    """The switch between rules and records: which forward is running now, and which the last backward went through.

    Attributes:
        record: of the forward that is running.
        last: of the forward that the latest backward pass went through.
        forwards: how many forwards have been recorded.
        mixed: whether the latest backward pass went through several forwards.
        detour: set while attention calls are taken elsewhere.
        rows: sequences in the batch while it is.
        ranks: the process group of a tensor parallel model, None for whole ones.
        holds_bias: whether an attention call was given a bias made from hidden states, which its rule holds constant.
    """

    def __init__(self) -> None:
        self.record: ForwardRecord | None = None
        self.last: ForwardRecord | None = None
        self.forwards = 0
        self.mixed = False
        self.detour: Detour | None = None
        self.rows: int | None = None
        self.ranks: Any = None
        self.scope: Any = None
        self.holds_bias = False

    @contextmanager
    def own_rule(self) -> Iterator[None]:
        """What runs inside has a rule of its own: nothing is claimed operation by operation."""
        scope = self.scope
        if scope is not None:
            scope.suspended += 1
        try:
            yield
        finally:
            if scope is not None:
                scope.suspended -= 1

    def started(self, record: ForwardRecord) -> None:
        """A backward pass has reached ``record``."""
        self.mixed = self.last is not None and self.last is not record and self.last.task == record.task
        self.last = record

    @contextmanager
    def detoured(self, detour: Detour, rows: int) -> Iterator[None]:
        """Attention calls inside go to ``detour``; nothing is recorded and no gradient kept. ``rows``: the batch."""
        self.detour, self.rows = detour, rows
        try:
            with torch.no_grad(), self.recording(None):
                yield
        finally:
            self.detour = self.rows = None

    @contextmanager
    def recording(self, record: ForwardRecord | None) -> Iterator[None]:
        """Everything that runs inside reports to ``record``."""
        before, self.record = self.record, record
        try:
            yield
        finally:
            self.record = before


Store = Callable[[Tensor, Tensor], None]
"""Takes a value and its gradient, in the backward pass."""


class _Tap(RuleFunction):
    """Identity that saves its value and hands (value, gradient) to ``store`` in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, store: Store) -> Tensor:
        out = x.view_as(x)
        ctx.save_for_backward(x)
        ctx.store = store
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.store(x, grads[0])
        return grads[0], None


class _InPlaceTap(RuleFunction):
    """The same, in place: whoever holds the tensor object sees the tapped one, so every use of it counts.

    A residual stream between attention and MLP is read twice (by the next norm and by the residual sum), and a module
    hook sees only one of the two reads.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, store: Store) -> Tensor:
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        ctx.store = store
        return x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        ctx.store(x, grads[0])
        return grads[0], None


class _ConstantTap(RuleFunction):
    """Identity on x = (something) + constant that hands the gradient to ``store``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, store: Callable[[Tensor], None]) -> Tensor:
        ctx.store = store
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        ctx.store(grads[0])
        return grads[0], None


def tap(x: Tensor, store: Store) -> Tensor:
    out: Tensor = _Tap.call(x, store)
    return out


def tap_in_place(x: Tensor, store: Store) -> None:
    _InPlaceTap.call(x, store)


def tap_constant(x: Tensor, store: Callable[[Tensor], None]) -> Tensor:
    out: Tensor = _ConstantTap.call(x, store)
    return out


def per_row(scores: Tensor) -> Tensor:
    """Sum over everything but the batch, [B]."""
    return scores.reshape(scores.shape[0], -1).sum(1)


def store_point(record: ForwardRecord, point: int) -> Store:
    def store(x: Tensor, grad: Tensor) -> None:
        current = record.current()
        current.add(current.points, point, record.unscaled(relevance_sum(x, grad)))
        if record.on_point is not None:
            record.on_point(point, x, grad)

    return store


def tap_around(record: ForwardRecord, block: int, value: Any) -> Any:
    """Tap what a block is given besides its hidden states and carries relevance: it flows around residual points.

    A tensor given by itself is used by this block. One in a dictionary that the blocks share (keys and values of an
    earlier block) is put back tapped, so that a tap sees what all later blocks make of it.
    """
    if isinstance(value, Tensor):
        return tap(value, _store_around(record, block, False)) if value.requires_grad else value
    if isinstance(value, dict):
        for key in value:
            value[key] = _tap_shared(record, block, value[key])
    return value


def _tap_shared(record: ForwardRecord, block: int, value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_tap_shared(record, block, v) for v in value)
    if isinstance(value, Tensor) and value.requires_grad:
        return tap(value, _store_around(record, block, True))
    return value


def _store_around(record: ForwardRecord, block: int, shared: bool) -> Store:
    def store(x: Tensor, grad: Tensor) -> None:
        if record.want & {"absorbed", "edges"}:
            current = record.current()
            current.add(current.around, (block, shared), record.unscaled(record.per_row(relevance_sum(x, grad))))

    return store


def store_mid(record: ForwardRecord, block: int) -> Store:
    def store(x: Tensor, grad: Tensor) -> None:
        current = record.current()
        current.add(current.mid, block, record.unscaled(relevance_sum(x, grad)))

    return store


def store_tokens(record: ForwardRecord) -> Store:
    def store(x: Tensor, grad: Tensor) -> None:
        current, scores = record.current(), record.unscaled(relevance_sum(as_tokens(x), as_tokens(grad)))
        current.tokens = scores if current.tokens is None else current.tokens + scores

    return store


def as_tokens(x: Tensor) -> Tensor:
    """[B, T, D]: a map of patches [B, D, height, width] is read row by row."""
    return x.flatten(2).transpose(1, 2) if x.dim() == 4 else x


def store_value(record: ForwardRecord) -> Store:
    """The explained value sum_k l_k df/dl_k, from the logits [B, T, V] or [B, V]."""

    def store(logits: Tensor, grad: Tensor) -> None:
        current, scores = record.current(), per_row(relevance_sum(logits, grad))
        current.value = scores if current.value is None else current.value + scores

    return store


def store_received(record: ForwardRecord) -> Store:
    """What an encoder's stream explains: the relevance that its output receives from the decoder's blocks."""

    def store(x: Tensor, grad: Tensor) -> None:
        current, scores = record.current(), record.unscaled(per_row(relevance_sum(x, grad)))
        current.value = scores if current.value is None else current.value + scores

    return store


def store_bias(record: ForwardRecord, path: str, module: nn.Module) -> Callable[[Tensor], None]:
    """The share <b, gradient> of a module's additive bias."""

    def store(grad: Tensor) -> None:
        if "absorbed" in record.want:
            with loaded(module):
                bias: Any = module.bias
                per_token = relevance_bias(local(bias).detach(), channels_last(module, grad))
                share = record.per_row(per_token)
                share = record.summed(share) if is_sharded(bias) else share
            current = record.current()
            current.add(current.biases, path, record.unscaled(share))

    return store


def store_offset(record: ForwardRecord, path: str, offset: float) -> Callable[[Tensor], None]:
    """The share of a constant number added to every element, f(0) of an activation."""

    def store(grad: Tensor) -> None:
        if "absorbed" in record.want:
            current = record.current()
            current.add(current.biases, path, record.unscaled(record.per_row(grad.float()) * offset))

    return store


def channels_last(module: nn.Module, grad: Tensor) -> Tensor:
    """A convolution's output has its channels, and so its bias, in dimension 1."""
    return grad.movedim(1, -1) if isinstance(module, (nn.Conv1d, nn.Conv2d)) else grad


def relevance_bias(bias: Tensor, grad: Tensor) -> Tensor:
    """<bias, grad> over the last dimension, in float32 (float64 for float64)."""
    return relevance_sum(bias.expand(grad.shape[-bias.dim() :]), grad)


def store_neurons(record: ForwardRecord | None, block: int | None) -> Store | None:
    """Neuron scores: act(gate) * up (in the compute dtype) times its gradient, per element, on request."""
    if record is None or block is None:
        return None

    def store(value: Tensor, grad: Tensor) -> None:
        if "neurons" in record.want and (record.only is None or block in record.only):
            current = record.current()
            scores = (value * grad.to(value.dtype)).reshape(record.rows, -1, value.shape[-1])
            current.add(current.neurons, block, record.unscaled(scores))

    return store
