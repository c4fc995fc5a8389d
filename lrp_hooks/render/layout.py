"""Where each token of a static figure goes: lines of character cells, wrapped at words, right-to-left runs mirrored."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.tokens import TokenText, rtl_runs

COLUMNS = 112
"""Characters per line."""
LONGEST_WORD = 40
"""Words up to this width are kept in one line."""


@dataclass(frozen=True)
class Cell:
    """Where one token's text, or one line of it, is drawn: line and column, in characters."""

    index: int
    line: int
    column: int
    width: int
    text: str
    rtl: bool = False


def wrap(heatmap: Heatmap, columns: int = COLUMNS) -> list[Cell]:
    """Lay tokens out in lines of ``columns`` characters; wide (East Asian) characters take two."""
    cells: list[Cell] = []
    line = column = 0
    words = _word_widths(heatmap.tokens)
    for index, token in enumerate(heatmap.tokens):
        if column and column + words[index] > columns and words[index] <= min(LONGEST_WORD, columns):
            line, column = line + 1, 0
        for text, ends_line in _segments(token.flow, columns):
            size = width(text)
            if column and column + size > columns:
                line, column = line + 1, 0
            cells.append(Cell(index, line, column, size, text))
            line, column = (line + 1, 0) if ends_line else (line, column + size)
    return _mirrored(cells, heatmap.tokens)


def width(text: str) -> int:
    """Width in cells."""
    return sum(map(cells_of, text))


def cells_of(character: str) -> int:
    """2 for wide characters, 0 for marks that join the one before."""
    if unicodedata.category(character) in ("Mn", "Me") or character in "\u200c\u200d":
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _segments(text: str, columns: int) -> Iterator[tuple[str, bool]]:
    """Parts of a token that fit into a line, and whether a line ends after them."""
    *ended, rest = text.split("\n")
    for part, ends_line in (*((line, True) for line in ended), (rest, False)):
        start = size = 0
        for at, character in enumerate(part):
            if size + cells_of(character) > columns:
                yield part[start:at], False
                start, size = at, 0
            size += cells_of(character)
        if part[start:] or ends_line:
            yield part[start:], ends_line


def _word_widths(tokens: Sequence[TokenText]) -> list[int]:
    """Width of the word that starts at each token; 0 inside a word and before a line's end."""
    widths = [0] * len(tokens)
    start = 0
    for index, token in enumerate(tokens):
        if index == 0 or token.special or tokens[index - 1].special or token.text[:1].isspace():
            start = index
        widths[start] += width(token.display)
    return widths


def _mirrored(cells: list[Cell], tokens: Sequence[TokenText]) -> list[Cell]:
    """Cells of a right-to-left run swap sides within each line."""
    runs = {index: number for number, run in enumerate(rtl_runs(tokens)) for index in run}
    lines: dict[tuple[int, int], list[int]] = {}
    for at, cell in enumerate(cells):
        if cell.index in runs:
            lines.setdefault((runs[cell.index], cell.line), []).append(at)
    out = list(cells)
    for members in lines.values():
        left = min(cells[at].column for at in members)
        right = max(cells[at].column + cells[at].width for at in members)
        for at in members:
            out[at] = replace(cells[at], column=left + right - cells[at].column - cells[at].width, rtl=True)
    return out
