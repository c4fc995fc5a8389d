"""The base class of every autograd function that implements an LRP rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class RuleFunction(torch.autograd.Function):
    """An autograd function whose gradient is an LRP rule.

    The walk over the autograd graph (`lrp_hooks.detection.walk`) accepts nodes of subclasses as claimed; any other
    custom function counts as unknown.
    """

    @classmethod
    def call(cls, *args: Any) -> Any:
        """`apply`, with a type that strict checkers accept."""
        return cls.apply(*args)  # type: ignore[no-untyped-call]


def rule_of(node: Any) -> type | None:
    """The custom function that made a node of the autograd graph; None for PyTorch's own operations."""
    made: type | None = getattr(type(node), "_forward_cls", None)
    return made


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype rules are evaluated in: float64 stays, everything else is float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
