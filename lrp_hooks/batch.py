"""Batches: checked and completed before the model sees them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import ContextLengthError, InputError
from lrp_hooks.structure import embedding_device, vocabulary_of


def prepare_inputs(model: Any, inputs: dict[str, Any], *, allow_beyond_max: bool) -> dict[str, Any]:
    """Check a batch and complete it: tensors on the model's device, position ids from the padding mask.

    Raises:
        InputError: empty prompt, wrong shapes or dtypes, rows without any token.
        ContextLengthError: longer than the model's maximum.
    """
    inputs = {name: value for name, value in inputs.items() if value is not None and name != "token_type_ids"}
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
        if "position_ids" not in inputs and not bool(mask.bool().all()):
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)
    maximum = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if isinstance(maximum, int) and given.shape[1] > maximum and not allow_beyond_max:
        raise ContextLengthError(
            f"the prompt has {given.shape[1]} tokens, the model's maximum is {maximum}. "
            "do: shorten it, or allow_beyond_max=True if the model's positions extrapolate"
        )
    device = embedding_device(model)
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}


def _check_ids(model: Any, ids: Tensor) -> None:
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise InputError(f"input_ids must be integers, got {ids.dtype}")
    vocabulary = vocabulary_of(model)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocabulary:
        raise InputError(f"token id {low if low < 0 else high} is outside the embedding's {vocabulary} entries")
