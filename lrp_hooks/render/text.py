"""Heatmaps in the terminal: coloured tokens, a legend and the strongest tokens; numbers where there is no colour."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lrp_hooks.render.colours import GRAY, css, palette_by_name, text_colour
from lrp_hooks.render.heatmap import Heatmap

NO_COLOUR_LEGEND = "[+x%]: share of the largest |R|; + supports the target, - supports the contrast"


def heatmap_text(heatmap: Heatmap, *, palette: str = "red-blue", top: int = 10, colour: bool = True) -> RenderableType:
    """A rich renderable. Without colour each token is followed by its share in percent where it matters."""
    parts: list[RenderableType] = []
    if heatmap.title:
        parts.append(Text(heatmap.title, style="bold"))
    parts.append(Text(caption(heatmap), style="dim"))
    parts.append(_tokens(heatmap, palette, colour))
    parts.append(_legend(palette) if colour else Text(NO_COLOUR_LEGEND))
    parts.append(_table(heatmap, top))
    return Group(*parts)


def print_heatmap(heatmap: Heatmap, console: Console, *, palette: str = "red-blue", top: int = 10) -> None:
    """Print to a console, with as much colour as it has (none when NO_COLOR is set or it is no terminal)."""
    colour = console.color_system is not None and not console.no_color
    console.print(heatmap_text(heatmap, palette=palette, top=top, colour=colour))


def caption(heatmap: Heatmap) -> str:
    """Target, value, model and rules in one line."""
    words = (
        f"{heatmap.target} = {heatmap.value:+.3f} logits" if heatmap.target else f"value {heatmap.value:+.3f} logits"
    )
    if heatmap.target_value is not None and abs(heatmap.target_value - heatmap.value) > 1e-3 * abs(heatmap.value):
        words = f"{heatmap.target} = {heatmap.target_value:+.3f}; explained to first order: {heatmap.value:+.3f} logits"
    return "  ·  ".join(part for part in (words, heatmap.model, heatmap.composite) if part)


def _tokens(heatmap: Heatmap, palette: str, colour: bool) -> Text:
    colours, out = palette_by_name(palette), Text()
    rows = zip(heatmap.tokens, heatmap.colours, heatmap.special, strict=True)
    for token, share, special in rows:
        background = GRAY if special else colours.colour(share)
        style = f"{css(text_colour(background))} on {css(background)}" if colour else ""
        out.append(token.display, style=style)
        if not colour and not special and abs(share) >= 0.05:
            out.append(f"[{share:+.0%}]")
        if token.text.endswith("\n"):
            out.append("\n")
    return out


def _legend(palette: str) -> Text:
    colours = palette_by_name(palette)
    text = Text()
    for rgb, words in (
        (colours.positive, f"{colours.positive_name}: supports the target"),
        (colours.negative, f"{colours.negative_name}: supports the contrast (speaks against the target)"),
    ):
        text.append("  ", style=f"on {css(rgb)}")
        text.append(f" {words}   ")
    text.append("  ", style=f"on {css(GRAY)}")
    text.append(" special token, outside the scale")
    return text


def _table(heatmap: Heatmap, top: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("#", "token", "index", "relevance", "share"):
        table.add_column(name, justify="left" if name == "token" else "right")
    total = sum(abs(s) for s, special in zip(heatmap.scores, heatmap.special, strict=True) if not special) or 1.0
    for rank, index in enumerate(heatmap.ranked(top), 1):
        score = heatmap.scores[index]
        text = escape(repr(heatmap.tokens[index].display))
        table.add_row(str(rank), text, str(index), f"{score:+.3f}", f"{abs(score) / total:.1%}")
    return table
