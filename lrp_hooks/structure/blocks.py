"""A model's blocks: the list of modules between which its residual stream lies, found by running it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.errors import LrpError, UnsupportedModelError, first_line
from lrp_hooks.structure.probe import output_embeddings, without_cache

Blocks = tuple[tuple[str, nn.Module], ...]
"""(path, module), in order."""


@dataclass
class Call:
    """First tensor in and out of one module call."""

    module: nn.Module
    given: Tensor
    returned: Tensor


def run_probe(model: nn.Module, inputs: Mapping[str, Tensor]) -> Any:
    """The model's output, without gradients.

    Raises:
        UnsupportedModelError: it does not run on these inputs alone.
    """
    try:
        with torch.no_grad():
            return model(**inputs, **without_cache(model))
    except LrpError:
        raise
    except (AttributeError, AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not run on {' and '.join(inputs)} alone: {first_line(error)}"
        ) from error


def first_tensor(value: Any) -> Tensor | None:
    """The hidden states in a module's output: the tensor itself, or the first element of a tuple."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return first_tensor(value[0])
    return None


def collect_calls(calls: list[Call]) -> Any:
    """A forward hook (with_kwargs) that appends to ``calls``."""

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = first_tensor(args) if args else kwargs.get("hidden_states")
        returned = first_tensor(output)
        if isinstance(given, Tensor) and returned is not None:
            calls.append(Call(module, given, returned))

    return hook


def find_blocks(
    model: nn.Module, inputs: Mapping[str, Tensor], attention_paths: list[str], below: str, tokens: int | None
) -> Blocks:
    """The outermost ModuleList below ``below`` that runs and whose every element holds an attention module; without
    one, the outermost whose elements run one after the other, each on what the one before returned.

    Args:
        tokens: how many positions hidden states must have; None when that is not known (patches of an image).

    Raises:
        UnsupportedModelError: none found, or its elements' outputs are no residual points in one order.
    """
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and path.startswith(below)
    }
    calls = _calls_of(model, inputs, [block for module in lists.values() for block in module])
    for path, module in lists.items():
        prefixes = [f"{path}.{index}" for index in range(len(module))]
        holds = all(any(site.startswith(prefix + ".") for site in attention_paths) for prefix in prefixes)
        if holds and all(calls.get(id(block)) for block in module):
            _check_calls(model, path, [calls[id(block)] for block in module], tokens)
            return tuple(zip(prefixes, module, strict=True))
    for path, module in lists.items():
        if output_embeddings(model) is None and _is_stage(path, lists):
            continue  # the residual points of the other stages would be left out
        if _is_chain([calls.get(id(block), []) for block in module], tokens):
            _check_calls(model, path, [calls[id(block)] for block in module], tokens)
            return tuple((f"{path}.{index}", block) for index, block in enumerate(module))
    raise UnsupportedModelError(
        f"{type(model).__name__}: no list of blocks found that run one after the other, each on what the one before "
        "returned. tried: every ModuleList"
    )


def _is_stage(path: str, lists: dict[str, nn.ModuleList]) -> bool:
    """Whether the list lies inside one of several elements of another."""
    return any(path.startswith(outer + ".") and len(module) > 1 for outer, module in lists.items())


def _calls_of(model: nn.Module, inputs: Mapping[str, Tensor], modules: list[nn.Module]) -> dict[int, list[Call]]:
    """What each module is given and returns in one forward of the probe."""
    calls: dict[int, list[Call]] = {id(module): [] for module in modules}
    handles = [m.register_forward_hook(collect_calls(calls[id(m)]), with_kwargs=True) for m in modules]
    try:
        run_probe(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _check_calls(model: nn.Module, path: str, calls: list[list[Call]], tokens: int | None) -> None:
    if any(len(made) > 1 for made in calls):
        raise UnsupportedModelError(
            f"{type(model).__name__} runs the blocks of {path} several times per forward: their outputs are no "
            "residual points in one order"
        )
    shapes = [list(x.shape) for made in calls for x in (made[0].given, made[0].returned)]
    if any(len(shape) != 3 for shape in shapes):
        raise UnsupportedModelError(
            f"{type(model).__name__} keeps several residual streams per token, or maps instead of tokens ({path}: "
            f"hidden states of shape {shapes[0]}); relevance per token of such streams is not offered yet"
        )
    lengths = {shape[1] for shape in shapes}
    wanted = shapes[0][1] if tokens is None else tokens
    if lengths != {wanted}:
        raise UnsupportedModelError(
            f"{type(model).__name__} has other positions in {path} than tokens (hidden states of shape "
            f"{', '.join(map(str, sorted(shapes)))}"
            + (f" for {tokens} tokens)" if tokens is not None else "): their number changes on the way")
        )


def _is_chain(calls: list[list[Call]], tokens: int | None) -> bool:
    if not all(len(made) == 1 and made[0].given.dim() == 3 for made in calls):
        return False
    if tokens is not None and any(made[0].given.shape[1] != tokens for made in calls):
        return False
    made = [call[0] for call in calls]
    return all(
        above.given.shape == below.returned.shape and torch.equal(above.given, below.returned)
        for below, above in pairwise(made)
    )


def mid_child(block: nn.Module, calls: list[Call]) -> nn.Module | None:
    """The first child that reads m with out = m + c * (a later child's output) and m - h = c * (an earlier one's)."""
    if not calls or calls[-1].module is not block:
        return None
    *children, whole = calls
    for index, call in enumerate(children):
        m = call.given
        if m.shape != whole.given.shape or torch.equal(m, whole.given):
            continue
        before = [c.returned for c in children[:index]]
        after = [c.returned for c in children[index:]]
        if _is_sum(whole.given, m, before) and _is_sum(m, whole.returned, after):
            return call.module
    return None


def _is_sum(base: Tensor, total: Tensor, outputs: list[Tensor]) -> bool:
    """Whether total = base + c * (one of the outputs): bit for bit, or up to a constant residual multiplier c."""
    d = (total - base).double().flatten()
    for output in outputs:
        if output.shape == base.shape and torch.equal(base + output, total):
            return True
        o = output.double().flatten()
        if o.shape != d.shape:
            continue
        dot, dd, oo = torch.dot(d, o), torch.dot(d, d), torch.dot(o, o)
        rounding = 1e-3 if base.dtype in (torch.float16, torch.bfloat16) else 1e-6
        if dd > 0 and oo > 0 and (dot * dot / (dd * oo) - 1).abs() < rounding:
            return True
    return False
