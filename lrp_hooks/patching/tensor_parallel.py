"""Tensor parallel models (transformers' ``tp_plan``): every rank holds some heads, neurons and biases of each block.

The residual stream and its gradient are whole on every rank, so relevance is the same everywhere. What heads and
sharded biases absorb is known in parts, which are summed over the ranks; collectives are linear.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.errors import UnsupportedModelError

COLLECTIVES = {
    "torch.distributed.tensor._api": {"_ToTorchTensor", "_FromTorchTensor"},
    "torch.distributed.tensor._redistribute": {"Redistribute", "NestedRedistribute"},
    "transformers.distributed.parallel_utils": {"_AllReduceForward", "_AllReduceBackward", "_WaitTensor"},
}
"""Autograd functions that move, gather, scatter or sum tensors over ranks, by the module that defines them."""
SPLIT_OVER_RANKS = frozenset({"heads", "neurons", "edges"})
"""What one rank knows only a part of."""


def is_collective(function: type) -> bool:
    """Whether an autograd function is one of `COLLECTIVES`: the very class that its library defines."""
    name = function.__qualname__.rpartition(".")[2]
    home = sys.modules.get(function.__module__)
    known = name in COLLECTIVES.get(function.__module__, ())
    return known and home is not None and getattr(home, name, None) is function


def is_sharded(x: Any) -> bool:
    """Whether the tensor is one rank's part of a larger one."""
    return is_distributed(x) and any(placement.is_shard() for placement in x.placements)


def is_distributed(x: Any) -> bool:
    """Whether the tensor is a DTensor; importing them is left to whoever made it."""
    home = sys.modules.get("torch.distributed.tensor")
    return home is not None and isinstance(x, home.DTensor)


def local(x: Any) -> Any:
    """This rank's part of a distributed tensor; any other tensor as it is."""
    return x.to_local() if is_distributed(x) else x


def ranks_of(model: nn.Module) -> Any:
    """The process group over which the model is split, None when it is whole.

    Raises:
        UnsupportedModelError: it is split along several dimensions of a device mesh.
    """
    parameters: Iterator[Any] = model.parameters()
    meshes = [p.device_mesh for p in parameters if is_distributed(p)]
    if not meshes:
        return None
    if any(mesh.ndim != 1 or mesh != meshes[0] for mesh in meshes):
        raise UnsupportedModelError(
            "the model is split along several dimensions of a device mesh; tensor parallelism alone is supported. "
            "do: load it with a tp_plan only"
        )
    return meshes[0].get_group()


def summed(x: Tensor, ranks: Any) -> Tensor:
    """Sum of the ranks' parts, on every rank. All ranks run the same backward pass, so they meet here in one order."""
    if ranks is None:
        return x
    whole = x.clone()
    torch.distributed.all_reduce(whole, group=ranks)
    return whole


def check_whole(wants: frozenset[str], ranks: Any) -> None:
    """Refuse tables of which one rank has a part only.

    Raises:
        UnsupportedModelError: names them.
    """
    split = sorted(wants & SPLIT_OVER_RANKS)
    if ranks is not None and split:
        raise UnsupportedModelError(
            f"the model is tensor parallel: each rank holds a part of the {' and '.join(split)}. "
            "do: ask for tokens and layers (equal on every rank), or load the model on one device or with device_map"
        )
