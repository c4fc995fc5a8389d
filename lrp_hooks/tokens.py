"""Token text that a person can read: whole characters, visible white space, nothing that could act on the page.

Byte-level tokenizers split characters over tokens; decoding the pieces one by one gives mojibake. Here neighbouring
tokens' bytes are decoded together, and every character belongs to the token that holds its first byte. Token text is
untrusted: control characters, invisible characters and bidirectional overrides become visible symbols.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import Any

PIECE = "·"
"""Stands for a later piece of a character that is split over several tokens."""

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_START = "\u2581"  # SentencePiece's mark for a space
_JOINERS = "\u200c\u200d"  # shape their neighbours (Persian, emoji families); invisible alone
_FILLERS = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # letters and marks that show nothing


@dataclass(frozen=True)
class TokenText:
    """One token as text.

    Attributes:
        id: vocabulary id, -1 where there is none.
        text: its share of the prompt; the texts of all tokens joined are the prompt. A character that is split over
            several tokens belongs to the first of them.
        part, parts: place in a group of tokens that share characters, (1, 1) for ordinary tokens.
        whole: the text of such a group.
        special: a marker of the tokenizer (BOS, chat roles), not text of the prompt.
        symbol: what to show instead of the text: the bytes of a broken character, the id of an unknown token.
    """

    id: int
    text: str
    part: int = 1
    parts: int = 1
    whole: str = ""
    special: bool = False
    symbol: str = ""

    @property
    def display(self) -> str:
        """What to show in one line: visible white space, no control characters, ``·`` for later pieces."""
        return (PIECE if self.part > 1 else "") + self.body

    @property
    def body(self) -> str:
        """`display` without the mark of later pieces: empty for a piece that starts no character of its own."""
        return self.symbol or visible(self.text)

    @property
    def flow(self) -> str:
        """`display` for running text: lines break after ``↵`` and a tab takes four columns."""
        return self.display.replace("↵", "↵\n").replace("⇥", "⇥   ")

    @property
    def label(self) -> str:
        """What to show alone, in tables and tooltips: ``␣Mary``, ``你·2/3``."""
        if self.parts > 1 and not self.symbol:
            return f"{alone(visible(self.whole))}{PIECE}{self.part}/{self.parts}"
        return alone(self.body) or "∅"


def alone(text: str) -> str:
    """Outer spaces as ``␣``, nothing but spaces as ``␣(12)``, an accent on a dotted circle."""
    inner = text.strip(" ")
    if unicodedata.combining(inner[:1] or " "):
        inner = "◌" + inner
    if not inner:
        return f"␣({len(text)})" if len(text) > 4 else "␣" * len(text)
    before, after = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    return "␣" * before + inner + "␣" * after


def visible(text: str) -> str:
    """White space and control characters as symbols; safe in a terminal, in XML and in bidirectional text."""
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(_symbol(character) for character in text)
    if all(c in _JOINERS or "\ufe00" <= c <= "\ufe0f" for c in shown):
        return "".join(f"⟨U+{ord(c):04X}⟩" for c in shown)  # nothing here that could be seen alone
    return shown


@cache
def _symbol(character: str) -> str:
    code = ord(character)
    named = {"\n": "↵", "\t": "⇥", "\x7f": "␡", "\u00a0": "⍽"}.get(character)
    if named:
        return named
    if code < 0x20:
        return chr(0x2400 + code)
    if character in _JOINERS or 0x1F000 <= code <= 0x1FAFF:  # emoji newer than Python's tables are shown as they are
        return character
    hidden = unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")
    if hidden or character in _FILLERS or 0xE0000 <= code <= 0xE0FFF:
        return f"⟨U+{code:04X}⟩"
    return character


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[TokenText]:
    """The text of each token, aligned with ``ids``. Without a tokenizer ids are shown as ``#123``.

    Byte-level BPE, SentencePiece with byte fallback and WordPiece are understood, from fast and slow tokenizers.
    """
    numbers = [int(i) for i in ids]
    if tokenizer is None:
        return [TokenText(i, f"#{i}") for i in numbers]
    special = special_ids(tokenizer)
    pieces = _Pieces(tokenizer)
    out: list[TokenText] = []
    index = 0
    while index < len(numbers):
        stop = index
        while stop < len(numbers) and numbers[stop] not in special:
            stop += 1
        out.extend(_decoded(numbers[index:stop], [pieces.data(i, k > 0) for k, i in enumerate(numbers[index:stop])]))
        if stop < len(numbers):
            out.append(TokenText(numbers[stop], pieces.name(numbers[stop]), special=True))
        index = stop + 1
    return out if pieces.exact else _without_first_space(out, tokenizer, numbers)


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of markers: special tokens, and added tokens that are flagged special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return set(tokenizer.all_special_ids) | {int(i) for i, token in added.items() if token.special}


def _decoded(ids: Sequence[int], data: Sequence[bytes | None]) -> list[TokenText]:
    """Texts of tokens without a marker between them. None stands for an id that the vocabulary lacks."""
    chunks = [chunk or b"" for chunk in data]
    ends = list(accumulate(map(len, chunks)))
    texts = [""] * len(ids)
    broken: dict[int, str] = {}  # token -> what to show where bytes make no character
    joined = [False] * len(ids)  # whether token k shares a character with token k + 1
    for start, stop, character in _characters(b"".join(chunks)):
        first, last = bisect_right(ends, start), bisect_right(ends, stop - 1)
        if character:
            joined[first:last] = [True] * (last - first)
            if first in broken:
                broken[first] += visible(character)
        else:
            for k in range(first, last + 1):
                before = ends[k] - len(chunks[k])
                piece = chunks[k][max(start - before, 0) : stop - before]
                broken[k] = broken.get(k, visible(texts[k])) + f"⟨{piece.hex(' ').upper()}⟩"
        texts[first] += character or "\ufffd"
    broken |= {k: f"#{ids[k]}" for k, chunk in enumerate(data) if chunk is None}
    return [token for group in _groups(joined) for token in _group(ids, texts, broken, group)]


def _groups(joined: Sequence[bool]) -> Iterator[range]:
    """Ranges of tokens that share characters."""
    start = 0
    for k, more in enumerate(joined):
        if not more:
            yield range(start, k + 1)
            start = k + 1


def _group(ids: Sequence[int], texts: Sequence[str], broken: dict[int, str], group: range) -> Iterator[TokenText]:
    parts = len(group)
    whole = "".join(texts[k] for k in group) if parts > 1 else ""
    for part, k in enumerate(group, 1):
        yield TokenText(ids[k], texts[k], part=part, parts=parts, whole=whole, symbol=broken.get(k, ""))


def _characters(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Start, stop and character of each UTF-8 character; an empty one for bytes that make none."""
    at = 0
    while at < len(data):
        try:
            good, bad = data[at:].decode(), 0
        except UnicodeDecodeError as error:
            good, bad = data[at : at + error.start].decode(), error.end - error.start
        for character in good:
            size = len(character.encode())
            yield at, at + size, character
            at += size
        if bad:
            yield at, at + bad, ""
            at += bad


class _Pieces:
    """A tokenizer's vocabulary entries as the bytes they stand for.

    Attributes:
        exact: joined entries are the text; otherwise a decoder may drop the space before the first word.
    """

    def __init__(self, tokenizer: Any):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        decoder = repr(getattr(backend, "decoder", ""))
        self._tokenizer = tokenizer
        self.exact = "ByteLevel" in decoder or hasattr(tokenizer, "byte_decoder")
        self._words = "WordPiece" in decoder
        self._suffix = "</w>" in decoder
        self._literal = {int(i): str(token) for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}

    def name(self, token: int) -> str:
        """The entry itself; never None."""
        return str(self._tokenizer.convert_ids_to_tokens(token) or f"#{token}")

    def data(self, token: int, inside: bool) -> bytes | None:
        """Bytes of one entry; ``inside`` when text comes before it."""
        if token in self._literal:
            return self._literal[token].encode(errors="replace")
        try:
            piece = self._tokenizer.convert_ids_to_tokens(token)
        except (IndexError, KeyError, OverflowError):
            piece = None
        if not isinstance(piece, str):
            return None
        if self.exact:
            table = _byte_alphabet()
            known = all(character in table for character in piece)
            return bytes(table[character] for character in piece) if known else piece.encode(errors="replace")
        if self._words:
            return (piece[2:] if piece.startswith("##") else " " * inside + piece).encode(errors="replace")
        if self._suffix:
            return piece.replace("</w>", " ").encode(errors="replace")
        match = _BYTE_TOKEN.fullmatch(piece)
        if match:
            return bytes([int(match.group(1), 16)])
        return piece.replace(_WORD_START, " ").encode(errors="replace")


def _without_first_space(texts: list[TokenText], tokenizer: Any, ids: Sequence[int]) -> list[TokenText]:
    """SentencePiece puts a space before the first word that was not in the prompt; decoders take it away again."""
    first = next((k for k, token in enumerate(texts) if not token.special), None)
    if first is None or not texts[first].text.startswith(" "):
        return texts
    shorter = [*texts[:first], replace(texts[first], text=texts[first].text[1:]), *texts[first + 1 :]]
    decoded = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return shorter if "".join(token.text for token in shorter) == decoded else texts


@cache
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's table: printable Latin-1 stands for itself, the other bytes for code points from 256 on."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in keep}
    others = [byte for byte in range(256) if byte not in set(keep)]
    table.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return table


def is_rtl(text: str) -> bool:
    """Whether the text holds right-to-left letters."""
    return not text.isascii() and any(unicodedata.bidirectional(c) in ("R", "AL") for c in text)


def rtl_runs(tokens: Sequence[TokenText]) -> list[range]:
    """Runs of tokens that read from right to left: to be isolated as a whole, so that words and letters keep their
    order and nothing outside a run is reordered. A run starts and ends with right-to-left letters in one line."""
    runs: list[range] = []
    start = stop = -1
    for k, token in enumerate(tokens):
        if is_rtl(token.text):
            start, stop = (k if start < 0 else start), k + 1
        neutral = not token.special and not token.symbol and "\n" not in token.text
        if start >= 0 and (not neutral or (stop <= k and any(unicodedata.bidirectional(c) == "L" for c in token.text))):
            runs.append(range(start, stop))
            start = -1
    return [*runs, range(start, stop)] if start >= 0 else runs
