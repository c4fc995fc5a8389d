"""Heatmaps in the terminal: coloured tokens, a legend and the strongest tokens; numbers where there is no colour."""

from __future__ import annotations

import os

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lrp_hooks.render.colours import css, palette_by_name, text_colour
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.render.words import caption, supports, totals
from lrp_hooks.tokens import is_rtl, visible

FAINT = 0.05
"""Below this part of the largest |R| a token keeps the terminal's own ground, light or dark."""
NUMBERED = 0.05
"""From this part on a token is followed by its number where there is no colour."""
BAR = 16
SPECIAL = "dim italic"
LTR = "\u200e"
"""Left-to-right mark: after right-to-left text it keeps the numbers that follow in their place."""


def heatmap_text(heatmap: Heatmap, *, palette: str = "red-blue", top: int = 10, colour: bool = True) -> RenderableType:
    """A rich renderable. Without colour each token is followed by its share in percent where it matters."""
    parts: list[RenderableType] = []
    if heatmap.title:
        parts.append(Text(visible(heatmap.title), style="bold"))
    parts.append(Text(caption(heatmap), style="dim"))
    parts.append(_tokens(heatmap, palette, colour))
    parts.append(Text())
    parts.append(_legend(heatmap, palette) if colour else _legend_in_numbers(heatmap))
    if top > 0:
        parts += [Text(), _table(heatmap, palette, top)]
    parts.append(Text(totals(heatmap), style="dim"))
    return Group(*parts)


def print_heatmap(heatmap: Heatmap, console: Console, *, palette: str = "red-blue", top: int = 10) -> None:
    """Print to a console, with as much colour as it has.

    Tints need 256 colours; with 16, with NO_COLOR, or where there is no terminal, numbers take their place.
    """
    colour = console.color_system in ("truecolor", "256") and not console.no_color
    console.print(heatmap_text(heatmap, palette=palette, top=top, colour=colour))


def ground() -> str:
    """The terminal's ground, "light" or "dark", where ``COLORFGBG`` tells (rxvt, Konsole, iTerm2), else "unknown"."""
    colour = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    if not colour.isdigit():
        return "unknown"
    return "light" if int(colour) in (7, 15) else "dark"


def _tokens(heatmap: Heatmap, palette: str, colour: bool) -> Text:
    colours, out, behind = palette_by_name(palette), Text(overflow="fold"), ground()
    for token, share, special in zip(heatmap.tokens, heatmap.colours, heatmap.special, strict=True):
        background = colours.colour(share, behind)
        style = f"{css(text_colour(background))} on {css(background)}"
        if special or not colour or abs(share) < FAINT:
            style = SPECIAL if special and colour else ""
        words, newline, _ = token.flow.partition("\n") if token.flow.count("\n") == 1 else (token.flow, "", "")
        out.append(words, style=style)
        if not colour and not special and abs(share) >= NUMBERED:
            out.append(f"{LTR if is_rtl(words) else ''}[{share:+.0%}]")
        if newline:
            out.append(token.flow[len(words) :], style=style)
    return out


def _legend(heatmap: Heatmap, palette: str) -> Text:
    colours, text = palette_by_name(palette), Text()
    positive, negative = supports([heatmap])
    for rgb, words in (
        (colours.end(1, ground()), f"{colours.positive_name}: {positive}"),
        (colours.end(-1, ground()), f"{colours.negative_name}: {negative}"),
    ):
        text.append("  ", style=f"on {css(rgb)}")
        text.append(f" {words}   ")
    if any(heatmap.special):
        text.append("special token", style=SPECIAL)
        text.append(": outside the scale")
    text.rstrip()
    return text


def _legend_in_numbers(heatmap: Heatmap) -> Text:
    positive, negative = supports([heatmap])
    return Text(f"[+x%]: part of the largest |R|; + {positive}, - {negative}")


def _table(heatmap: Heatmap, palette: str, top: int) -> Table:
    colours = palette_by_name(palette)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("#", "token", "index", "relevance", "share"):
        table.add_column(name, justify="left" if name == "token" else "right", no_wrap=name != "token")
    table.add_column("", no_wrap=True)
    for rank, index in enumerate(heatmap.ranked(top), 1):
        score, part = heatmap.scores[index], abs(heatmap.colours[index])
        words = heatmap.tokens[index].label
        label = Text(words + LTR * is_rtl(words))
        bar = Text("█" * round(part * BAR), style=css(colours.end(score, ground())))
        table.add_row(str(rank), label, str(index), f"{score:+.3f}", f"{heatmap.portion(index):.1%}", bar)
    return table
