"""What is made of all edges of one attention call, besides the edges themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

BIN_SHIFT = 16
"""Bits of a float32 that a bin of |A| leaves out: 128 bins per octave."""
BINS = 1 << (31 - BIN_SHIFT)


@dataclass(frozen=True, eq=False)
class EdgeHistogram:
    """Non-zero edges over logarithmic bins of |A|: the leading bits of its float32.

    Attributes:
        count: [BINS] int64; mass: [BINS] float64, sum of |A|.
    """

    count: Tensor
    mass: Tensor


@dataclass(frozen=True, eq=False)
class EdgeList:
    """Some edges, ordered by row, then column: target and source [E] int64, weight [E] signed."""

    target: Tensor
    source: Tensor
    weight: Tensor


@dataclass(frozen=True, eq=False)
class HeadEdges:
    """Value and key path of listed edges per head, [E, H] each."""

    value: Tensor
    key: Tensor


@dataclass(frozen=True, eq=False)
class EdgeParts:
    """What listed edges consist of, without the diagonal, [E]: value and key path, strongest head, its signed share."""

    value: Tensor
    key: Tensor
    head: Tensor
    head_weight: Tensor
