"""Block checkpointing in eval mode: keep the residual stream, recompute each block's inside in the backward pass.

Transformers checkpoints only in training mode; here the blocks' forwards are wrapped, non-reentrant, so that a backward
pass runs once per layer and records once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lrp_hooks.errors import InputError, InstrumentError, RemovedError
from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.tape import Tape

Mode = bool | Literal["auto"]
AUTO_SHARE = 0.4
"""`auto` turns checkpointing on when saved activations would take more than this share of the free memory."""
ROOM_SHARE = 0.3
"""Share of the free memory that a chunk of re-run copies may take."""


@dataclass
class Checkpointing:
    """Decides per forward whether blocks are checkpointed.

    Attributes:
        mode: True, False or "auto".
        budget: bytes that activations may take, or None for what the device has free.
        bytes_per_token: activation bytes that one token leaves behind in all blocks together, as measured on a probe.
        heads_bytes: bytes per query-key pair over all blocks for attention that builds its weights (eager); else 0.
        stream_bytes: bytes of one token at one residual point.
        blocks: how many there are.
    """

    mode: Mode
    budget: int | None = None
    bytes_per_token: float = 0.0
    heads_bytes: float = 0.0
    stream_bytes: float = 0.0
    blocks: int = 1
    active: bool = False
    removed: bool = False

    def __post_init__(self) -> None:
        if self.mode not in (True, False, "auto"):
            raise InstrumentError(f'checkpoint={self.mode!r} is unknown. choices: True, False, "auto"')

    def decide(self, batch: int, length: int, device: torch.device) -> None:
        """Set ``active`` for a forward over ``batch`` x ``length`` tokens.

        Raises:
            InputError: the budget is too small; says the least that would do.
        """
        whole = self.block_bytes(batch, length) * self.blocks
        limit = self.budget if self.budget is not None else AUTO_SHARE * free_memory(device)
        self.active = whole > limit if self.mode == "auto" else bool(self.mode)
        if self.budget is not None:
            needed = self.checkpointed_bytes(batch, length) if self.active else whole
            if needed > self.budget:
                advice = "a shorter prompt, or" if self.active else 'checkpoint="auto", or'
                raise InputError(
                    f"{batch} x {length} tokens need about {megabytes(needed)} for activations, max_memory allows "
                    f"{megabytes(self.budget)}. do: {advice} max_memory={math.ceil(needed)}"
                )

    def block_bytes(self, batch: int, length: int) -> float:
        """Activation bytes of one block."""
        return batch * length * (self.bytes_per_token + self.heads_bytes * length) / self.blocks

    def checkpointed_bytes(self, batch: int, length: int) -> float:
        """The residual stream at every point and the inside of one block."""
        return batch * length * self.stream_bytes * (self.blocks + 1) + self.block_bytes(batch, length)

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

        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)

    return replace_forward(block, forward, outermost=True)


class SavedBytes:
    """Counts the bytes of distinct storages that autograd saves, parameters left out."""

    def __init__(self, model: nn.Module):
        self._known = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.total = 0

    def measuring(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)

    def _pack(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in self._known:
            self._known.add(storage.data_ptr())
            self.total += storage.nbytes()
        return x
