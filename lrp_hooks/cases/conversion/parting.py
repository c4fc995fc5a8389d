"""Where a wrong text and an expected one part: by characters, and by the tokens of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrp_hooks.cases.answers.generate import encode_prompt
from lrp_hooks.errors import InputError


@dataclass(frozen=True)
class Parting:
    """What an answer has in common with the expected one, and how either goes on."""

    before: str
    wrong: str
    expected: str


def parting(before: str, wrong: str, expected: str) -> Parting:
    """The texts from the first character that differs on.

    Raises:
        InputError: one is the beginning of the other.
    """
    pairs = zip(wrong, expected, strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if shared is None:
        raise InputError(f"{expected!r} does not differ from what was said")
    return Parting(before + wrong[:shared], wrong[shared:], expected[shared:])


def token_pair(tokenizer: Any, messages: Sequence[dict[str, str]], parted: Parting) -> dict[str, Any]:
    """Fields of a case: target and contrast are the first tokens that differ; ids and completion end before them.

    Texts that differ from some character on may differ from an earlier token on, as that token may hold both.

    Raises:
        InputError: no chat template, or the tokens of one text are the beginning of the other's.
    """
    said, expected = (
        tokenizer(parted.before + text, add_special_tokens=False)["input_ids"]
        for text in (parted.wrong, parted.expected)
    )
    pairs = zip(said, expected, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
    if place is None:
        raise InputError(f"the tokens of {parted.expected!r} are also the beginning of what was said")
    target, contrast = ({"id": int(ids[place]), "text": _text(tokenizer, [ids[place]])} for ids in (said, expected))
    return {
        "completion": _text(tokenizer, said[:place]),
        "ids": [*encode_prompt(tokenizer, messages), *map(int, said[:place])],
        "position": place,
        "target": target,
        "contrast": contrast,
    }


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    """With the special tokens: tags of tool calls may be some."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
