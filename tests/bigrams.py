"""A language model of fifteen words whose every preference is planted."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.loading.loaded import LoadedModel

WORDS = [
    "<end>",
    "<user>",
    "say",
    " sun",
    " moon",
    " is",
    ",",
    " and",
    " warm",
    " cold",
    ".",
    " a",
    " rock",
    " et",
    " x",
]
"""The vocabulary: each word is one token."""


class Tokenizer:
    """Words as tokens; other characters are passed over."""

    eos_token_id = 0
    chat_template = "yes"

    def apply_chat_template(self, messages: Sequence[dict[str, str]], **_: Any) -> str:
        return "<user>" + messages[-1]["content"]

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        ids, at = [], 0
        while at < len(text):
            word = max((w for w in WORDS if text.startswith(w, at)), key=len, default=None)
            ids += [] if word is None else [WORDS.index(word)]
            at += 1 if word is None else len(word)
        return {"input_ids": ids}

    def get_vocab(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(WORDS)}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        return "".join(WORDS[i] for i in ids if i > 1)


class Bigrams(nn.Module):
    """A language model that looks at the last token only, with a cache that does what caches do.

    ``odds[word]`` lists what follows a word, the likeliest first.
    """

    def __init__(self, odds: dict[str, list[str]]):
        super().__init__()
        table = torch.full((len(WORDS), len(WORDS)), -9.0)
        for word, followers in odds.items():
            for place, follower in enumerate(followers):
                table[WORDS.index(word), WORDS.index(follower)] = 6.0 - 1.5 * place
        self.table = nn.Parameter(table, requires_grad=False)
        self.embedding = nn.Embedding(len(WORDS), 2)
        self.generation_config = SimpleNamespace(eos_token_id=None)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(max_position_embeddings=64))

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, past_key_values: Any = None, logits_to_keep: int = 0, **_: Any) -> Any:
        states = torch.zeros(*input_ids.shape, 1)[:, None]
        if past_key_values is not None:
            past_key_values.update(states, states, 0)
        return SimpleNamespace(logits=self.table[input_ids][:, -logits_to_keep:])


def loaded(**odds: list[str]) -> LoadedModel:
    """Keys are words with "_" for the space before; "user" is where the answer begins."""
    names = {"user": "say", "comma": ",", "stop": "."}
    model = Bigrams({names.get(key, key.replace("_", " ")): value for key, value in odds.items()})
    return LoadedModel(model, Tokenizer(), "made", "bigrams")


COMMAS = {
    "user": [" sun", " moon"],
    "_sun": [" is"],
    "_is": [" warm", " cold"],
    "_warm": [",", " and", "."],  # the comma is the error; " and" or "." would have passed
    "comma": [" a"],
    "_a": [" rock"],
    "_rock": ["."],
    "_and": [" cold"],
    "_cold": ["."],
    "stop": ["<end>"],
}
