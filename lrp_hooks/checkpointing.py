"""Block checkpointing in eval mode: keep the residual stream, recompute each block's inside in the backward pass.

Transformers checkpoints only in training mode; here the blocks' forwards are wrapped, non-reentrant, so that a backward
pass runs once per layer and records once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lrp_hooks.errors import InstrumentError, RemovedError
from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.tape import Tape

Mode = bool | Literal["auto"]
AUTO_SHARE = 0.4
"""`auto` turns checkpointing on when saved activations would take more than this share of the free memory."""


@dataclass
class Checkpointing:
    """Decides per forward whether blocks are checkpointed.

    Attributes:
        mode: True, False or "auto".
        bytes_per_token: activation bytes that one token leaves behind in all blocks together, as measured on a probe.
        heads_bytes: bytes per query-key pair over all blocks for attention that builds its weights (eager); else 0.
    """

    mode: Mode
    bytes_per_token: float = 0.0
    heads_bytes: float = 0.0
    active: bool = False
    removed: bool = False

    def __post_init__(self) -> None:
        if self.mode not in (True, False, "auto"):
            raise InstrumentError(f'checkpoint={self.mode!r} is unknown. choices: True, False, "auto"')

    def decide(self, batch: int, length: int, device: torch.device) -> None:
        """Set ``active`` for a forward over ``batch`` x ``length`` tokens."""
        if self.mode == "auto":
            needed = batch * length * (self.bytes_per_token + self.heads_bytes * length)
            self.active = needed > AUTO_SHARE * free_memory(device)
        else:
            self.active = bool(self.mode)


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
