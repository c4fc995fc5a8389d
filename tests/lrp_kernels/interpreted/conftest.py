"""Outputs are poisoned before a kernel writes them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


@pytest.fixture(autouse=True)
def _poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh memory is NaN, or a number that nobody expects."""
    original = torch.Tensor.new_empty

    def poisoned(self: Tensor, *args: object, **kwargs: object) -> Tensor:
        made = original(self, *args, **kwargs)
        return made.fill_(torch.nan if made.is_floating_point() else -77)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
