"""Segments: named spans of the prompt's tokens. A partition of the prompt makes the columns of a coarse graph."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lrp_hooks.errors import InputError

_SENTENCE_END = re.compile("[.!?…\u3002\uff01\uff1f]['\"”\u2019)\\]]*\\s*$|\\n\\s*$")


@dataclass(frozen=True)
class Segment:
    """Tokens ``start`` .. ``stop - 1`` under one name."""

    name: str
    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise InputError(f"segment {self.name!r} ({self.start}:{self.stop}) holds no token")

    def __len__(self) -> int:
        return self.stop - self.start


def check_partition(segments: Sequence[Segment], length: int) -> tuple[Segment, ...]:
    """The segments, when they cover tokens 0 .. ``length - 1`` in order, each token once.

    Raises:
        InputError: gaps, overlaps, or another length; says where.
    """
    at = 0
    for segment in segments:
        if segment.start != at:
            kind = "overlap" if segment.start < at else "gap"
            raise InputError(f"{kind} before segment {segment.name!r}: it starts at token {segment.start}, not {at}")
        at = segment.stop
    if at != length:
        raise InputError(f"the segments cover {at} tokens, the prompt has {length}")
    return tuple(segments)


def single_tokens(texts: Sequence[str]) -> tuple[Segment, ...]:
    """One segment per token."""
    return tuple(Segment(text, i, i + 1) for i, text in enumerate(texts))


def chunks(texts: Sequence[str], size: int) -> tuple[Segment, ...]:
    """Segments of ``size`` tokens (the last may be shorter), named by their first words."""
    if size < 1:
        raise InputError(f"chunks of {size} tokens: at least 1")
    return _cut(texts, list(range(size, len(texts), size)))


def sentences(texts: Sequence[str], longest: int = 64) -> tuple[Segment, ...]:
    """Segments that end where a sentence or line ends, or after ``longest`` tokens.

    Args:
        texts: the tokens' own texts (their concatenation is the prompt).
    """
    cuts, start = [], 0
    for i, text in enumerate(texts):
        if _SENTENCE_END.search(text) or i + 1 - start >= longest:
            cuts.append(i + 1)
            start = i + 1
    return _cut(texts, [cut for cut in cuts if cut < len(texts)])


def cut_segments(how: str, texts: Sequence[str]) -> tuple[Segment, ...]:
    """Segments as people ask for them: ``sentences``, or a number of tokens per segment.

    Raises:
        InputError: anything else.
    """
    if how == "sentences":
        return sentences(texts)
    if re.fullmatch("[0-9]{1,9}", how):
        return chunks(texts, int(how))
    raise InputError(f"segments {how!r} are unknown. choices: sentences, or a number of tokens")


def expand(segments: Sequence[Segment], index: int, texts: Sequence[str]) -> tuple[Segment, ...]:
    """The same partition with segment ``index`` split into its tokens: drill-down."""
    if not 0 <= index < len(segments):
        raise InputError(f"segment {index} is outside 0..{len(segments) - 1}")
    chosen = segments[index]
    inside = (Segment(texts[i], i, i + 1) for i in range(chosen.start, chosen.stop))
    return (*segments[:index], *inside, *segments[index + 1 :])


def _cut(texts: Sequence[str], cuts: list[int]) -> tuple[Segment, ...]:
    edges = [0, *cuts, len(texts)]
    return tuple(Segment(_name(texts[a:b]), a, b) for a, b in pairwise(edges) if b > a)


def _name(texts: Sequence[str], longest: int = 24) -> str:
    words = " ".join("".join(texts).split())
    return words if len(words) <= longest else words[: longest - 1].rstrip() + "…"
