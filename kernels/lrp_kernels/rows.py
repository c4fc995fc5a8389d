"""How plain PyTorch walks over the rows of an attention call: how many at once, and which of them can be left out."""

from __future__ import annotations

from torch import Tensor

BLOCK_BYTES, LARGEST_BYTES, FEW_ROWS, FEWEST_ROWS = 1 << 21, 1 << 24, 32, 8
"""Size that one [heads, rows, columns] array of a row block aims at (a few of them fit a core's cache); the size up to
which it may grow so that products are not made of a few rows; what a few is; and how many it has at any size."""


def rows_at_once(heads: int, columns: int) -> int:
    """Rows of a block: what makes one float32 array of it ``BLOCK_BYTES``, more where that is a few rows only."""
    row = max(1, 4 * heads * columns)
    return max(FEWEST_ROWS, min(FEW_ROWS, LARGEST_BYTES // row), BLOCK_BYTES // row)


def takes_part(grad: Tensor) -> bool:
    """Whether rows with this gradient at their output send anything back: where it is 0 all they would add is 0.

    So it is for every token after the explained one, and in the last block for all but the explained one.
    """
    return bool(grad.any())
