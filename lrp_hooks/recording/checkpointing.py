"""Block checkpointing in eval mode: keep the residual stream, recompute each block's inside in the backward pass.

Transformers checkpoints only in training mode; here the blocks' forwards are wrapped, non-reentrant, so that a backward
pass runs once per layer and records once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.checkpoint import checkpoint

from lrp_hooks.errors import InputError, InstrumentError, RemovedError
from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.recording.offload import Offload
from lrp_hooks.recording.tape import Tape

Mode = bool | Literal["auto"]
AUTO_SHARE = 0.4
"""`auto` turns checkpointing on when saved activations would take more than this share of the free memory."""
OFFLOAD_SHARE = 0.8
"""`auto` moves the residual streams off the device when even these would take more than this share of it."""
ROOM_SHARE = 0.3
"""Share of the free memory that a chunk of re-run copies may take."""
TWICE = 2
"""A block's inside in the backward pass: its activations, and as much again for gradients (benchmarks/long.py)."""
LIVE_POINTS = 3
"""Residual streams that stay on the device when the others are moved away: the embedding, its gradient, the one in
use."""


@dataclass
class Checkpointing:
    """Decides per forward what is kept of it: everything, the residual stream, or the residual stream elsewhere.

    Attributes:
        mode: True, False or "auto".
        budget: bytes that activations may take, or None for what the device has free.
        bytes_per_token: activation bytes that one token leaves behind in all blocks together, as measured on a probe.
        logit_bytes: bytes that the logits of one position leave behind; a trace has them at one, else all have them.
        heads_bytes: bytes per query-key pair over all blocks for attention that builds its weights (eager); else 0.
        stream_bytes: bytes of one token at one residual point.
        blocks: how many there are.
        weights_offloaded: whether accelerate fetches weights for each call: `auto` then always checkpoints, so that
            one block's weights at a time are held for the backward pass.
        can_offload: whether somebody moves saved tensors away when asked to (`Trace` does); ``offloading``: whether
            that is wanted for this forward.
    """

    mode: Mode
    budget: int | None = None
    bytes_per_token: float = 0.0
    logit_bytes: float = 0.0
    heads_bytes: float = 0.0
    stream_bytes: float = 0.0
    blocks: int = 1
    active: bool = False
    weights_offloaded: bool = False
    can_offload: bool = False
    offloading: bool = False
    removed: bool = False

    def __post_init__(self) -> None:
        if self.mode not in (True, False, "auto"):
            raise InstrumentError(f'checkpoint={self.mode!r} is unknown. choices: True, False, "auto"')

    def decide(self, batch: int, length: int, device: torch.device) -> None:
        """Set ``active`` and ``offloading`` for a forward over ``batch`` x ``length`` tokens.

        Raises:
            InputError: the budget is too small; says the least that would do.
        """
        whole, streams = self.whole_bytes(batch, length), self.checkpointed_bytes(batch, length)
        free = free_memory(device) if self.budget is None else 0
        limit = AUTO_SHARE * free if self.budget is None else self.budget
        self.active = self.weights_offloaded or whole > limit if self.mode == "auto" else bool(self.mode)
        far = OFFLOAD_SHARE * free if self.budget is None else self.budget
        self.offloading = self.active and self.can_offload and streams > far
        if self.budget is not None:
            self._check(batch, length, whole, streams)

    @contextmanager
    def using(self, mode: Mode) -> Iterator[None]:
        """Forwards inside go by another mode."""
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before

    @contextmanager
    def saving(self, model: nn.Module, inputs: dict[str, Any]) -> Iterator[None]:
        """Around a forward on ``inputs`` whose saved tensors may be moved away, if that is what it takes.

        Raises:
            InputError: the budget is too small.
        """
        given = inputs.get("input_ids") if inputs.get("input_ids") is not None else inputs.get("inputs_embeds")
        self.can_offload = isinstance(given, Tensor)
        try:
            if not isinstance(given, Tensor):
                yield
                return
            batch, length = given.shape[:2]
            self.decide(batch, length, given.device)
            if not self.offloading:
                yield
                return
            parameters = frozenset(s.data_ptr() for p in model.parameters() for s in storages(p))
            with Offload(int(batch * length * self.stream_bytes), parameters).saving():
                yield
        finally:
            self.can_offload = False

    def _check(self, batch: int, length: int, whole: float, streams: float) -> None:
        assert self.budget is not None
        least = min(streams, self.offloaded_bytes(batch, length)) if self.can_offload else streams
        needed = whole if not self.active else least if self.offloading else streams
        if needed > self.budget:
            advice = "a shorter prompt, or" if self.active else 'checkpoint="auto", or'
            if self.active and not self.can_offload:
                advice = "lrp.trace(), which can move activations off the device, a shorter prompt, or"
            raise InputError(
                f"{batch} x {length} tokens need about {megabytes(needed)} for activations, max_memory allows "
                f"{megabytes(self.budget)}. do: {advice} max_memory={math.ceil(needed)}"
            )

    def block_bytes(self, batch: int, length: int) -> float:
        """Activation bytes of one block."""
        return batch * length * (self.bytes_per_token + self.heads_bytes * length) / self.blocks

    def whole_bytes(self, batch: int, length: int) -> float:
        """The inside of all blocks, and the gradients inside one."""
        inside = self.block_bytes(batch, length) * (self.blocks + TWICE - 1)
        return inside + self._logits(batch, 1 if self.can_offload else length)

    def checkpointed_bytes(self, batch: int, length: int) -> float:
        """The residual stream at every point and the inside of one block."""
        return self._streams(batch, length, self.blocks + 1) + self._logits(batch, 1 if self.can_offload else length)

    def offloaded_bytes(self, batch: int, length: int) -> float:
        """The same, in a trace, with all residual streams elsewhere but those in use."""
        return self._streams(batch, length, min(LIVE_POINTS, self.blocks + 1)) + self._logits(batch, 1)

    def _streams(self, batch: int, length: int, points: int) -> float:
        return batch * length * self.stream_bytes * points + TWICE * self.block_bytes(batch, length)

    def _logits(self, batch: int, positions: int) -> float:
        """What logits leave behind, and its gradients."""
        return TWICE * batch * positions * self.logit_bytes

    def room(self, device: torch.device) -> float:
        """Bytes for work beside what a backward pass holds: a share of what is free, at most the budget."""
        free = float(free_memory(device))
        return ROOM_SHARE * (free if self.budget is None else min(free, self.budget))


def megabytes(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e6:,.0f} MB"


def free_memory(device: torch.device) -> int:
    """Free bytes on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return int(psutil.virtual_memory().available)


def checkpoint_block(block: nn.Module, state: Checkpointing, tape: Tape) -> Handle:
    """Register on one block. The recomputation reports to the record of the forward it repeats."""

    def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not (state.active and torch.is_grad_enabled() and tape.record is not None):
            return original(*args, **kwargs)
        record = tape.record

        def run(*args: Any, **kwargs: Any) -> Any:
            if state.removed:
                raise RemovedError(
                    "the backward pass recomputes blocks, but the instrumentation was removed in between. "
                    "do: run .backward() before remove()"
                )
            with tape.recording(record):
                return original(*args, **kwargs)

        # stopped early, accelerate would not put the last weights of an offloaded block away again
        stop = not state.weights_offloaded
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, early_stop=stop, **kwargs)

    return replace_forward(block, forward, outermost=True)


class SavedBytes:
    """Counts the bytes of distinct storages that autograd saves, parameters left out.

    Weights are not kept: no backward pass follows, and offloaded ones would all be in memory at once.
    """

    def __init__(self, model: nn.Module):
        self._known = {s.data_ptr() for p in model.parameters() for s in storages(p)}
        self.total = self.inside = 0

    def blocks_done(self) -> None:
        """What is saved from here on belongs to the head; ``inside``: what was saved before."""
        self.inside = self.total

    def measuring(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)

    def _pack(self, x: Tensor) -> Tensor | None:
        if is_weight(x):
            return None
        for storage in storages(x):
            if storage.data_ptr() not in self._known:
                self._known.add(storage.data_ptr())
                self.total += storage.nbytes()
        return x


def is_weight(x: Tensor) -> bool:
    """Whether a saved tensor is a parameter or a view of one."""
    return isinstance(x, nn.Parameter) or isinstance(x._base, nn.Parameter)


def without_weights() -> torch.autograd.graph.saved_tensors_hooks:
    """Inside, autograd graphs are made to be looked at: weights are not kept, and no backward pass can follow."""
    return torch.autograd.graph.saved_tensors_hooks(lambda x: None if is_weight(x) else x, lambda x: x)


def storages(x: Any) -> Iterator[torch.UntypedStorage]:
    """Where the tensor's bytes lie; a quantised weight is a wrapper around several tensors and has none of its own."""
    if is_traceable_wrapper_subclass(x):
        for name in x.__tensor_flatten__()[0]:
            inner = getattr(x, name)  # a distributed tensor also keeps its device mesh here
            if isinstance(inner, Tensor):
                yield from storages(inner)
    else:
        yield x.untyped_storage()
