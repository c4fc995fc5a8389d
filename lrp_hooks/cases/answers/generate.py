"""Completions: greedy, batched, with a KV cache and left padding. A row that has ended leaves the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import ContextLengthError, InputError
from lrp_hooks.structure.probe import embedding_device, with_cache

STOP_EVERY = 8
"""Tokens of a row between looks at whether it is given up."""


@dataclass(frozen=True)
class Completion:
    """What a model said.

    Attributes:
        prompt_ids: what it was given, chat markers included.
        ids: what it said, without the end-of-text token.
        ended: whether it ended by itself.
        text: ``ids`` as text.
    """

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    ended: bool
    text: str


def encode_prompt(tokenizer: Any, prompt: str | Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a plain prompt, or of chat messages through the chat template, ready for the assistant's turn.

    Raises:
        InputError: messages without a chat template, an empty prompt.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    elif getattr(tokenizer, "chat_template", None):
        text = tokenizer.apply_chat_template(list(prompt), tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    else:
        raise InputError("this tokenizer has no chat template. do: give the prompt as text")
    if not ids:
        raise InputError("the prompt is empty")
    return [int(i) for i in ids]


def encode_so_far(tokenizer: Any, prompt: str | Sequence[dict[str, str]], completion: str) -> list[int]:
    """Token ids of a prompt and of what has been said after it: of a text as one, after a chat by itself."""
    if isinstance(prompt, str):
        return encode_prompt(tokenizer, prompt + completion)
    said = tokenizer(completion, add_special_tokens=False)["input_ids"] if completion else []
    return [*encode_prompt(tokenizer, prompt), *(int(token) for token in said)]


def end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a text, for the model or for the tokenizer."""
    found: set[int] = set()
    for value in (getattr(model.generation_config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)):
        found |= {value} if isinstance(value, int) else set(value or ())
    return frozenset(found)


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Text of ids, byte for byte, without end markers."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def context_length(model: Any) -> int | None:
    """How many tokens the model takes; None where its config does not say."""
    maximum = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return maximum if isinstance(maximum, int) else None


def check_length(model: Any, prompt_tokens: int, new_tokens: int) -> None:
    """Raise when prompt and answer do not fit into the model's context."""
    maximum = context_length(model)
    if maximum is not None and prompt_tokens + new_tokens > maximum:
        raise ContextLengthError(
            f"{prompt_tokens} tokens of prompt and {new_tokens} new ones are more than the model's {maximum}"
        )


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop: Callable[[Sequence[int]], bool] | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Greedy completions of one batch: (index of the prompt, completion), each as soon as it is finished.

    The choice is the model's own first: no sampling, no repetition penalty, whatever its generation config says.

    Args:
        prompts: token ids, of any lengths.
        stop: gives a row up, as one that has not ended; asked with its tokens after the first and every eighth on.

    Raises:
        ContextLengthError: a prompt that leaves no room.
    """
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    for prompt in prompts:
        check_length(model, len(prompt), max_new_tokens)
    ends = end_ids(model, tokenizer)
    said: list[list[int]] = [[] for _ in prompts]
    batch = _Batch(model, prompts)
    while batch.rows:
        finished = []
        for place, (row, token) in enumerate(zip(batch.rows, batch.choices(), strict=True)):
            ended = token in ends
            said[row] += [] if ended else [token]
            if ended or len(said[row]) == max_new_tokens or _given_up(said[row], stop):
                finished.append(place)
                ids = tuple(said[row])
                yield row, Completion(tuple(prompts[row]), ids, ended, decode(tokenizer, ids))
        batch.drop(finished)
        batch.step()


def _given_up(said: Sequence[int], stop: Callable[[Sequence[int]], bool] | None) -> bool:
    return stop is not None and len(said) % STOP_EVERY == 1 and stop(said)


class _Batch:
    """Rows that are still being written: their cache, mask and last logits."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]]):
        from transformers import DynamicCache

        self.rows = list(range(len(prompts)))
        self._model = model
        self._cache = DynamicCache()
        self._next: Tensor | None = None
        if prompts:
            device = embedding_device(model)
            longest = max(map(len, prompts))
            ids = torch.tensor([[0] * (longest - len(p)) + list(p) for p in prompts], device=device)
            self._mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
            self._forward(ids, (self._mask.cumsum(1) - 1).clamp_min(0))

    @torch.no_grad()
    def _forward(self, ids: Tensor, positions: Tensor) -> None:
        out = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            logits_to_keep=1,
            **with_cache(self._model, self._cache),
        )
        self._next = out.logits[:, -1].argmax(-1)

    def choices(self) -> list[int]:
        """The next token of each row that is left."""
        assert self._next is not None
        return [int(token) for token in self._next]

    def drop(self, places: Sequence[int]) -> None:
        """Take finished rows out; those that are left keep their order."""
        if not places:
            return
        keep = [place for place in range(len(self.rows)) if place not in places]
        self.rows = [self.rows[place] for place in keep]
        if not keep:
            return
        index = torch.tensor(keep, device=self._mask.device)
        self._mask = self._mask[index]
        self._cache.batch_select_indices(index)
        assert self._next is not None
        self._next = self._next[index]

    def step(self) -> None:
        """Feed the chosen tokens."""
        if not self.rows:
            return
        assert self._next is not None
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], 1)
        self._forward(self._next[:, None], self._mask.sum(1, keepdim=True) - 1)
