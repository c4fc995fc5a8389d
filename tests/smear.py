"""A model in which one block mixes tokens outside its attention, without breaking any rule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Smear(nn.Module):
    """An MLP behind a causal convolution: linear, so no rule is missing, but tokens mix."""

    def __init__(self, mlp: nn.Module):
        super().__init__()
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mlp(x + 0.3 * torch.nn.functional.pad(x, (0, 0, 1, 0))[:, :-1])
        return out


def smeared(model: Any, block: int) -> Any:
    """The model (Llama's layout) with that block's MLP behind a convolution."""
    model.model.layers[block].mlp = Smear(model.model.layers[block].mlp)
    return model
