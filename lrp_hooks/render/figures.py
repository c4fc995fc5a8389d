"""Static figures for papers: SVG, PNG and PDF through matplotlib, without LaTeX or a browser."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

from lrp_hooks.errors import LrpError
from lrp_hooks.render.colours import GRAY, palette_by_name, text_colour
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.render.text import caption

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELL_W, CELL_H, COLUMNS = 0.068, 0.22, 112  # inches per character, per line; characters per line
FONTS = ("DejaVu Sans Mono", "Noto Sans Mono CJK SC", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Emoji")
MAP_H = 1.6
NAMED_COLUMNS = 40
"""Up to this many tokens the map's columns are labelled with their text."""


@dataclass(frozen=True)
class Cell:
    """Where one token's text is drawn: line and column, in characters."""

    index: int
    line: int
    column: int
    width: int
    text: str


def figure(heatmaps: Sequence[Heatmap], *, palette: str = "red-blue") -> Figure:
    """One panel below the other: caption, wrapped tokens on their colours, token x layer map, legend."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LrpError("figures need matplotlib. do: pip install 'lrp-hooks[figures]'") from error
    layouts = [wrap(heatmap) for heatmap in heatmaps]
    heights = [_height(heatmap, cells) for heatmap, cells in zip(heatmaps, layouts, strict=True)]
    width, total = COLUMNS * CELL_W + 0.6, sum(heights) + 0.5
    fig = Figure(figsize=(width, total))
    top = total
    for heatmap, cells, height in zip(heatmaps, layouts, heights, strict=True):
        _panel(fig, heatmap, cells, top, palette)
        top -= height
    _legend(fig, palette, width, total)
    return fig


def save_figure(
    heatmaps: Sequence[Heatmap], target: IO[bytes], kind: Literal["svg", "png", "pdf"], *, palette: str = "red-blue"
) -> None:
    """Write one figure. The same input gives the same bytes."""
    fig = figure(heatmaps, palette=palette)
    import matplotlib

    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    style: Any = {"svg.hashsalt": "lrp_hooks", "pdf.fonttype": 42, "font.family": _installed_fonts()}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # a glyph that no installed font has is drawn as a box; that is all a figure can do
        warnings.filterwarnings("ignore", message="Glyph .* missing from", category=UserWarning)
        fig.savefig(target, format=kind, dpi=200, metadata=metadata)


def wrap(heatmap: Heatmap, columns: int = COLUMNS) -> list[Cell]:
    """Lay tokens out in lines of ``columns`` characters; wide (East Asian) characters take two."""
    cells: list[Cell] = []
    line = column = 0
    for index, token in enumerate(heatmap.tokens):
        text = token.display
        width = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
        if column and column + width > columns:
            line, column = line + 1, 0
        cells.append(Cell(index, line, column, width, text))
        column += width
        if token.text.endswith("\n"):
            line, column = line + 1, 0
    return cells


def _height(heatmap: Heatmap, cells: list[Cell]) -> float:
    lines = (cells[-1].line + 1 if cells else 0) * CELL_H
    return 0.75 + lines + (MAP_H + 0.65 if heatmap.layers else 0.0)


def _installed_fonts() -> list[str]:
    from matplotlib import font_manager

    known = set(font_manager.get_font_names())
    return [name for name in FONTS if name in known]


def _panel(fig: Figure, heatmap: Heatmap, cells: list[Cell], top: float, palette: str) -> None:
    width, total = fig.get_size_inches()
    fonts = _installed_fonts()
    title = heatmap.title or heatmap.model or "Relevance of the input tokens"
    fig.text(0.3 / width, (top - 0.25) / total, title, fontsize=10, weight="bold", family=fonts, parse_math=False)
    words = caption(heatmap)
    fig.text(0.3 / width, (top - 0.45) / total, words, fontsize=7.5, color="0.35", family=fonts, parse_math=False)
    lines = cells[-1].line + 1 if cells else 1
    bottom = top - 0.6 - lines * CELL_H
    ax: Any = fig.add_axes((0.3 / width, bottom / total, COLUMNS * CELL_W / width, lines * CELL_H / total))
    ax.set(xlim=(0, COLUMNS), ylim=(lines, 0))
    ax.axis("off")
    _draw_cells(ax, heatmap, cells, palette, fonts)
    if heatmap.layers:
        _map(fig, heatmap, bottom - 0.1, palette)


def _draw_cells(ax: Any, heatmap: Heatmap, cells: list[Cell], palette: str, fonts: list[str]) -> None:
    from matplotlib.patches import Rectangle

    colours = palette_by_name(palette)
    for cell in cells:
        special = heatmap.special[cell.index]
        background = GRAY if special else colours.colour(heatmap.colours[cell.index])
        face = tuple(c / 255 for c in background)
        ax.add_patch(Rectangle((cell.column, cell.line + 0.08), cell.width, 0.84, facecolor=face, linewidth=0))
        for offset, character in _characters(cell.text):  # one by one: fallback fonts differ in advance width
            ax.text(
                cell.column + offset,
                cell.line + 0.5,
                character,
                ha="center",
                va="center",
                fontsize=7.6,
                color=tuple(c / 255 for c in text_colour(background)),
                family=fonts,
                parse_math=False,
            )


def _characters(text: str) -> list[tuple[float, str]]:
    """Drawn characters with their centre, in character cells; combining marks stay with their base.

    Right-to-left text is drawn as one piece: its letters join and run the other way.
    """
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in text):
        return [(len(text) / 2, text.strip())]
    out: list[tuple[float, str]] = []
    at = 0.0
    for character in text:
        if unicodedata.combining(character) and out:
            out[-1] = (out[-1][0], out[-1][1] + character)
            at += 1
            continue
        size = 2.0 if unicodedata.east_asian_width(character) in "WF" else 1.0
        if character != " ":
            out.append((at + size / 2, character))
        at += size
    return out


def _map(fig: Figure, heatmap: Heatmap, top: float, palette: str) -> None:
    import numpy as np

    assert heatmap.layers is not None
    width, total = fig.get_size_inches()
    scores = np.asarray(heatmap.layers)
    ordinary = ~np.asarray(heatmap.special)
    largest = np.abs(scores[:, ordinary]).max(axis=1, keepdims=True) if ordinary.any() else np.ones((len(scores), 1))
    shares = np.clip(scores / np.where(largest > 0, largest, 1.0), -1, 1)
    colours = palette_by_name(palette)
    image = np.asarray([[colours.colour(share) for share in row] for row in shares], dtype=np.uint8)
    image[:, ~ordinary] = GRAY
    ax: Any = fig.add_axes((0.7 / width, (top - MAP_H) / total, (COLUMNS * CELL_W - 0.4) / width, MAP_H / total))
    ax.imshow(image, aspect="auto", interpolation="nearest", origin="lower")
    ax.set_ylabel("residual point", fontsize=7)
    if len(heatmap.tokens) <= NAMED_COLUMNS:
        names = [token.display[:12] for token in heatmap.tokens]
        ax.set_xticks(
            range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor", family=_installed_fonts()
        )
        for label in ax.get_xticklabels():
            label.set_parse_math(False)
    else:
        ax.set_xlabel("token index", fontsize=7)
    ax.tick_params(labelsize=6, length=2)


def _legend(fig: Figure, palette: str, width: float, total: float) -> None:
    from matplotlib.patches import Rectangle

    colours = palette_by_name(palette)
    at = 0.3
    for rgb, words in (
        (colours.positive, f"{colours.positive_name}: supports the target"),
        (colours.negative, f"{colours.negative_name}: supports the contrast"),
        (GRAY, "gray: special token, outside the scale"),
    ):
        face = tuple(c / 255 for c in rgb)
        box = Rectangle((at / width, 0.17 / total), 0.2 / width, 0.11 / total, facecolor=face, linewidth=0)
        fig.add_artist(box)
        fig.text((at + 0.27) / width, 0.18 / total, words, fontsize=7, color="0.3")
        at += 0.6 + 0.066 * len(words)
