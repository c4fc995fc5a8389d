"""The model's skeleton: embedding, blocks, head, and the point between attention and MLP, found by running it once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.errors import NonFiniteError, UnsupportedModelError
from lrp_hooks.structure.blocks import Blocks, collect_calls, find_blocks, mid_child, run_probe
from lrp_hooks.structure.outputs import Output, class_labels, read_output
from lrp_hooks.structure.probe import (
    PROBE_TOKENS,
    TARGET_TOKENS,
    embedding_of,
    is_encoder_decoder,
    output_embeddings,
    probe_inputs,
)


@dataclass(frozen=True)
class Skeleton:
    """Where a model keeps its residual stream; of an encoder-decoder model, its decoder's.

    Attributes:
        embedding: module from token ids to word embeddings, or from an image to its patches' vectors.
        decoder: the model below its head (returns the last hidden states).
        blocks: (path, module) in order; residual point l+1 is the output of block l.
        head: output projection to the vocabulary whose output is explained; None where the model's own output is.
        mid: per block the child whose input is the residual stream between attention and MLP, or None.
        softcap: whether the final logits are capped by c tanh(l / c) in the model's own forward.
        below: paths of the modules that have run before the first block starts (a norm of the embeddings).
        output: what the model returns.
        encoder: the encoder's stream, whose output the decoder's blocks attend to; its ``decoder`` is the encoder.
        stack: of an encoder-decoder model, the module that is given this stream's token ids.
        makes_output: whether an encoder-decoder model makes its decoder's input itself when it is given none (BART).
    """

    embedding: nn.Module
    decoder: nn.Module
    blocks: Blocks
    head: nn.Module | None
    mid: tuple[nn.Module | None, ...]
    softcap: float | None
    below: frozenset[str] = frozenset()
    output: Output = field(default_factory=lambda: Output("tokens", causal=True))
    encoder: Skeleton | None = None
    stack: nn.Module | None = None
    makes_output: bool = False

    @property
    def is_language_model(self) -> bool:
        """Causal, without an encoder, logits straight from the projection to the vocabulary."""
        return self.output.causal and self.encoder is None and self.head is not None

    @property
    def streams(self) -> tuple[Skeleton, ...]:
        """This stream, and the encoder's if there is one."""
        return (self,) if self.encoder is None else (self, self.encoder)

    def level_of(self, path: str) -> int | None:
        """Like `block_of`, and -1 below the first block, where constants absorb nothing above any residual point."""
        owner = path.removesuffix(".inline")
        return -1 if (owner in self.below and path != owner) or path in self.below else self.block_of(path)

    def block_of(self, path: str) -> int | None:
        """Index of the block, of either stream, that holds the module at ``path``."""
        for stream in self.streams:
            for index, (block, _) in enumerate(stream.blocks):
                if path == block or path.startswith(block + "."):
                    return index
        return None


def find_skeleton(model: nn.Module, attention_paths: list[str]) -> tuple[Skeleton, Tensor]:
    """Run the untouched model once on its probe and read its skeleton off what flows where.

    Returns the skeleton and the untouched logits of ``probe_inputs(model)``, shaped as `Output.of` says.

    Raises:
        UnsupportedModelError: no logits, no blocks, a causal language model that is not causal.
        NonFiniteError: the logits are NaN or infinite.
    """
    inputs, head = probe_inputs(model), output_embeddings(model)
    stacks = _stacks(model, inputs)
    if stacks is None:
        length = None if "pixel_values" in inputs else PROBE_TOKENS
        blocks = [find_blocks(model, inputs, attention_paths, "", length)]
    else:
        lengths = (TARGET_TOKENS if "decoder_input_ids" in inputs else PROBE_TOKENS, PROBE_TOKENS)
        blocks = [
            find_blocks(model, inputs, attention_paths, path + ".", length)
            for (path, _), length in zip(stacks, lengths, strict=True)
        ]
    with _Watch(model, head, blocks) as seen:
        out = run_probe(model, inputs)
    output = _output(model, out, inputs, seen)
    logits = output.of(out)
    if not torch.isfinite(logits).all():
        raise NonFiniteError(f"the logits of {type(model).__name__} contain NaN or infinity; {_non_finite(model)}")
    raw = seen.head[0] if seen.head else None
    softcap = None if raw is None else _softcap(model, raw, logits)
    if raw is None or not ((output.causal and stacks is None) or softcap or _is_same(raw, logits)):
        head = None
    whole = _stream(model, blocks[0], seen.streams[0], _running_embedding(model, seen.streams[0].below))
    whole = replace(whole, head=head, softcap=softcap, output=output)
    if stacks is not None:
        parts = [_own_embedding(module, model) for _, module in stacks]
        encoder = _stream(model, blocks[1], seen.streams[1], parts[1])
        encoder = replace(encoder, decoder=stacks[1][1], stack=stacks[1][1])
        whole = replace(whole, embedding=parts[0], stack=stacks[0][1], encoder=encoder)
        whole = replace(whole, makes_output=_runs(model, {"input_ids": inputs["input_ids"]}))
    return whole, logits


def _runs(model: nn.Module, inputs: Mapping[str, Tensor]) -> bool:
    try:
        run_probe(model, inputs)
    except UnsupportedModelError:
        return False
    return True


def _stream(model: nn.Module, blocks: Blocks, seen: _Seen, embedding: nn.Module) -> Skeleton:
    mid = tuple(mid_child(block, seen.calls[path]) for path, block in blocks)
    below = frozenset(path for path, module in model.named_modules() if id(module) in seen.below)
    return Skeleton(embedding, _decoder(model, blocks[0][0], seen.called), blocks, None, mid, None, below)


def _running_embedding(model: nn.Module, ran: set[int]) -> nn.Module:
    """The model's input embedding; where that only lends its weights (T5's encoder alone), the one that is called."""
    embedding = embedding_of(model)
    if id(embedding) in ran:
        return embedding
    weight = getattr(embedding, "weight", None)
    alike = (m for m in model.modules() if id(m) in ran and weight is not None and getattr(m, "weight", None) is weight)
    return next(alike, embedding)


def _own_embedding(stack: nn.Module, model: nn.Module) -> nn.Module:
    """The embedding that this stack of an encoder-decoder model looks its ids up in."""
    try:
        return embedding_of(stack)
    except UnsupportedModelError:
        return embedding_of(model)


def _stacks(model: nn.Module, inputs: Mapping[str, Tensor]) -> list[tuple[str, nn.Module]] | None:
    """(path, module) of the decoder and the encoder, where both run; None for models of one stream."""
    if not is_encoder_decoder(model):
        return None
    getters = [getattr(model, name, None) for name in ("get_decoder", "get_encoder")]
    modules = [getter() for getter in getters if getter is not None]
    paths = {id(module): path for path, module in model.named_modules()}
    found = [(paths.get(id(module), ""), module) for module in modules]
    if len(found) < 2 or not all(path for path, _ in found) or found[0][0] == found[1][0]:
        return None
    ran: set[int] = set()
    handles = [module.register_forward_hook(lambda m, *_: ran.add(id(m))) for _, module in found]
    try:
        run_probe(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    return found if len(ran) == 2 else None


def _output(model: nn.Module, out: Any, inputs: Mapping[str, Tensor], seen: _Watch) -> Output:
    logits = getattr(out, "logits", None)
    given = inputs.get("decoder_input_ids", inputs.get("input_ids"))
    causal = isinstance(logits, Tensor) and logits.dim() == 3 and len(logits) == 2 and _is_causal(logits)
    output = read_output(model, out, causal=causal, tokens=None if given is None else given.shape[1])
    if output.kind == "tokens" and seen.head and not causal:
        _check_causal(model)
    if not seen.head and isinstance(logits, Tensor):
        output = replace(output, labels=class_labels(model, logits.shape[-1]))
    return output


def _is_causal(logits: Tensor) -> bool:
    """The two probe rows differ in their last token only: earlier logits do not."""
    earlier = logits[:, :-1].float()
    rounding = min(1e3 * torch.finfo(logits.dtype).eps, 0.05) * earlier.abs().max()
    return not bool(torch.isfinite(earlier).all()) or bool((earlier[0] - earlier[1]).abs().max() <= rounding)


def _check_causal(model: nn.Module) -> None:
    """Masked language models look both ways; a class for causal ones that does was loaded in the wrong way."""
    from transformers.models.auto import modeling_auto

    name = type(model).__name__
    both_ways = {*modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()}
    if name in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and name not in both_ways:
        raise UnsupportedModelError(
            f"{name} is not causal: the logits of earlier positions depend on the last token. "
            "do: load it with AutoModelForCausalLM (is_decoder=True for encoder families) or AutoModelForMaskedLM"
        )


def _non_finite(model: nn.Module) -> str:
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not torch.isfinite(parameter).all():
            return f"first bad weight: {name}. do: check the checkpoint and the dtype it was saved in"
    return "all weights are finite. do: try another dtype (float16 overflows in models trained in bfloat16)"


def _decoder(model: nn.Module, block: str, called: list[nn.Module]) -> nn.Module:
    """The outermost module below the model that holds the blocks and is itself called (OPT skips its wrapper)."""
    parts = block.split(".")
    for end in range(1, len(parts)):
        candidate = model.get_submodule(".".join(parts[:end]))
        if any(module is candidate for module in called):
            return candidate
    raise UnsupportedModelError(f"{type(model).__name__} calls no decoder module below its head")


@dataclass(eq=False)
class _Seen:
    """What one stream's modules did.

    Attributes:
        calls: block path -> calls of the block and its direct children, in order.
        called: modules above the blocks that are called.
        below: ids of modules that have run before the first block starts.
    """

    calls: dict[str, list[Any]]
    called: list[nn.Module] = field(default_factory=list)
    below: set[int] = field(default_factory=set)
    started: bool = False


class _Watch:
    """Hooks on the untouched model during one forward of the probe.

    Attributes:
        head: outputs of the projection to the vocabulary.
        streams: what the modules of each stream did.
    """

    def __init__(self, model: nn.Module, head: nn.Module | None, blocks: list[Blocks]):
        self.head: list[Tensor] = []
        self.streams = [_Seen({path: [] for path, _ in stream}) for stream in blocks]
        self._handles: list[Any] = []
        if head is not None:
            self._handles.append(head.register_forward_hook(lambda _m, _a, out: self.head.append(out)))
        for seen, stream in zip(self.streams, blocks, strict=True):
            self._handles += _hooks(model, seen, stream)

    def __enter__(self) -> _Watch:
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


def _hooks(model: nn.Module, seen: _Seen, blocks: Blocks) -> Iterator[Any]:
    def start(*_: Any) -> None:
        seen.started = True

    def note_below(module: nn.Module, *_: Any) -> None:
        if not seen.started:
            seen.below.add(id(module))

    yield blocks[0][1].register_forward_pre_hook(start)
    for module in model.modules():
        yield module.register_forward_hook(note_below)
    above = blocks[0][0].split(".")
    for end in range(1, len(above)):
        module = model.get_submodule(".".join(above[:end]))
        yield module.register_forward_hook(lambda called, _args, _out: seen.called.append(called))
    for path, block in blocks:
        for module in (block, *block.children()):
            yield module.register_forward_hook(collect_calls(seen.calls[path]), with_kwargs=True)


def _is_same(raw: Tensor, logits: Tensor) -> bool:
    """Whether the model returns what its projection returned, or a multiple of it."""
    if torch.equal(raw, logits):
        return True
    if raw.shape != logits.shape:
        return False
    factor = (raw.double() * logits.double()).sum() / raw.double().square().sum()
    return torch.allclose(raw.double() * factor, logits.double(), rtol=1e-6, atol=1e-9)


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
