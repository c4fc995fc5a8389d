"""How kernels are started: for which machine, with which blocks, and the one door that every launch goes through.

Nothing here imports triton; the kernels that are handed in have done so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""What the kernels take."""
MAX_WIDTH = 256
"""Largest head dimension of the attention kernels in half precision; half of it in float32."""
MAX_NORM = 1 << 15
"""Widest norm: its kernel holds a row in registers as a whole."""

ALIGNED = 16
"""Numbers. Rows at other distances are loaded one by one, each with its own address: slow, and the registers spill."""


class UnsupportedInput(ValueError):
    """A kernel cannot take these tensors; the message says which and why."""


@dataclass(frozen=True)
class Target:
    """What a kernel is compiled for: ("cuda", 80), ("cuda", 90), ("hip", "gfx942"), or the interpreter."""

    backend: Literal["cuda", "hip", "interpreter"]
    arch: int | str = 0

    @property
    def shared_bytes(self) -> int:
        """Shared memory that one block may have."""
        if self.backend == "hip":
            return 64 * 1024
        return 227 * 1024 if isinstance(self.arch, int) and self.arch >= 90 else 163 * 1024

    def kind(self, dtype: torch.dtype) -> str:
        """Row of the tables of launches: what the tensor cores and the memories of a generation have in common."""
        if self.backend == "interpreter":
            return "interpreter"
        chip = "gfx942" if self.backend == "hip" else "sm_90" if self.arch == 90 else "sm_80"
        return f"{chip} {'float32' if dtype == torch.float32 else 'half'}"

    @property
    def precision(self) -> str:
        """How float32 products are made: three tf32 products on NVIDIA, float32 instructions on AMD."""
        return {"cuda": "tf32x3", "hip": "ieee", "interpreter": "interpreted"}[self.backend]


@dataclass(frozen=True)
class Launch:
    """Block sizes by their name in the kernel, warps and pipeline stages."""

    blocks: Mapping[str, int]
    warps: int = 4
    stages: int = 1

    @property
    def options(self) -> dict[str, int | bool]:
        """What the compiler is told. Fused multiply-adds are said explicitly: triton's default is about to change."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": True}


Sizes = tuple[int, int, int, int, int]
"""Widest head dimension that the entry is for, rows, columns, warps, stages."""


def sizes_for(
    table: Mapping[str, tuple[Sizes, ...]], what: str, target: Target, dtype: torch.dtype, width: int
) -> Sizes:
    """The first entry of the target's row that is wide enough."""
    for entry in table[target.kind(dtype)]:
        if width <= entry[0]:
            return entry
    widest, name = table[target.kind(dtype)][-1][0], str(dtype).removeprefix("torch.")
    raise UnsupportedInput(f"{what}: the head dimension is {width}; in {name} the kernel takes up to {widest}")


@dataclass(frozen=True)
class Call:
    """One recorded launch."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: Mapping[str, Any]
    launch: Launch


@dataclass(eq=False)
class _Recording:
    target: Target
    calls: list[Call] = field(default_factory=list)


_RECORDING: ContextVar[_Recording | None] = ContextVar("recording", default=None)


@contextmanager
def recorded(target: Target) -> Iterator[list[Call]]:
    """Launches are written down as they would be made on ``target`` instead of run; tensors may be on "meta"."""
    recording = _Recording(target)
    token = _RECORDING.set(recording)
    try:
        yield recording.calls
    finally:
        _RECORDING.reset(token)


def target_of(x: Tensor) -> Target:
    """The machine that holds a tensor; the interpreter for a tensor on the CPU."""
    recording = _RECORDING.get()
    if recording is not None:
        return recording.target
    if not x.is_cuda:
        return Target("interpreter")
    if torch.version.hip is not None:
        return Target("hip", torch.cuda.get_device_properties(x.device).gcnArchName.split(":")[0])
    major, minor = torch.cuda.get_device_capability(x.device)
    return Target("cuda", 10 * major + minor)


def run(kernel: Any, grid: tuple[int, ...], launch: Launch, **arguments: Any) -> None:
    """Start a kernel on its tensors' device; an empty grid starts nothing."""
    recording = _RECORDING.get()
    if recording is not None:
        recording.calls.append(Call(kernel, grid, arguments, launch))
        return
    if not all(grid):
        return
    device = next(x.device for x in arguments.values() if isinstance(x, Tensor))
    elsewhere = device.type == "cuda" and device.index != torch.cuda.current_device()
    with torch.cuda.device(device) if elsewhere else nullcontext():
        kernel[grid](**arguments, **launch.blocks, **launch.options)


def check_dtype(what: str, *tensors: Tensor) -> None:
    """One dtype that the kernels take, on one device."""
    dtypes = {x.dtype for x in tensors}
    if len(dtypes) != 1 or not dtypes <= set(DTYPES):
        found = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        raise UnsupportedInput(f"{what} are {found}; the kernels take one of bfloat16, float16, float32")
    devices = {x.device for x in tensors}
    if len(devices) != 1:
        raise UnsupportedInput(f"{what} are on different devices: {', '.join(sorted(map(str, devices)))}")


def rows_dense(x: Tensor) -> Tensor:
    """``x`` with its last dimension contiguous; other dimensions may have any stride, 0 included."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def aligned(x: Tensor) -> Tensor:
    """``x`` as `rows_dense` gives it, with zeros behind its last dimension up to a multiple of ``ALIGNED``."""
    missing = -x.shape[-1] % ALIGNED
    return torch.nn.functional.pad(x, (0, missing)) if missing else rows_dense(x)


def near(x: Tensor) -> Tensor:
    """``x`` with rows (the dimension before the last) so close that a tile's offsets fit in 32 bits."""
    return x if x.stride(-2) < 1 << 23 else x.contiguous()  # tiles have up to 128 rows


def power_of_two(n: int, least: int = 16) -> int:
    """The smallest power of two that is not below n, nor below ``least``."""
    return max(least, 1 << (n - 1).bit_length())


def chunk(width: int, largest: int = 64) -> int:
    """The largest power of two up to ``largest`` that divides ``width``; 16 at least (the rest is masked)."""
    size = largest
    while size > 16 and width % size:
        size //= 2
    return size


def blocks(n: int, size: int) -> int:
    return -(-n // size)
