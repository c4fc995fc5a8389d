"""The model's skeleton: embedding, blocks, head, and the point between attention and MLP, found by running it once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.errors import NonFiniteError, UnsupportedModelError

PROBE_TOKENS = 5


@dataclass(frozen=True)
class Skeleton:
    """Where a causal language model keeps its residual stream.

    Attributes:
        embedding: module from token ids to word embeddings.
        decoder: the model below its head (returns the last hidden states).
        blocks: (path, module) in order; residual point l+1 is the output of block l.
        head: output projection to the vocabulary.
        mid: per block the child whose input is the residual stream between attention and MLP, or None.
        softcap: whether the final logits are capped by c tanh(l / c) in the model's own forward.
        below: paths of the modules that have run before the first block starts (a norm of the embeddings).
    """

    embedding: nn.Module
    decoder: nn.Module
    blocks: tuple[tuple[str, nn.Module], ...]
    head: nn.Module
    mid: tuple[nn.Module | None, ...]
    softcap: float | None
    below: frozenset[str] = frozenset()

    def level_of(self, path: str) -> int | None:
        """Like `block_of`, and -1 below the first block, where constants absorb nothing above any residual point."""
        owner = path.removesuffix(".inline")
        return -1 if (owner in self.below and path != owner) or path in self.below else self.block_of(path)

    def block_of(self, path: str) -> int | None:
        """Index of the block that holds the module at ``path``."""
        for index, (block, _) in enumerate(self.blocks):
            if path == block or path.startswith(block + "."):
                return index
        return None


def probe_ids(model: nn.Module, count: int = PROBE_TOKENS) -> Tensor:
    """Two rows of a few valid token ids, [2, count], alike but for the last token; never the padding token."""
    vocabulary = vocabulary_of(model)
    config: Any = model.config
    pad = getattr(config.get_text_config(), "pad_token_id", None)
    ids = [i for i in range(1, vocabulary, max(1, vocabulary // (count + 3))) if i != pad][: count + 1]
    return torch.tensor([ids[:-1], [*ids[:-2], ids[-1]]], device=embedding_device(model))


def vocabulary_of(model: nn.Module) -> int:
    """Number of entries of the input embedding."""
    weight: Any = embedding_of(model).weight
    return int(weight.shape[0])


def embedding_of(model: nn.Module) -> nn.Module:
    getter = getattr(model, "get_input_embeddings", None)
    embedding = getter() if getter is not None else None
    if not isinstance(embedding, nn.Module):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no input embedding (get_input_embeddings()). "
            "do: pass a transformers causal language model, e.g. AutoModelForCausalLM.from_pretrained(...)"
        )
    return embedding


def embedding_device(model: nn.Module) -> torch.device:
    from lrp_hooks.detect import probe_device

    return probe_device(embedding_of(model))


def find_skeleton(model: nn.Module, attention_paths: list[str]) -> tuple[Skeleton, Tensor]:
    """Run the untouched model once on a few tokens and read its skeleton off what flows where.

    Returns the skeleton and the untouched logits [2, 5, V] of ``probe_ids(model)``.

    Raises:
        UnsupportedModelError: no vocabulary head, no blocks, not causal.
        NonFiniteError: the logits are NaN or infinite.
    """
    head = _head(model)
    blocks = _blocks(model, attention_paths)
    with torch.no_grad(), _watch(model, head, blocks) as seen:
        logits: Tensor = model(input_ids=probe_ids(model), use_cache=False).logits
    _check_causal(model, logits)
    if not torch.isfinite(logits).all():
        raise NonFiniteError(f"the logits of {type(model).__name__} contain NaN or infinity; {_non_finite(model)}")
    decoder = _decoder(model, blocks[0][0], seen["called"])
    mid = tuple(_mid_child(block, seen[path]) for path, block in blocks)
    softcap = _softcap(model, seen["head"][0], logits)
    below = frozenset(path for path, module in model.named_modules() if id(module) in seen["below"])
    return Skeleton(embedding_of(model), decoder, blocks, head, mid, softcap, below), logits


def _check_causal(model: nn.Module, logits: Tensor) -> None:
    """The two probe rows differ in their last token only: earlier logits must not."""
    earlier = logits[:, :-1].float()
    rounding = min(1e3 * torch.finfo(logits.dtype).eps, 0.05) * earlier.abs().max()
    if torch.isfinite(earlier).all() and (earlier[0] - earlier[1]).abs().max() > rounding:
        raise UnsupportedModelError(
            f"{type(model).__name__} is not causal: the logits of earlier positions depend on the last token. "
            "do: load a causal model with AutoModelForCausalLM (is_decoder=True for encoder families)"
        )


def _non_finite(model: nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            return f"first bad weight: {name}. do: check the checkpoint and the dtype it was saved in"
    return "all weights are finite. do: try another dtype (float16 overflows in models trained in bfloat16)"


def _head(model: nn.Module) -> nn.Module:
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    if not isinstance(head, nn.Module):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no output head to the vocabulary, so it has no token logits to explain. "
            "do: load it with AutoModelForCausalLM"
        )
    config: Any = model.config
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(f"{type(model).__name__} is an encoder-decoder model; causal models are supported")
    return head


def _decoder(model: nn.Module, block: str, called: list[nn.Module]) -> nn.Module:
    """The outermost module below the model that holds the blocks and is itself called (OPT skips its wrapper)."""
    parts = block.split(".")
    for end in range(1, len(parts)):
        candidate = model.get_submodule(".".join(parts[:end]))
        if any(module is candidate for module in called):
            return candidate
    raise UnsupportedModelError(f"{type(model).__name__} calls no decoder module below its head")


def _blocks(model: nn.Module, attention_paths: list[str]) -> tuple[tuple[str, nn.Module], ...]:
    """The outermost ModuleList that runs and whose every element holds an attention module; without one, the outermost
    whose elements run one after the other, each on what the one before returned."""
    lists = {
        path: module for path, module in model.named_modules() if isinstance(module, nn.ModuleList) and len(module)
    }
    calls = _calls_of(model, [block for module in lists.values() for block in module])
    for path, module in lists.items():
        prefixes = [f"{path}.{index}" for index in range(len(module))]
        holds = all(any(site.startswith(prefix + ".") for site in attention_paths) for prefix in prefixes)
        if holds and all(calls.get(id(block)) for block in module):
            _check_calls(model, path, [calls[id(block)] for block in module])
            return tuple(zip(prefixes, module, strict=True))
    for path, module in lists.items():
        if _is_chain([calls.get(id(block), []) for block in module]):
            return tuple((f"{path}.{index}", block) for index, block in enumerate(module))
    raise UnsupportedModelError(
        f"{type(model).__name__}: no list of blocks found that run one after the other, each on what the one before "
        "returned. tried: every ModuleList"
    )


def _check_calls(model: nn.Module, path: str, calls: list[list[_Call]]) -> None:
    if any(len(made) > 1 for made in calls):
        raise UnsupportedModelError(
            f"{type(model).__name__} runs the blocks of {path} several times per forward: their outputs are no "
            "residual points in one order"
        )
    if any(made[0].given.dim() == 3 and made[0].given.shape[1] != PROBE_TOKENS for made in calls):
        raise UnsupportedModelError(
            f"{type(model).__name__} has other positions in {path} than tokens (hidden states of shape "
            f"{list(calls[0][0].given.shape)} for {PROBE_TOKENS} tokens)"
        )
    if any(made[0].given.dim() != 3 for made in calls):
        raise UnsupportedModelError(
            f"{type(model).__name__} keeps several residual streams per token ({path}: hidden states of shape "
            f"{list(calls[0][0].given.shape)}); relevance per token of such streams is not offered yet"
        )


def _calls_of(model: nn.Module, modules: list[nn.Module]) -> dict[int, list[_Call]]:
    """What each module is given and returns in one forward of the probe."""
    calls: dict[int, list[_Call]] = {id(module): [] for module in modules}
    handles = [m.register_forward_hook(_collect(calls[id(m)]), with_kwargs=True) for m in modules]
    try:
        with torch.no_grad():
            model(input_ids=probe_ids(model), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _is_chain(calls: list[list[_Call]]) -> bool:
    if not all(len(made) == 1 and made[0].given.dim() == 3 for made in calls):
        return False
    if any(made[0].given.shape[1] != PROBE_TOKENS for made in calls):
        return False
    made = [call[0] for call in calls]
    return all(
        above.given.shape == below.returned.shape and torch.equal(above.given, below.returned)
        for below, above in pairwise(made)
    )


@dataclass
class _Call:
    """First tensor in and out of one module call."""

    module: nn.Module
    given: Tensor
    returned: Tensor


def first_tensor(value: Any) -> Tensor | None:
    """The hidden states in a module's output: the tensor itself, or the first element of a tuple."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (tuple, list)) and value:
        return first_tensor(value[0])
    return None


@contextmanager
def _watch(model: nn.Module, head: nn.Module, blocks: tuple[tuple[str, nn.Module], ...]) -> Iterator[dict[str, Any]]:
    """Collects the calls of each block's direct children (``seen[path]``), the head's output (``seen["head"]``), and
    which modules above the blocks are called (``seen["called"]``)."""
    seen: dict[str, Any] = {path: [] for path, _ in blocks}
    seen["head"], seen["called"], seen["below"] = [], [], set()
    running: list[bool] = []
    handles = [head.register_forward_hook(lambda _m, _a, out: seen["head"].append(out))]
    handles.append(blocks[0][1].register_forward_pre_hook(lambda *_: running.append(True)))
    for module in model.modules():
        handles.append(module.register_forward_hook(lambda m, *_: None if running else seen["below"].add(id(m))))
    above = blocks[0][0].split(".")
    for end in range(1, len(above)):
        module = model.get_submodule(".".join(above[:end]))
        handles.append(module.register_forward_hook(lambda called, _args, _out: seen["called"].append(called)))
    for path, block in blocks:
        for module in (block, *block.children()):
            handles.append(module.register_forward_hook(_collect(seen[path]), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _collect(calls: list[_Call]) -> Any:
    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        given = first_tensor(args) if args else kwargs.get("hidden_states")
        returned = first_tensor(output)
        if isinstance(given, Tensor) and returned is not None:
            calls.append(_Call(module, given, returned))

    return hook


def _mid_child(block: nn.Module, calls: list[_Call]) -> nn.Module | None:
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


def _softcap(model: nn.Module, raw: Tensor, logits: Tensor) -> float | None:
    """The constant c with logits = c tanh(raw / c), looked for in the config; None when there is no cap."""
    config: Any = model.config
    for name, cap in vars(config.get_text_config()).items():
        if "softcap" not in name or not isinstance(cap, (int, float)) or not cap:
            continue
        capped = cap * torch.tanh(raw.float() / cap)
        if not torch.equal(raw, logits) and torch.allclose(capped, logits.float(), rtol=1e-2, atol=1e-2 * cap):
            return float(cap)
    return None
