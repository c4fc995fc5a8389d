"""What `instrument` accepts: versions of transformers, wrappers that are looked through, and states it refuses."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lrp_hooks.errors import UnsupportedModelError, UnsupportedVersionError
from lrp_hooks.loading.packing import packed

if TYPE_CHECKING:
    from lrp_hooks.structure.skeleton import Skeleton

OLDEST, BELOW = (5, 20), (6,)
"""transformers >= `OLDEST` and < `BELOW`, as in pyproject.toml; `make test-versions` runs the oldest."""


def check_transformers() -> None:
    """Refuse a transformers outside the range. Said by `instrument`, so that importing this package always works.

    Raises:
        UnsupportedVersionError: names the range and the version that was found.
    """
    from transformers import __version__

    numbers = tuple(int(part) for part in __version__.split(".")[:2] if part.isdigit())
    if not OLDEST <= numbers < BELOW:
        oldest, below = (".".join(map(str, version)) for version in (OLDEST, BELOW))
        raise UnsupportedVersionError(
            f"transformers {__version__} is not supported; this package needs transformers >={oldest},<{below}. "
            f"do: pip install 'transformers>={oldest},<{below}'"
        )


def looked_through(model: nn.Module) -> nn.Module:
    """The transformers model inside a PEFT wrapper, with its adapters in place; any other model as it is.

    Raises:
        UnsupportedModelError: adapters that are no part of the model's modules (prompt and prefix tuning).
    """
    if not hasattr(model, "peft_config") or not hasattr(model, "get_base_model"):
        return model
    if getattr(model.active_peft_config, "is_prompt_learning", False):
        kind = type(model.active_peft_config).__name__
        raise UnsupportedModelError(
            f"the adapter ({kind}) puts learned vectors before the prompt or into the key/value cache: they are no "
            "tokens that relevance could be given to. do: explain get_base_model(), or use adapters inside the model "
            "(LoRA, IA3)"
        )
    wrapper: Any = model
    base: nn.Module = wrapper.get_base_model()
    return base


def check_state(model: nn.Module) -> None:
    """Refuse what cannot run as instrumented, whatever its architecture.

    Raises:
        UnsupportedModelError: compiled modules, weights on the meta device, blocks that are one module several times,
            4-bit weights packed into a form without gradient.
    """
    _check_compiled(model)
    _check_meta(model)
    _check_repeated(model)
    _check_packed(model)


def _check_compiled(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, torch._dynamo.OptimizedModule):
            where = f"{path} is" if path else "the model is"
            raise UnsupportedModelError(
                f"{where} compiled by torch.compile(module), and compiled code does not see patched modules. "
                "do: instrument model._orig_mod, and compile after remove() if at all; or compile with "
                "model.compile(), which is switched off while the model is instrumented"
            )


def _check_meta(model: nn.Module) -> None:
    for path, module in model.named_modules():
        own = chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False))
        for name, tensor in own:
            if tensor.is_meta and not hasattr(module, "_hf_hook"):  # accelerate puts offloaded weights back by itself
                raise UnsupportedModelError(
                    f"{path}.{name} is on the meta device: it has a shape but no values. "
                    "do: load the weights (from_pretrained), or dispatch the model with accelerate"
                )


def _check_repeated(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList):
            continue
        first: dict[int, int] = {}
        for index, entry in enumerate(module):
            at = first.setdefault(id(entry), index)
            if at != index and next(entry.parameters(), None) is not None:
                raise UnsupportedModelError(
                    f"{path}.{at} and {path}.{index} are one module: what it records belongs to no one place in the "
                    "model. do: instrument a copy in which each has a module of its own (copy.deepcopy)"
                )


def _check_packed(model: nn.Module) -> None:
    path = next(packed(model), None)
    if path is not None:
        raise UnsupportedModelError(
            f"{path} has run without gradients before, and bitsandbytes has packed its weights for AVX512-BF16, a form "
            "that has no gradient. do: load the model again, and instrument it before it generates "
            "(or load it with lrp_hooks.loading.model.load_model, which keeps weights as they are)"
        )


def check_shared(model: nn.Module, skeleton: Skeleton) -> None:
    """Refuse modules that several blocks share and whose records belong to one block: attention, MLPs, biases.

    Plain weights may be shared (tied), and so may norms and activations without a bias.

    Raises:
        UnsupportedModelError: names the module by its paths.
    """
    paths: dict[int, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if next(module.children(), None) is not None or getattr(module, "bias", None) is not None:
            paths.setdefault(id(module), []).append(path)
    for found in paths.values():
        blocks = {skeleton.block_of(path) for path in found}
        if len(blocks) > 1:
            raise UnsupportedModelError(
                f"{' and '.join(found)} are one module in different blocks: what it absorbs and its edges could not be "
                "told apart. do: instrument a copy in which each block has its own (copy.deepcopy of the module)"
            )
