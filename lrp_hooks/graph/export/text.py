"""Untrusted text in formats that cannot hold every character."""

from __future__ import annotations

import json
import re
from typing import Any

_XML = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]|⟨(?=U\\+)")
_UTF8 = re.compile("[\ud800-\udfff]|⟨(?=U\\+)")
_MARKED = re.compile("⟨U\\+([0-9A-F]{4,6})⟩")


def mark_for_xml(text: str) -> str:
    """Characters that XML 1.0 forbids as ``⟨U+0000⟩``; `unmark` restores them.

    Forbidden (XML 1.0, production 2 "Char"): controls other than tab and line feed, surrogates, U+FFFE, U+FFFF. The
    carriage return is marked too: parsers turn it into a line feed. Text that looks like a mark is itself marked.
    """
    return _XML.sub(_mark, text)


def mark_for_utf8(text: str) -> str:
    """Lone surrogates, which UTF-8 cannot encode, as ``⟨U+D800⟩``; `unmark` restores them."""
    return _UTF8.sub(_mark, text)


def unmark(text: str) -> str:
    """What `mark_for_xml` or `mark_for_utf8` was given."""
    return _MARKED.sub(lambda found: chr(int(found[1], 16)), text)


def json_bytes(value: Any) -> bytes:
    """JSON as UTF-8; lone surrogates keep their escape (``\\ud800``), which JSON allows and UTF-8 does not."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def json_cell(text: str) -> str:
    """Text as a JSON string, for one cell of a table.

    A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return is a formula to spreadsheets, and
    such tokens are ordinary. A quoted string never begins with one, line breaks and NUL inside it are escaped, outer
    spaces can be seen, and ``json.loads`` gives the text back.
    """
    return json_bytes(text).decode()


def _mark(found: re.Match[str]) -> str:
    return f"⟨U+{ord(found[0]):04X}⟩"
