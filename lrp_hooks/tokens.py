"""Token text that a person can read: whole characters, visible white space, nothing that could act on the page.

Byte-level tokenizers split characters over tokens; decoding the pieces one by one gives mojibake. Here the bytes of
neighbouring tokens are joined until they are whole characters. Token text is untrusted: control characters and
bidirectional overrides become visible symbols.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_WORD_START = "\u2581"  # SentencePiece's mark for a space


@dataclass(frozen=True)
class TokenText:
    """One token as text.

    Attributes:
        id: vocabulary id.
        text: its share of the prompt; the texts of all tokens joined are the prompt. A character that is split over
            several tokens belongs to the first of them.
        part, parts: place in such a group, (1, 1) for ordinary tokens.
        special: a marker of the tokenizer (BOS, chat roles), not text of the prompt.
    """

    id: int
    text: str
    part: int = 1
    parts: int = 1
    special: bool = False

    @property
    def display(self) -> str:
        """What to show: visible white space, no control characters, ``⋯`` for later pieces of a character."""
        return "⋯" if self.part > 1 else visible(self.text)


def visible(text: str) -> str:
    """White space and control characters as symbols; safe in a terminal and in bidirectional text."""
    return "".join(_symbol(character) for character in text)


def _symbol(character: str) -> str:
    if character == "\n":
        return "↵"
    if character == "\t":
        return "⇥"
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp") and character != "\u200d":
        return f"⟨U+{code:04X}⟩"
    return character


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[TokenText]:
    """The text of each token, aligned with ``ids``. Without a tokenizer ids are shown as ``#123``."""
    numbers = [int(i) for i in ids]
    if tokenizer is None:
        return [TokenText(i, f"#{i}") for i in numbers]
    special = special_ids(tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(numbers)
    byte_level = _is_byte_level(tokenizer)
    raw = [None if i in special else _piece_bytes(piece, byte_level) for i, piece in zip(numbers, pieces, strict=True)]
    out: list[TokenText] = []
    index = 0
    while index < len(numbers):
        data = raw[index]
        if data is None:
            out.append(TokenText(numbers[index], str(pieces[index]), special=True))
            index += 1
            continue
        size, text = _whole_characters(raw, index)
        out.extend(TokenText(numbers[index + k], text if k == 0 else "", part=k + 1, parts=size) for k in range(size))
        index += size
    return out


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of markers: special tokens, and added tokens that are flagged special."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return set(tokenizer.all_special_ids) | {int(i) for i, token in added.items() if token.special}


def _whole_characters(raw: Sequence[bytes | None], start: int) -> tuple[int, str]:
    """How many tokens from ``start`` make whole characters, and their text. A UTF-8 character has at most 4 bytes."""
    joined = b""
    for size in range(1, 5):
        data = raw[start + size - 1] if start + size <= len(raw) else None
        if data is None:
            break
        joined += data
        try:
            return size, joined.decode()
        except UnicodeDecodeError as error:
            if error.end < len(joined):  # broken in the middle: no further byte can mend it
                break
    return 1, (raw[start] or b"").decode(errors="replace")


def _piece_bytes(piece: str | None, byte_level: bool) -> bytes:
    if piece is None:
        return b""
    if byte_level:
        table = _byte_alphabet()
        if all(character in table for character in piece):
            return bytes(table[character] for character in piece)
        return piece.encode()
    match = _BYTE_TOKEN.fullmatch(piece)
    if match:
        return bytes([int(match.group(1), 16)])
    return piece.replace(_WORD_START, " ").encode()


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return "ByteLevel" in repr(getattr(backend, "decoder", "")) if backend is not None else False


@cache
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE's table: printable Latin-1 stands for itself, the other bytes for code points from 256 on."""
    keep = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    table = {chr(byte): byte for byte in keep}
    others = [byte for byte in range(256) if byte not in set(keep)]
    table.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return table
