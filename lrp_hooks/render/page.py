"""One self-contained, offline HTML page (or a fragment for notebooks). Token text is data, never markup.

The page's policy allows exactly its own style and script, by hash: markup that slipped in anyway could not run.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any

from lrp_hooks.render.colours import GAMMA, GRAY, GRAY_ON_DARK, GROUNDS, PALETTES, css, palette_by_name, text_colour
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.render.words import caption, supports, totals
from lrp_hooks.tokens import TokenText, rtl_runs, visible

SCRIPTS = ("colour.js", "page.js", "map.js", "scatter.js", "start.js")
FAINT = 0.01
"""Below this part of the largest |R| a token of the fragment carries no style."""


def page(heatmaps: Sequence[Heatmap], *, title: str = "Relevance", palette: str = "red-blue") -> str:
    """Heatmaps as panels, their token x layer maps, and a linked scatter when panels share their tokens."""
    palette_by_name(palette)
    style, script = _file("page.css"), "\n".join(map(_file, SCRIPTS))
    rendered: str = _template("page.html").render(
        title=visible(title),
        style=style,
        script=script,
        data=script_safe(page_data(heatmaps, title, palette)),
        policy=f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )
    return rendered


def page_data(heatmaps: Sequence[Heatmap], title: str, palette: str) -> dict[str, Any]:
    """What the page's script draws."""
    return {
        "title": visible(title),
        "palettes": {
            p.name: {
                "names": [p.positive_name, p.negative_name],
                "light": [p.positive, p.negative],
                "dark": [p.positive_on_dark, p.negative_on_dark],
            }
            for p in PALETTES.values()
        },
        "palette": palette,
        "grounds": {name: GROUNDS[name] for name in ("light", "dark")},
        "grays": {"light": GRAY, "dark": GRAY_ON_DARK},
        "gamma": GAMMA,
        "supports": supports(heatmaps),
        "panels": [_panel(heatmap) for heatmap in heatmaps],
    }


def fragment(heatmap: Heatmap, *, palette: str = "red-blue") -> str:
    """A compact coloured paragraph with tooltips and legend, for notebooks: no script, inline styles only."""
    colours = palette_by_name(palette)
    positive, negative = supports([heatmap])
    rendered: str = _template("fragment.html").render(
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


def script_safe(data: Any) -> str:
    """JSON that cannot end its script element or start another, whatever the strings hold."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


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
        "layers": None if heatmap.layers is None else [_packed(point) for point in heatmap.layers],
    }


def _packed(scores: Sequence[float]) -> str:
    """Little-endian float32 in base64: a 12k x 37 map stays below 3 MB."""
    return base64.b64encode(struct.pack(f"<{len(scores)}f", *scores)).decode()


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_file(name))


@cache
def _file(name: str) -> str:
    return resources.files("lrp_hooks.render").joinpath("templates", name).read_text(encoding="utf-8")
