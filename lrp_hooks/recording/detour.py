"""Attention calls taken elsewhere: what a block's attention is replaced by while its other parts run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


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
