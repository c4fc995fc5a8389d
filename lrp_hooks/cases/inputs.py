"""A case as a model sees it: token ids, target and contrast by id, and the text of each token."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lrp_hooks.cases.answers.generate import check_length, encode_so_far
from lrp_hooks.cases.schema import Case, CaseToken
from lrp_hooks.cases.segments import token_segments
from lrp_hooks.errors import InputError
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.segments import Segment
from lrp_hooks.structure.probe import vocabulary_of
from lrp_hooks.targets import LogitDiff, token_id
from lrp_hooks.tokens import TokenText, token_texts


@dataclass(frozen=True)
class CaseInput:
    """A case for one model.

    Attributes:
        ids: prompt and completion so far; the last position's next token is explained.
        target, contrast: vocabulary ids.
        texts: text of each token of ``ids``.
        segments: a partition of ``ids``.
    """

    case: Case
    ids: tuple[int, ...]
    target: int
    contrast: int
    texts: tuple[TokenText, ...]
    segments: tuple[Segment, ...]

    @cached_property
    def names(self) -> list[str]:
        """The segment's name of each token."""
        return [segment.name for segment in self.segments for _ in range(len(segment))]

    def why(self, tokenizer: Any) -> LogitDiff:
        """logit(target) - logit(contrast) after the last token."""
        return LogitDiff(self.target, self.contrast, tokenizer=tokenizer)


def case_input(loaded: LoadedModel, case: Case) -> CaseInput:
    """Prepare a case.

    Raises:
        InputError: no target or contrast, no tokenizer, tokens that the model's vocabulary lacks.
        ContextLengthError: the case does not fit.
        TokenError: a target or contrast text that is not one token.
    """
    if case.target is None or case.contrast is None:
        raise InputError("target and contrast are not known. do: cases find, or write them into the case")
    if loaded.tokenizer is None:
        raise InputError("the model has no tokenizer")
    ids = case.ids or _encoded(loaded.tokenizer, case)
    size = vocabulary_of(loaded.model)
    if max(ids) >= size:
        raise InputError(f"token id {max(ids)} is outside the vocabulary of {size} entries: another tokenizer's case")
    check_length(loaded.model, len(ids), 0)
    target, contrast = (_id(token, loaded.tokenizer, size) for token in (case.target, case.contrast))
    if target == contrast:
        raise InputError(f"target and contrast are the same token {target}")
    texts = tuple(token_texts(loaded.tokenizer, ids))
    return CaseInput(case, tuple(ids), target, contrast, texts, token_segments(case, loaded.tokenizer, ids))


def _encoded(tokenizer: Any, case: Case) -> list[int]:
    prompt = (case.prompt or "") if case.messages is None else [message.model_dump() for message in case.messages]
    return encode_so_far(tokenizer, prompt, case.completion)


def _id(token: CaseToken, tokenizer: Any, vocabulary: int) -> int:
    return token_id(token.text or "" if token.id is None else token.id, tokenizer, vocabulary)


def fingerprint(tokenizer: Any) -> str:
    """The same for tokenizers with the same entries at the same ids."""
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    entries = json.dumps(sorted(vocabulary.items(), key=lambda item: (item[1], item[0])))
    return hashlib.sha256(entries.encode(errors="surrogatepass")).hexdigest()[:16]


def words_of(texts: Sequence[TokenText], allowed: Sequence[bool]) -> list[tuple[int, ...]]:
    """Tokens grouped into words: runs without white space between them, of tokens that are allowed."""
    words: list[list[int]] = []
    open_word = False
    for i, (token, free) in enumerate(zip(texts, allowed, strict=True)):
        if not free or not (token.text.strip() or token.part > 1):
            open_word = False
            continue
        if open_word and not token.text[:1].isspace():
            words[-1].append(i)
        else:
            words.append([i])
        open_word = not token.text[-1:].isspace()
    return [tuple(word) for word in words]
