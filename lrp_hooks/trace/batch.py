"""Batches: checked and completed before the model sees them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import ContextLengthError, InputError
from lrp_hooks.structure.probe import embedding_device, forward_parameters, vocabulary_of
from lrp_hooks.structure.skeleton import Skeleton


def prepare_inputs(model: Any, skeleton: Skeleton, inputs: dict[str, Any], *, allow_beyond_max: bool) -> dict[str, Any]:
    """Check a batch and complete it: tensors on the model's device, position ids from the padding mask.

    Raises:
        InputError: empty prompt, wrong shapes or dtypes, rows without any token, no pixels, no decoder input.
        ContextLengthError: longer than the model's maximum.
    """
    inputs = {name: value for name, value in inputs.items() if value is not None and _is_wanted(model, name)}
    if "pixel_values" in forward_parameters(model) and "input_ids" not in forward_parameters(model):
        _check_pixels(inputs.get("pixel_values"))
    else:
        given = _check_text(model, inputs)
        _check_length(model, given, allow_beyond_max=allow_beyond_max)
        mask = inputs.get("attention_mask")
        # other models number their tokens themselves, from where their embedding begins
        if skeleton.is_language_model and mask is not None and "position_ids" not in inputs and not mask.bool().all():
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
    if skeleton.encoder is not None and not _has_decoder_input(inputs) and not skeleton.makes_output:
        start = getattr(model.config, "decoder_start_token_id", None)
        raise InputError(
            "this model needs decoder_input_ids [B, T]: the output so far, whose next token is explained. "
            f"do: begin with decoder_start_token_id ({start})"
        )
    device = embedding_device(model)
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _is_wanted(model: Any, name: str) -> bool:
    """Tokenizers return token_type_ids also for models that have none."""
    return name != "token_type_ids" or name in forward_parameters(model)


def _has_decoder_input(inputs: dict[str, Any]) -> bool:
    ids = inputs.get("decoder_input_ids")
    if ids is not None and (not isinstance(ids, Tensor) or ids.dim() != 2 or not ids.numel()):
        raise InputError("decoder_input_ids must be a tensor [B, T] with at least one token")
    return ids is not None or inputs.get("decoder_inputs_embeds") is not None


def _check_pixels(pixels: Any) -> None:
    if not isinstance(pixels, Tensor) or pixels.dim() != 4 or not pixels.is_floating_point() or not len(pixels):
        raise InputError(
            "this model explains images: pass pixel_values [B, channels, height, width], floating point. "
            "do: lrp.trace(**processor(image, return_tensors='pt'))"
        )
    if not torch.isfinite(pixels).all():
        raise InputError("pixel_values contain NaN or infinity")


def _check_text(model: Any, inputs: dict[str, Any]) -> Tensor:
    """The token ids [B, T] or embeddings [B, T, D] of the (encoder's) input."""
    ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
    given = ids if ids is not None else embeds
    if given is None or (ids is not None and embeds is not None):
        raise InputError(
            "pass either input_ids or inputs_embeds. do: lrp.trace(**tokenizer(prompt, return_tensors='pt'))"
        )
    if not isinstance(given, Tensor) or given.dim() != (2 if ids is not None else 3):
        raise InputError("input_ids must be a tensor [B, T]. do: tokenizer(prompt, return_tensors='pt')")
    if given.shape[0] == 0 or given.shape[1] == 0:
        raise InputError("the prompt is empty: there is no token to explain anything by")
    if ids is not None:
        _check_ids(model, ids)
    mask = inputs.get("attention_mask")
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.shape != given.shape[:2]:
            raise InputError(f"attention_mask must have the shape {tuple(given.shape[:2])} of the tokens")
        if not bool(mask.bool().any(1).all()):
            raise InputError("a row of the batch is padding only: there is no token to explain anything by")
    return given


def _check_length(model: Any, given: Tensor, *, allow_beyond_max: bool) -> None:
    maximum = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(maximum, int) and given.shape[1] > maximum and not allow_beyond_max:
        raise ContextLengthError(
            f"the prompt has {given.shape[1]} tokens, the model's maximum is {maximum}. "
            "do: shorten it, or allow_beyond_max=True if the model's positions extrapolate"
        )


def _check_ids(model: Any, ids: Tensor) -> None:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(f"input_ids must be integers, got {ids.dtype}")
    vocabulary = vocabulary_of(model)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise InputError(f"token id {low if low < 0 else high} is outside the embedding's {vocabulary} entries")
