"""One self-contained, offline HTML page (or a fragment for notebooks). Token text is data, never markup.

The page's policy allows exactly its own style and script, by hash: markup that slipped in anyway could not run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lrp_hooks.render.colours import GRAY, css, palette_by_name, text_colour
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.render.html import colour_data, packed, policy, script_safe, template, template_file
from lrp_hooks.render.words import caption, supports, totals
from lrp_hooks.tokens import TokenText, rtl_runs, visible

SCRIPTS = ("shared.js", "colour.js", "page.js", "map.js", "scatter.js", "start.js")
STYLES = ("shared.css", "page.css")
FAINT = 0.01
"""Below this part of the largest |R| a token of the fragment carries no style."""


def page(heatmaps: Sequence[Heatmap], *, title: str = "Relevance", palette: str = "red-blue") -> str:
    """Heatmaps as panels, their token x layer maps, and a linked scatter when panels share their tokens."""
    palette_by_name(palette)
    style, script = ("\n".join(map(template_file, names)) for names in (STYLES, SCRIPTS))
    rendered: str = template("page.html").render(
        title=visible(title),
        style=style,
        script=script,
        data=script_safe(page_data(heatmaps, title, palette)),
        policy=policy(style, script),
    )
    return rendered


def page_data(heatmaps: Sequence[Heatmap], title: str, palette: str) -> dict[str, Any]:
    """What the page's script draws."""
    return {
        "title": visible(title),
        **colour_data(palette),
        "supports": supports(heatmaps),
        "panels": [_panel(heatmap) for heatmap in heatmaps],
    }


def fragment(heatmap: Heatmap, *, palette: str = "red-blue") -> str:
    """A compact coloured paragraph with tooltips and legend, for notebooks: no script, inline styles only."""
    colours = palette_by_name(palette)
    positive, negative = supports([heatmap])
    rendered: str = template("fragment.html").render(
        title=visible(heatmap.title),
        caption=caption(heatmap),
        totals=totals(heatmap),
        groups=list(_isolated(heatmap.tokens, _spans(heatmap, palette))),
        legend=[
            (css(colours.positive), f"{colours.positive_name}: {positive}"),
            (css(colours.negative), f"{colours.negative_name}: {negative}"),
            *([(css(GRAY), "special token, outside the scale")] if any(heatmap.special) else []),
        ],
    )
    return rendered


def _spans(heatmap: Heatmap, palette: str) -> Iterator[dict[str, str]]:
    colours = palette_by_name(palette)
    rows = zip(heatmap.tokens, heatmap.scores, heatmap.colours, heatmap.special, strict=True)
    for index, (token, score, share, special) in enumerate(rows):
        background = GRAY if special else colours.colour(share)
        style = f"background:{css(background)}" if special or abs(share) >= FAINT else ""
        if text_colour(background) == (255, 255, 255):
            style += ";color:#fff"
        part = "special token" if special else f"{heatmap.portion(index):.1%} of sum |R|"
        number = f" · id {token.id}" if token.id >= 0 else ""
        tip = f"{token.label}   {score:+.4g} logits · {part} · token {index}{number}"
        yield {"text": token.flow, "style": style, "tip": tip}


def _isolated(
    tokens: Sequence[TokenText], spans: Iterable[dict[str, str]]
) -> Iterator[tuple[bool, list[dict[str, str]]]]:
    """Spans in groups; those of a right-to-left run are isolated together so that its letters join and keep order."""
    spans = list(spans)
    at = 0
    for run in rtl_runs(tokens):
        yield False, spans[at : run.start]
        yield True, spans[run.start : run.stop]
        at = run.stop
    yield False, spans[at:]


def _panel(heatmap: Heatmap) -> dict[str, Any]:
    return {
        "title": visible(heatmap.title),
        "caption": caption(heatmap),
        "totals": totals(heatmap),
        "sides": [None if side is None else visible(side) for side in heatmap.sides],
        "normalize": heatmap.normalize,
        "tokens": [token.flow[token.part > 1 :] for token in heatmap.tokens],  # the script adds the pieces' marks
        "labels": [token.label for token in heatmap.tokens],
        "pieces": [int(token.part > 1) for token in heatmap.tokens],
        "runs": [(run.start, run.stop) for run in rtl_runs(heatmap.tokens)],
        "ids": [token.id for token in heatmap.tokens],
        "special": [int(flag) for flag in heatmap.special],
        "scores": [float(f"{score:.6g}") for score in heatmap.scores],
        "points": heatmap.point_names,
        "step": heatmap.rows_per_block,
        "layers": None if heatmap.layers is None else [packed("f", point) for point in heatmap.layers],
    }
