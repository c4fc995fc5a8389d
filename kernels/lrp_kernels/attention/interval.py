"""Which columns each row attends to, as one interval per row: memory linear in the length.

Causal attention, sliding windows, padding on either side, packed sequences and prefixes are all intervals, alone and
together; so one pair of numbers per row stands for a mask of n x n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROWS_AT_ONCE = 256
"""Of a mask that is read."""


@dataclass(frozen=True, eq=False)
class Interval:
    """Row j attends to the columns first[j] <= i < end[j]; to none where end <= first.

    Attributes:
        first, end: [T], or [B, T] for a batch, int32.
    """

    first: Tensor
    end: Tensor

    @classmethod
    def causal(cls, length: int, *, window: int | None = None, device: torch.device | str = "cpu") -> Interval:
        """[T]: row j attends to the columns up to j, to the last ``window`` of them if given."""
        row = torch.arange(length, dtype=torch.int32, device=device)
        first = torch.zeros_like(row) if window is None else (row - (window - 1)).clamp_(min=0)
        return cls(first, row + 1)

    @classmethod
    def of_mask(cls, mask: Tensor) -> Interval | None:
        """The intervals of a mask [..., T, S], or None where a row is not an interval.

        Args:
            mask: bool (True = attend), or numbers that are added to the scores: 0, and the dtype's lowest or -inf.
        """
        parts = []
        for rows in torch.split(
            mask, ROWS_AT_ONCE, dim=-2
        ):  # what is made on the way is as large as the mask, and wider
            found = _rows_of(rows)
            if found is None:
                return None
            parts.append(found)
        first, end = (torch.cat(columns, -1) for columns in zip(*parts, strict=True))
        return cls(first, end)

    def row(self, index: int) -> Interval:
        """[T]: that of one sequence of the batch."""
        return self if self.first.dim() == 1 else Interval(self.first[index], self.end[index])

    def within(self, start: Tensor, stop: Tensor) -> Interval:
        """Only columns start <= i < stop, each [T], [B, T] or [B, 1]: padding and packed sequences.

        Rows outside are left with no columns.
        """
        row = torch.arange(self.first.shape[-1], device=self.first.device)
        end = torch.minimum(self.end, stop.to(self.end))
        outside = (row < start) | (row >= stop)
        return Interval(torch.maximum(self.first, start.to(self.first)), end.masked_fill(outside, 0))

    def allowed(self, rows: Tensor, columns: int) -> Tensor:
        """[..., R, columns] of bool, for some rows [R]."""
        column = torch.arange(columns, device=self.first.device)
        first, end = self.first[..., rows, None], self.end[..., rows, None]
        return (column >= first) & (column < end)

    def columns(self, start: int, stop: int) -> tuple[int, int]:
        """The columns [from, to) that any of the rows start <= j < stop attends to; one at least, whatever they do."""
        first, end = self.first[..., start:stop], self.end[..., start:stop]
        seen = end > first
        return (int(first[seen].min()), int(end[seen].max())) if bool(seen.any()) else (0, 1)

    def row_range(self, columns: int, size: int) -> tuple[Tensor, Tensor]:
        """For each block of ``size`` columns the rows [from, to) outside of which none attends to it.

        [..., blocks] int32 each. Made without a loop: rows that end at or before the block precede the first row whose
        running maximum of ``end`` passes it; likewise from behind.
        """
        start = torch.arange(0, columns, size, dtype=torch.int32, device=self.first.device)
        start = start.expand(*self.first.shape[:-1], -1).contiguous()
        filled = self.first.masked_fill(self.end <= self.first, columns)  # rows without columns bound nothing
        ends = self.end.cummax(-1).values.contiguous()
        firsts = filled.flip(-1).cummin(-1).values.flip(-1).contiguous()
        low = torch.searchsorted(ends, start, right=True, out_int32=True)
        return low, torch.searchsorted(firsts, start + size, out_int32=True)


def _rows_of(mask: Tensor) -> tuple[Tensor, Tensor] | None:
    """(first, end) [..., R] of some rows of a mask [..., R, S]."""
    if mask.dtype != torch.bool:
        allowed = mask == 0
        if not bool((allowed | (mask <= torch.finfo(mask.dtype).min)).all()):
            return None
        mask = allowed
    count = mask.sum(-1, dtype=torch.int32)
    first = mask.byte().argmax(-1).int()
    end = first + count
    column = torch.arange(mask.shape[-1], device=mask.device)
    same = ((column >= first[..., None]) & (column < end[..., None])) == mask
    return (first, end) if bool(same.all()) else None
