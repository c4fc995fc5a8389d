"""Which modules own the additive constants of a model: each bias is booked once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def bias_owners(model: nn.Module) -> Iterator[str]:
    """Paths of the modules at whose output an additive constant is booked.

    A bias that a module shares with one inside it is the inner one's (BERT's head and its decoder), but for adapters
    whose value at zero is that bias: DoRA takes it from its map's output and adds it again.
    """
    owners, settled = dict[int, str](), set[int]()
    for path, module in model.named_modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor) and id(bias) not in settled:
            owners[id(bias)] = path
            if hasattr(module, "base_layer") and _is_at_zero(module, bias):
                settled.add(id(bias))
    yield from owners.values()


@torch.no_grad()
def _is_at_zero(adapter: nn.Module, bias: Tensor) -> bool:
    """Whether the module returns its bias for an input of zeros."""
    width = getattr(adapter, "in_features", None)
    if not isinstance(width, int) or bias.device.type == "meta":
        return False
    try:
        returned = adapter(torch.zeros(1, width, dtype=bias.dtype, device=bias.device))
    except (RuntimeError, TypeError, ValueError):  # a probe asks; any failure means no
        return False
    return isinstance(returned, Tensor) and torch.allclose(returned[0], bias, rtol=1e-3, atol=0.0)
