"""Quantised layers that would change their own weights, kept as they are.

On processors with AVX512-BF16 bitsandbytes' 4-bit layers pack their weights anew at the first forward without
gradients: the scales of their blocks are rounded to bfloat16, and the product goes through a kernel without gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

FLAG = "support_avx512bf16_for_cpu"
"""Of bitsandbytes' ``Linear4bit``: whether it may pack."""


@dataclass(frozen=True)
class Unpacked:
    """One layer that may not pack until `remove`.

    Attributes:
        flag: what the layer's own said.
    """

    module: nn.Module
    flag: Any

    def remove(self) -> None:
        """It may again."""
        setattr(self.module, FLAG, self.flag)


def keep_unpacked(model: nn.Module) -> list[Unpacked]:
    """Forbid packing to every layer that would."""
    layers = [Unpacked(module, flag) for module in model.modules() if (flag := getattr(module, FLAG, False))]
    for layer in layers:
        setattr(layer.module, FLAG, False)
    return layers


def packed(model: nn.Module) -> Iterator[str]:
    """Paths of the layers that have packed their weights already."""
    for path, module in model.named_modules():
        state: Any = getattr(getattr(module, "weight", None), "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            yield path
