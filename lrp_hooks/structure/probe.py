"""The few tokens, or the one image, that a model is run on to see how it is built."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.errors import UnsupportedModelError

PROBE_TOKENS = 5
TARGET_TOKENS = 4
"""Tokens of an encoder-decoder model's output so far: another number than its input has, to tell streams apart."""


def probe_inputs(model: nn.Module) -> dict[str, Tensor]:
    """Keyword arguments for one small forward.

    Language models get two rows that are alike but for the last token (of what the decoder is given), so that one
    forward shows whether the model is causal; other heads one row, which ends as inputs do.

    Raises:
        UnsupportedModelError: the model takes neither token ids nor pixels.
    """
    known = forward_parameters(model)
    if "input_ids" in known:
        return _text(model)
    if "pixel_values" in known:
        return {"pixel_values": _pixels(model)}
    raise UnsupportedModelError(
        f"{type(model).__name__} takes neither input_ids nor pixel_values. tried: {', '.join(list(known)[:6])}"
    )


def forward_parameters(module: nn.Module) -> dict[str, inspect.Parameter]:
    """The parameters of the class's forward by name, without self."""
    known = dict(inspect.signature(type(module).forward).parameters)
    known.pop("self", None)
    return known


def takes(model: nn.Module, name: str) -> bool:
    """Whether the model's forward has this parameter, or hands unknown ones on to the language model in it."""
    known = forward_parameters(model)
    return name in known or (
        output_embeddings(model) is not None and any(p.kind is p.VAR_KEYWORD for p in known.values())
    )


CACHE_NAMES = frozenset(("cache", "past_key_values", "cache_params"))
"""What models call the cache they are given: `cache` since transformers 5.24, the others before it."""


def without_cache(model: nn.Module) -> dict[str, Any]:
    return {"use_cache": False} if takes(model, "use_cache") else {}


def with_cache(model: nn.Module, cache: Any) -> dict[str, Any]:
    """Arguments that make the model read a cache and write to it."""
    known = forward_parameters(model)
    name = next((name for name in CACHE_NAMES if name in known), "past_key_values")
    return {name: cache, "use_cache": True}


def output_embeddings(model: nn.Module) -> nn.Module | None:
    """The projection to the vocabulary; None in models with another head."""
    getter = getattr(model, "get_output_embeddings", None)
    try:
        head = getter() if getter is not None else None
    except (AttributeError, NotImplementedError):
        return None
    return head if isinstance(head, nn.Module) else None


def is_encoder_decoder(model: nn.Module) -> bool:
    return bool(getattr(model.config, "is_encoder_decoder", False))


def _text(model: nn.Module) -> dict[str, Tensor]:
    if output_embeddings(model) is None:
        return {"input_ids": _ending(model)}
    if not is_encoder_decoder(model) or "decoder_input_ids" not in forward_parameters(model):
        return {"input_ids": probe_ids(model)}
    return {"input_ids": _ending(model).repeat(2, 1), "decoder_input_ids": probe_ids(model, TARGET_TOKENS)}


def probe_ids(model: nn.Module, count: int = PROBE_TOKENS) -> Tensor:
    """Two rows of a few valid token ids, [2, count], alike but for the last token; never the padding token."""
    ids = _valid_ids(model, {_special(model, "pad_token_id")}, count + 1)
    return torch.tensor([ids[:-1], [*ids[:-2], ids[-1]]], device=embedding_device(model))


def _ending(model: nn.Module) -> Tensor:
    """One row [1, PROBE_TOKENS] that ends with the end-of-sequence token, which some heads read."""
    end = _special(model, "eos_token_id")
    ids = _valid_ids(model, {_special(model, "pad_token_id"), end}, PROBE_TOKENS)
    if end is not None and 0 <= end < vocabulary_of(model):
        ids[-1] = end
    return torch.tensor([ids], device=embedding_device(model))


def _valid_ids(model: nn.Module, avoided: set[int | None], count: int) -> list[int]:
    vocabulary = vocabulary_of(model)
    return [i for i in range(1, vocabulary, max(1, vocabulary // (count + 2))) if i not in avoided][:count]


def _special(model: nn.Module, name: str) -> int | None:
    config: Any = model.config
    value = getattr(config, name, None)
    value = getattr(config.get_text_config(), name, None) if value is None else value
    return value[0] if isinstance(value, (list, tuple)) and value else value if isinstance(value, int) else None


def _pixels(model: nn.Module) -> Tensor:
    """One random image [1, channels, height, width] of the size that the config names."""
    config: Any = model.config
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None) or 224
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, getattr(config, "num_channels", 3), height, width, generator=generator)
    return noise.to(embedding_device(model), next(model.parameters()).dtype)


def vocabulary_of(model: nn.Module) -> int:
    """Number of entries of the input embedding."""
    weight: Any = embedding_of(model).weight
    return int(weight.shape[0])


def embedding_of(model: nn.Module) -> nn.Module:
    """The module that turns token ids, or an image's patches, into vectors; of images at least the first convolution.

    Raises:
        UnsupportedModelError: there is none.
    """
    getter = getattr(model, "get_input_embeddings", None)
    try:
        embedding = getter() if getter is not None else None
    except (AttributeError, NotImplementedError):
        embedding = None
    if not isinstance(embedding, nn.Module) and "pixel_values" in forward_parameters(model):
        embedding = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if not isinstance(embedding, nn.Module):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no input embedding (get_input_embeddings()). "
            "do: pass a transformers model with a head, e.g. AutoModelForCausalLM.from_pretrained(...)"
        )
    return embedding


def embedding_device(model: nn.Module) -> torch.device:
    return probe_device(embedding_of(model))


def probe_device(module: nn.Module) -> torch.device:
    """Where the module computes: its parameters' device, or accelerate's execution device when they are offloaded."""
    tensor = next(itertools.chain(module.parameters(), module.buffers()), None)
    if tensor is not None and tensor.device.type != "meta":
        return tensor.device
    for child in module.modules():
        device = getattr(getattr(child, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return torch.device("cpu")
