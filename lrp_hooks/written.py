"""Targets and tokens as people write them: options of a command, fields of a form."""

from __future__ import annotations

import re
from typing import Any

from lrp_hooks.errors import InputError, TokenError
from lrp_hooks.targets import LogitDiff, MaxLogit, Rank, Target, Token, target_by_name


def parse_token(text: str) -> Token:
    """``#123`` is an id, ``rank:2`` a rank, anything else text.

    Raises:
        TokenError: a rank that is no number.
    """
    if re.fullmatch("#[0-9]{1,9}", text):
        return int(text[1:])
    if text.startswith("rank:"):
        if not re.fullmatch("rank:[0-9]{1,9}", text):
            raise TokenError(f"{text!r}: a rank is written rank:1, rank:2, …")
        return Rank(int(text[5:]))
    return text


def make_target(kind: str, target: str | None, contrasts: tuple[str, ...], position: int, tokenizer: Any) -> Target:
    """The target of a kind, a token and contrasts, all as text; by default the first choice, against the second.

    Raises:
        InputError: contrasts of a kind that has none.
        TargetError, TokenError: an unknown kind; a token that cannot be read.
    """
    family: Any = target_by_name(kind)
    token = Rank(1) if target is None else parse_token(target)
    if contrasts and family is not LogitDiff:
        raise InputError(f"a contrast goes with logit-diff, not with {kind}")
    if family is LogitDiff:
        many: Any = tuple(parse_token(text) for text in contrasts) or Rank(2)
        return LogitDiff(token, many, position, tokenizer)
    if family is MaxLogit:
        return MaxLogit(position, tokenizer)
    made: Target = family(token, position=position, tokenizer=tokenizer)
    return made
