"""What a model says when words of its input are masked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lrp_hooks.cases.inputs import CaseInput
from lrp_hooks.errors import InputError
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.structure.probe import embedding_device, vocabulary_of, with_cache

Replacement = Literal["pad", "neutral", "mask", "deletion"]
REPLACEMENTS: tuple[Replacement, ...] = get_args(Replacement)
NEUTRAL = (" _", "_", " …", ".")
"""Texts of a token that says nothing; the first that is one token of the tokenizer."""


@dataclass(frozen=True)
class Effect:
    """The last position after masking.

    Attributes:
        top: the model's first choice.
        target, contrast: their logits.
    """

    top: int
    target: float
    contrast: float


class Masker:
    """One case, with words of it masked.

    "pad": nothing attends to the word any more, all positions stay. "neutral": each of its tokens becomes one that
    says nothing. "mask": each becomes the tokenizer's mask token. "deletion": its tokens are taken out, later ones
    move up.
    """

    def __init__(self, loaded: LoadedModel, given: CaseInput, replacement: Replacement):
        self._model, self._given, self._replacement = loaded.model, given, replacement
        self._filler = filler(loaded, replacement)
        self._known: dict[frozenset[int], Effect] = {}

    def ids(self, masked: Collection[int]) -> list[int]:
        """The token ids with these tokens masked; "pad" masks in the attention only."""
        if self._replacement == "deletion":
            return [token for i, token in enumerate(self._given.ids) if i not in masked]
        if self._filler is None:
            return list(self._given.ids)
        return [self._filler if i in masked else token for i, token in enumerate(self._given.ids)]

    def effects(self, masks: Sequence[frozenset[int]], batch_size: int = 4) -> list[Effect]:
        """What each set of masked tokens does; each set is run once.

        Raises:
            InputError: the last token is masked, whose next token is the question.
        """
        last = len(self._given.ids) - 1
        if any(last in mask for mask in masks):
            raise InputError("the last token cannot be masked: what comes after it is the question")
        new = [mask for mask in dict.fromkeys(masks) if mask not in self._known]
        for first in range(0, len(new), batch_size):
            group = new[first : first + batch_size]
            self._known |= zip(group, self._run(group), strict=True)
        return [self._known[mask] for mask in masks]

    @torch.no_grad()
    def _run(self, masks: Sequence[frozenset[int]]) -> list[Effect]:
        """One batch; what comes before the first masked token of all is read from the cache of the whole text."""
        kept = min((min(mask) for mask in masks if mask), default=0) if all(masks) else 0
        rows = [self.ids(mask)[kept:] for mask in masks]
        longest = max(map(len, rows))
        device = embedding_device(self._model)
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows], device=device)
        seen = torch.tensor([[1] * kept + [0] * (longest - len(row)) + [1] * len(row) for row in rows], device=device)
        positions = (seen.cumsum(1) - 1).clamp_min(0)[:, kept:]
        if self._replacement == "pad":
            for row, mask in enumerate(masks):
                seen[row, list(mask)] = 0
        made: Any = self._model(
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            logits_to_keep=1,
            **(with_cache(self._model, self._prefix(kept, len(rows))) if kept else {"use_cache": False}),
        )
        logits: Tensor = made.logits[:, -1].float()
        pairs = logits[:, [self._given.target, self._given.contrast]].tolist()
        return [Effect(top, *pair) for top, pair in zip(logits.argmax(-1).tolist(), pairs, strict=True)]

    def _prefix(self, length: int, rows: int) -> Any:
        """A cache of the first ``length`` tokens for so many rows."""
        from transformers import DynamicCache

        made = DynamicCache()
        for number, layer in enumerate(self._whole.layers):
            keys, values = layer.keys[:, :, :length], layer.values[:, :, :length]
            made.update(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1), number)
        return made

    @cached_property
    def _whole(self) -> Any:
        """The cache of the whole text."""
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        ids = torch.tensor([self._given.ids], device=embedding_device(self._model))
        self._model(input_ids=ids, logits_to_keep=1, **with_cache(self._model, cache))
        return cache


def mask_of(order: Sequence[tuple[int, ...]], count: int) -> frozenset[int]:
    """Tokens of the first ``count`` words."""
    return frozenset(i for word in order[:count] for i in word)


def word_texts(given: CaseInput, words: Sequence[tuple[int, ...]]) -> tuple[str, ...]:
    """Words as texts."""
    return tuple("".join(given.texts[i].text for i in word).strip() for word in words)


def filler(loaded: LoadedModel, replacement: Replacement) -> int | None:
    """The token that stands for masked ones; None where there is none.

    Raises:
        InputError: the tokenizer has no such token, or the model no embedding for it.
    """
    if replacement == "neutral":
        return neutral_id(loaded.tokenizer)
    return mask_id(loaded) if replacement == "mask" else None


def mask_id(loaded: LoadedModel) -> int:
    """The tokenizer's mask token.

    Raises:
        InputError: it has none, or the model has no embedding for it.
    """
    token: int | None = getattr(loaded.tokenizer, "mask_token_id", None)
    if token is None:
        raise InputError(f"the tokenizer of {loaded.name} has no mask token. do: another replacement, such as neutral")
    if token >= (size := vocabulary_of(loaded.model)):
        raise InputError(
            f"the mask token {token} of {loaded.name} is outside its vocabulary of {size}. do: another replacement"
        )
    return token


def neutral_id(tokenizer: Any) -> int:
    """A token that says nothing.

    Raises:
        InputError: the tokenizer has none of them as one token.
    """
    for text in NEUTRAL:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) == 1:
            return int(ids[0])
    raise InputError(f"none of {', '.join(map(repr, NEUTRAL))} is one token. do: another replacement")
