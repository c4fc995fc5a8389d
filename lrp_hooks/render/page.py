"""One self-contained, offline HTML page (or a fragment for notebooks). Token text is data, never markup."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from lrp_hooks.render.colours import GRAY, PALETTES, css, palette_by_name, text_colour
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.render.text import caption


def page(heatmaps: Sequence[Heatmap], *, title: str = "Relevance", palette: str = "red-blue") -> str:
    """Heatmaps as panels, their token x layer maps, and a linked scatter when two panels share their tokens."""
    palette_by_name(palette)
    data = {
        "palettes": {p.name: {"pos": p.positive, "neg": p.negative} for p in PALETTES.values()},
        "names": {p.name: [p.positive_name, p.negative_name] for p in PALETTES.values()},
        "palette": palette,
        "gray": GRAY,
        "panels": [_panel(heatmap) for heatmap in heatmaps],
    }
    rendered: str = _template("page.html").render(
        title=title, style=_file("page.css"), script=_file("page.js"), data=script_safe(data)
    )
    return rendered


def fragment(heatmap: Heatmap, *, palette: str = "red-blue") -> str:
    """A compact coloured paragraph with tooltips and legend, for notebooks: no script, inline styles only."""
    colours = palette_by_name(palette)
    spans = [
        {
            "text": token.display,
            "style": f"background:{css(background)};color:{css(text_colour(background))}",
            "tip": f"{score:+.4f} logits · token {index}" + (f" · id {token.id}" if token.id >= 0 else ""),
            "breaks": token.text.endswith("\n"),
        }
        for index, (token, score, share, special) in enumerate(
            zip(heatmap.tokens, heatmap.scores, heatmap.colours, heatmap.special, strict=True)
        )
        for background in (GRAY if special else colours.colour(share),)
    ]
    rendered: str = _template("fragment.html").render(
        title=heatmap.title,
        caption=caption(heatmap),
        spans=spans,
        positive=css(colours.positive),
        negative=css(colours.negative),
        names=(colours.positive_name, colours.negative_name),
    )
    return rendered


def script_safe(data: Any) -> str:
    """JSON that cannot end its script element or start another, whatever the strings hold."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _panel(heatmap: Heatmap) -> dict[str, Any]:
    return {
        "title": heatmap.title,
        "caption": caption(heatmap),
        "normalize": heatmap.normalize,
        "tokens": [token.display for token in heatmap.tokens],
        "ids": [token.id for token in heatmap.tokens],
        "breaks": [int(token.text.endswith("\n")) for token in heatmap.tokens],
        "special": [int(flag) for flag in heatmap.special],
        "scores": [float(f"{score:.6g}") for score in heatmap.scores],
        "layers": None if heatmap.layers is None else [_packed(point) for point in heatmap.layers],
    }


def _packed(scores: Sequence[float]) -> str:
    """Little-endian float32 in base64: a 12k x 37 map stays below 3 MB."""
    return base64.b64encode(struct.pack(f"<{len(scores)}f", *scores)).decode()


@cache
def _template(name: str) -> Any:
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=True, undefined=StrictUndefined).from_string(_file(name))


@cache
def _file(name: str) -> str:
    return resources.files("lrp_hooks.render").joinpath("templates", name).read_text(encoding="utf-8")
