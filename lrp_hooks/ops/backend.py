"""Which implementation of the operators runs: decided once, never silently against what was asked for.

``auto`` runs the Triton kernels on tensors of a CUDA or HIP device and plain PyTorch everywhere else. ``triton`` and
``reference`` are requests: where Triton cannot run as requested, `BackendError` says why. The request comes from
`set_backend`, else from the environment variable LRP_HOOKS_BACKEND, else it is ``auto``.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable
from functools import cache
from typing import Literal

import torch
from lrp_kernels.launch import DTYPES
from torch import Tensor

from lrp_hooks.errors import BackendError, first_line

Backend = Literal["reference", "triton"]
CHOICES = ("auto", "triton", "reference")
VARIABLE = "LRP_HOOKS_BACKEND"
KERNELS = ("attention", "edges", "gated", "norm", "relevance")

_LOG = logging.getLogger(__name__)
_requested: str | None = None


def set_backend(name: str) -> None:
    """Ask for a backend, for the whole process.

    Raises:
        BackendError: there is no such backend, or Triton was asked for and cannot run here.
    """
    global _requested
    _check(name, "set_backend")
    if name == "triton":
        _insist()
    _requested = name


def requested() -> str:
    """What was asked for; the environment is read once."""
    global _requested
    if _requested is None:
        name = os.environ.get(VARIABLE) or "auto"
        _check(name, VARIABLE)
        _requested = name
    return _requested


def backend_name() -> str:
    """What runs here, in words, for `lrp-hooks doctor`."""
    name = requested()
    if name == "auto":
        if not torch.cuda.is_available():
            return "reference (auto: no CUDA or HIP device)"
        broken = obstacle()
        return f"reference (auto: {broken})" if broken else "triton on the GPU (auto)"
    if name == "triton":
        _insist()
        return "triton, interpreted" if interpreted() else "triton"
    return "reference"


def chosen(x: Tensor, unsupported: Callable[[], str | None] | None = None) -> Backend:
    """The backend for an operator on ``x``.

    Args:
        unsupported: says what the kernel cannot take, or None; asked only where the kernel would run.

    Raises:
        BackendError: Triton was asked for and cannot run on ``x``.
    """
    name = _requested or requested()
    if name == "reference" or (name == "auto" and not x.is_cuda):
        return "reference"
    why = _why_not(x) or (unsupported() if unsupported is not None else None)
    if why is None:
        return "triton"
    if name == "triton":
        raise BackendError(f"triton was asked for, but {why}. do: set_backend('auto') or {VARIABLE}=auto")
    _say_once(why)
    return "reference"


@cache
def obstacle() -> str | None:
    """Why the kernels cannot be imported, or None."""
    try:
        for name in KERNELS:
            importlib.import_module(f"lrp_kernels.{name}.triton")
    except Exception as error:  # a broken installation fails in many ways
        return f"triton cannot be used: {type(error).__name__}: {first_line(error)}"
    return None


def interpreted() -> bool:
    """Whether triton's interpreter runs the kernels (TRITON_INTERPRET=1), which works on the CPU."""
    from triton import knobs

    return bool(knobs.runtime.interpret)


def _why_not(x: Tensor) -> str | None:
    broken = obstacle()
    if broken:
        return broken
    if not x.is_cuda and not interpreted():
        return f"the tensors are on {x.device} (triton needs a CUDA or HIP device, or TRITON_INTERPRET=1)"
    if x.dtype not in DTYPES:
        return f"the kernels take bfloat16, float16 and float32, not {str(x.dtype).removeprefix('torch.')}"
    return None


def _insist() -> None:
    why = obstacle()
    if why is None and not torch.cuda.is_available() and not interpreted():
        why = "there is no CUDA or HIP device (and TRITON_INTERPRET is not 1)"
    if why:
        raise BackendError(f"triton was asked for, but {why}. do: set_backend('auto') or {VARIABLE}=auto")


def _check(name: str, where: str) -> None:
    if name not in CHOICES:
        raise BackendError(f"{where}: no backend is called {name!r}; choose {', '.join(CHOICES)}")


@cache
def _say_once(why: str) -> None:
    _LOG.warning("plain PyTorch instead of the Triton kernels: %s", why)
