"""Fixtures of the kernels' tests."""

from __future__ import annotations

import pytest
from lrp_kernels import rows


@pytest.fixture
def few_rows(monkeypatch: pytest.MonkeyPatch) -> int:
    """Tiny problems in several row blocks, of this many rows."""
    for name, value in (("BLOCK_BYTES", 0), ("FEW_ROWS", 4), ("FEWEST_ROWS", 1)):
        monkeypatch.setattr(rows, name, value)
    assert rows.rows_at_once(1, 1) == 4
    return 4
