"""Where an answer nearly said something else: what it lacks, or its end.

A title needs "<<", a list its bullets, a keyword itself. Where such a token was among the model's best choices and
another one was said, saying it may be all that the answer needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.cases.search.race import Choice

Near = list[tuple[int, list[Choice]]]
"""Positions with the tokens that were good choices there."""


def near(tokens: Sequence[int], logits: Tensor, said: Sequence[int], rank: int) -> Near:
    """Positions at which some of the tokens have this rank or a better one and were not said; best ranks first.

    Args:
        logits: [P, V], before each of the P tokens that were ``said``.
    """
    if not tokens or not said:
        return []
    mine = logits[:, torch.tensor(tokens, device=logits.device)].float()  # [P, K]
    ranks = torch.stack([(row > each[:, None]).sum(1) + 1 for row, each in zip(logits.float(), mine, strict=True)])
    found = []
    for position, (row, values) in enumerate(zip(ranks.tolist(), mine.tolist(), strict=True)):
        choices = [
            (token, place, value)
            for token, place, value in zip(tokens, row, values, strict=True)
            if place <= rank and token != said[position]
        ]
        if choices:
            found.append((position, sorted(choices, key=lambda choice: choice[1])))
    return sorted(found, key=lambda each: each[1][0][1])


def first_tokens(tokenizer: Any, wanted: Sequence[str]) -> list[int]:
    """Ids of the tokens that begin the texts, also after a space or at the beginning of a line; never white space."""
    found = []
    for text in wanted:
        for before in ("", " ", "\n"):
            bare, ids = (_ids(tokenizer, part) for part in (before, before + text))
            rest = ids[len(bare) :] if ids[: len(bare)] == bare else ids
            if rest and tokenizer.decode(rest[:1]).strip():
                found.append(rest[0])
    return list(dict.fromkeys(found))


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []
