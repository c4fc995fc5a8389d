"""Static figures for papers: SVG, PNG and PDF through matplotlib, without LaTeX or a browser."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal

from lrp_hooks.errors import LrpError
from lrp_hooks.render.colours import GAMMA, GRAY, Rgb, palette_by_name, text_colour
from lrp_hooks.render.fonts import BOX, MONO, SANS, drawable, emoji, families, needs_help
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.render.layout import COLUMNS, Cell, cells_of, wrap
from lrp_hooks.render.words import caption, supports
from lrp_hooks.tokens import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FONT_SIZE = 8.0
CELL_W = 0.60205 * FONT_SIZE / 72  # advance of DejaVu Sans Mono, in inches
CELL_H = 0.215
MARGIN, MAP_H, MAP_LEFT = 0.3, 1.9, 0.4
NAMED_COLUMNS = 48
"""Up to this many tokens the map's columns are labelled with their text."""
DPI, MOST_PIXELS = 200, 30_000
"""Dots per inch of a PNG, and the height from which on it gets fewer."""


def figure(heatmaps: Sequence[Heatmap], *, title: str = "", palette: str = "red-blue") -> Figure:
    """One panel below the other: caption, wrapped tokens on their colours, token x layer map; one legend.

    Raises:
        LrpError: matplotlib is not installed, or the palette is unknown.
    """
    palette_by_name(palette)
    layouts = [wrap(heatmap) for heatmap in heatmaps]
    heights = [_height(heatmap, cells) for heatmap, cells in zip(heatmaps, layouts, strict=True)]
    head = 0.36 if title else 0.1
    legend = _legend_words(heatmaps, palette)
    inside = max(
        0.1 * len(title),
        *(legend_width(words) for _, words in legend),
        sum(legend_width(words) for _, words in legend) - 0.2,
        *(_width(heatmap, cells) for heatmap, cells in zip(heatmaps, layouts, strict=True)),
    )
    sheet = new_sheet(inside + 2 * MARGIN, sum(heights) + head + 0.5)
    if title:
        sheet.text(MARGIN, 0.3, visible(title), size=11, weight="bold")
    top = head
    for heatmap, cells, height in zip(heatmaps, layouts, heights, strict=True):
        _panel(sheet, heatmap, cells, top, palette)
        top += height
    draw_legend(sheet, legend, top + 0.1)
    return sheet.figure


def save_figure(
    heatmaps: Sequence[Heatmap],
    target: IO[bytes],
    kind: Literal["svg", "png", "pdf"],
    *,
    title: str = "",
    palette: str = "red-blue",
) -> None:
    """Write one figure. The same input gives the same bytes on the same machine."""
    words = (word for heatmap in heatmaps for word in (title, *_words(heatmap)))
    write_figure(figure(heatmaps, title=title, palette=palette), target, kind, words)


def write_figure(fig: Figure, target: IO[bytes], kind: Literal["svg", "png", "pdf"], words: Iterable[str]) -> None:
    """Write any figure that shows ``words``; without dates, and with fonts that the format can embed."""
    import matplotlib

    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[kind]
    others = any(map(needs_help, words))
    style: Any = {
        "svg.hashsalt": "lrp_hooks",
        "pdf.fonttype": 3 if others else 42,  # OpenType, as the usual East Asian fonts are, cannot be embedded as 42
        "text.hinting": "none",  # with hints advances are rounded and a line drifts away from its cells
    }
    with matplotlib.rc_context(style):
        fig.savefig(target, format=kind, dpi=min(DPI, MOST_PIXELS / fig.get_figheight()), metadata=metadata)


def new_sheet(width: float, height: float) -> Sheet:
    """An empty sheet of that size, in inches; no state of pyplot is involved.

    Raises:
        LrpError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise LrpError("figures need matplotlib. do: pip install 'lrp-hooks[figures]'") from error
    return Sheet(Figure(figsize=(width, height)))


@dataclass(frozen=True)
class Sheet:
    """A figure addressed in inches from its top left corner."""

    figure: Figure

    def axes(self, left: float, top: float, width: float, height: float) -> Any:
        """Axes with that corner and size."""
        across, down = self.figure.get_size_inches()
        return self.figure.add_axes((left / across, 1 - (top + height) / down, width / across, height / down))

    def text(self, left: float, base: float, words: str, *, size: float, colour: str = "0", **style: Any) -> None:
        """One line of text that starts at ``left`` on the baseline ``base``."""
        across, down = self.figure.get_size_inches()
        words = drawable(words)
        style = {"family": families(words, SANS), "parse_math": False, **style}
        self.figure.text(left / across, 1 - base / down, words, fontsize=size, color=colour, **style)


def _words(heatmap: Heatmap) -> Iterator[str]:
    yield from (heatmap.title, caption(heatmap), *supports([heatmap]))
    yield from (token.display for token in heatmap.tokens)


def _height(heatmap: Heatmap, cells: list[Cell]) -> float:
    lines = cells[-1].line + 1 if cells else 1
    labels = 0.2 + 0.05 * max((len(name) for name in _column_names(heatmap)), default=5)
    return (0.6 if heatmap.title else 0.42) + lines * CELL_H + (MAP_H + 0.2 + labels if heatmap.layers else 0.1)


def _width(heatmap: Heatmap, cells: list[Cell]) -> float:
    text = CELL_W * max((cell.column + cell.width for cell in cells), default=0)
    shown = _map_width(heatmap) if heatmap.layers else 0.0
    return max(text, shown + MAP_LEFT, min(0.056 * len(caption(heatmap)), COLUMNS * CELL_W))


def _map_width(heatmap: Heatmap) -> float:
    return min(COLUMNS * CELL_W - MAP_LEFT, len(heatmap.tokens) * 0.34)


def _column_names(heatmap: Heatmap) -> list[str]:
    """Labels of the map's columns; none where there are too many."""
    if len(heatmap.tokens) > NAMED_COLUMNS:
        return []
    return [drawable(token.label[:12]) for token in heatmap.tokens]


def _panel(sheet: Sheet, heatmap: Heatmap, cells: list[Cell], top: float, palette: str) -> None:
    if heatmap.title:
        sheet.text(MARGIN, top + 0.2, visible(heatmap.title), size=9.5, weight="bold")
        top += 0.18
    sheet.text(MARGIN, top + 0.2, caption(heatmap), size=7.5, colour="0.35")
    lines = cells[-1].line + 1 if cells else 1
    columns = max((cell.column + cell.width for cell in cells), default=1)
    axes = sheet.axes(MARGIN, top + 0.33, columns * CELL_W, lines * CELL_H)
    axes.set(xlim=(0, columns), ylim=(lines, 0))
    axes.axis("off")
    _cells(axes, heatmap, cells, palette)
    if heatmap.layers and heatmap.tokens:
        _map(sheet, heatmap, top + 0.33 + lines * CELL_H + 0.15, palette)


def face(colour: Rgb) -> tuple[float, ...]:
    """The colour as matplotlib takes it."""
    return tuple(channel / 255 for channel in colour)


def _cells(axes: Any, heatmap: Heatmap, cells: list[Cell], palette: str) -> None:
    from matplotlib.collections import PolyCollection

    colours = palette_by_name(palette)
    grounds = [GRAY if heatmap.special[c.index] else colours.colour(heatmap.colours[c.index]) for c in cells]
    sides = [(c.column, c.column + c.width, c.line + 0.07, c.line + 0.93) for c in cells]
    corners = [[(left, top), (right, top), (right, bottom), (left, bottom)] for left, right, top, bottom in sides]
    axes.add_collection(PolyCollection(corners, facecolors=[face(g) for g in grounds], linewidths=0), autolim=False)
    runs: dict[tuple[int, Rgb], list[str]] = {}
    for cell, ground in zip(cells, grounds, strict=True):
        ink = text_colour(ground)
        if cell.text.isascii() and not cell.rtl:  # one text per line and ink: thousands of tokens stay quick
            row = runs.setdefault((cell.line, ink), [])
            row.append(" " * (cell.column - sum(map(len, row))) + cell.text)
        else:
            _fallback(axes, cell, ink)
    for (line, ink), words in runs.items():
        _text(axes, 0, line, "".join(words), ink, ha="left", family=MONO)


def _text(axes: Any, x: float, line: int, words: str, ink: Rgb, **style: Any) -> None:
    if words.strip():
        axes.text(x, line + 0.68, words, fontsize=FONT_SIZE, color=face(ink), parse_math=False, **style)


def _fallback(axes: Any, cell: Cell, ink: Rgb) -> None:
    """Text that matplotlib's own fonts may lack, character by character: other fonts differ in advance width."""
    if cell.rtl:  # as one piece: its letters join and run the other way
        words = _right_to_left(drawable(cell.text.strip()))
        right = cell.column + cell.width - (len(cell.text) - len(cell.text.lstrip()))
        return _text(axes, right, cell.line, words, ink, ha="right", family=families(words))
    for at, words in _pieces(cell.text):
        picture = emoji(words) if len(words) == 1 and not words.isascii() else None
        centre = cell.column + at + cells_of(words[0]) / 2
        if picture is not None:
            _picture(axes, picture, centre, cell.line + 0.5)
        elif words.isascii():
            _text(axes, cell.column + at, cell.line, words, ink, ha="left", family=MONO)
        else:
            shown = drawable(words) or BOX
            _text(axes, centre, cell.line, shown, ink, ha="center", family=families(shown))
    return None


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Runs of ASCII, and other characters one by one with their marks; each with its offset in cells."""
    at, run = 0, ""
    for character in text:
        size = cells_of(character)
        if run and size and not (character.isascii() and run.isascii()):
            yield at - sum(map(cells_of, run)), run
            run = ""
        run += character
        at += size
    if run:
        yield at - sum(map(cells_of, run)), run


def _right_to_left(words: str) -> str:
    """Matplotlib shapes text from 3.11 on; before, the letters at least come in the right order."""
    import matplotlib

    return words if matplotlib.__version_info__ >= (3, 11) else words[::-1]


def _picture(axes: Any, pixels: Any, x: float, y: float) -> None:
    tall = FONT_SIZE * 1.15 / 72 / CELL_H
    wide = tall * CELL_H / CELL_W * pixels.shape[1] / pixels.shape[0]
    extent = (x - wide / 2, x + wide / 2, y + tall / 2, y - tall / 2)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(pixels, extent=extent, aspect="auto", interpolation="antialiased", zorder=3)
    axes.set(xlim=limits[0], ylim=limits[1])


def _map(sheet: Sheet, heatmap: Heatmap, top: float, palette: str) -> None:
    """Token x layer map; as on the page, each row's strongest score has the strongest colour."""
    import numpy as np

    scores = np.asarray(heatmap.layers)
    ordinary = ~np.asarray(heatmap.special)
    largest = np.abs(scores[:, ordinary]).max(axis=1, keepdims=True) if ordinary.any() else np.ones((len(scores), 1))
    shares = np.clip(scores / np.where(largest > 0, largest, 1.0), -1, 1)
    colours = palette_by_name(palette)
    ends = np.where((shares >= 0)[..., None], colours.end(1), colours.end(-1))
    image = np.rint(255 + (ends - 255) * np.abs(shares)[..., None] ** GAMMA).astype(np.uint8)
    image[:, ~ordinary] = GRAY
    count, rows, step = len(heatmap.tokens), len(scores), heatmap.rows_per_block
    axes = sheet.axes(MARGIN + MAP_LEFT, top, _map_width(heatmap), MAP_H)
    axes.imshow(image, aspect="auto", interpolation="nearest", origin="lower")
    axes.set_ylabel("residual point", fontsize=7, color="0.3", family=SANS)
    every = step * max(1, -(-(rows // step) // 8))
    axes.set_yticks(range(0, rows, every), [str(row // step) for row in range(0, rows, every)], family=SANS)
    names = _column_names(heatmap)
    if names:
        axes.set_xticks(range(count), names, rotation=60, ha="right", rotation_mode="anchor")
        for label, name in zip(axes.get_xticklabels(), names, strict=True):
            label.set(parse_math=False, family=families(name))
    else:
        axes.set_xlabel("token index", fontsize=7, color="0.3", family=SANS)
    axes.tick_params(labelsize=6.5, length=2, color="0.5", labelcolor="0.3")
    axes.spines[:].set(color="0.75", linewidth=0.5)


def _legend_words(heatmaps: Sequence[Heatmap], palette: str) -> list[tuple[Rgb, str]]:
    colours = palette_by_name(palette)
    positive, negative = supports(heatmaps)
    rows = [
        (colours.positive, f"{colours.positive_name}: {positive}"),
        (colours.negative, f"{colours.negative_name}: {negative}"),
    ]
    special = any(any(heatmap.special) for heatmap in heatmaps)
    return [*rows, (GRAY, "gray: special token, outside the scale")] if special else rows


def legend_width(words: str) -> float:
    """Inches that a colour and its words take."""
    return 0.5 + 0.058 * len(words)


def draw_legend(sheet: Sheet, rows: list[tuple[Rgb, str]], top: float) -> None:
    """Colours with their words, side by side."""
    left = MARGIN
    for rgb, words in rows:
        axes = sheet.axes(left, top + 0.08, 0.2, 0.11)
        axes.set(facecolor=face(rgb), xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        sheet.text(left + 0.27, top + 0.175, words, size=7.5, colour="0.3")
        left += legend_width(words)
