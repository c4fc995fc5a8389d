"""Saved residual streams outside of the device: on disk for a model on the CPU, in the CPU's memory for one on a GPU.

With checkpointing, what a forward leaves behind is the residual stream at every point; moved away, what is left on the
device is one block's inside, whatever the number of blocks. Each tensor is written once and read when the backward pass
reaches it, any number of times; the file has no name and goes away with the trace.
"""

from __future__ import annotations

import tempfile
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


@dataclass(frozen=True, eq=False)
class _Away:
    """A tensor that was moved: its bytes are at ``at`` in the file, or ``held`` in the CPU's memory."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    at: int = 0
    held: Tensor | None = None


class Offload:
    """Moves saved tensors away and brings them back, for one forward.

    Attributes:
        least: smaller tensors stay, in bytes.
        moved: bytes that were moved so far.
    """

    def __init__(self, least: int, skip: frozenset[int] = frozenset()) -> None:
        """``skip``: data pointers of storages that stay in any case (parameters)."""
        self.least, self.moved = max(1, least), 0
        self._skip = skip
        self._file: Any = None
        self._known: dict[Any, tuple[Any, _Away]] = {}

    def saving(self) -> torch.autograd.graph.saved_tensors_hooks:
        """While it is entered, what autograd saves is moved."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)

    def _pack(self, x: Tensor) -> Tensor | _Away:
        storage = x.untyped_storage()
        if x.nbytes < self.least or storage.data_ptr() in self._skip or not x.is_contiguous():
            return x
        # one residual point is saved several times, as views of one storage; a weak reference keeps its address
        key = (storage._cdata, x.storage_offset(), x.shape, x._version)
        known = self._known.get(key)
        if known is not None and not known[0].expired():
            return known[1]
        away = self._move(x.detach())
        self._known[key] = (StorageWeakRef(storage), away)  # type: ignore[no-untyped-call]
        return away

    def _move(self, x: Tensor) -> _Away:
        self.moved += x.nbytes
        if x.device.type != "cpu":
            return _Away(x.shape, x.dtype, x.device, held=x.to("cpu"))
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="lrp-hooks-")  # noqa: SIM115 - it lives as long as the graph
            weakref.finalize(self, self._file.close)
        at = self._file.seek(0, 2)
        self._file.write(_bytes(x))
        return _Away(x.shape, x.dtype, x.device, at=at)

    def _unpack(self, saved: Tensor | _Away) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        if saved.held is not None:
            return saved.held.to(saved.device)
        back = torch.empty(saved.shape, dtype=saved.dtype)
        self._file.seek(saved.at)
        self._file.readinto(_bytes(back))
        return back


def _bytes(x: Tensor) -> Any:
    """The memory of a contiguous CPU tensor, whatever its dtype."""
    return x.view(-1).view(torch.uint8).numpy().data
