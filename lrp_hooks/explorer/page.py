"""The explorer's own page: everything it needs is in it, and its policy lets it talk to nobody but its server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import cache

from lrp_hooks.errors import LrpError
from lrp_hooks.render.colours import PALETTES
from lrp_hooks.render.frames import Frame, graph_frame, heatmap_frame
from lrp_hooks.render.html import colour_data, policy, script_safe, template, template_file

SCRIPTS = (
    "shared.js",
    *(f"explorer_{name}.js" for name in ("jobs", "prompt", "candidates", "question", "results")),
    "explorer_start.js",
)
STYLES = ("shared.css", "explorer.css")


def _frames() -> Iterator[Frame]:
    yield heatmap_frame()
    with suppress(LrpError):  # without D3 there are no graph pages, which say so themselves
        yield graph_frame()


@cache
def explorer_page() -> tuple[str, str]:
    """The page, and the content policy that it is sent with."""
    style, script = ("\n".join(map(template_file, names)) for names in (STYLES, SCRIPTS))
    frames = list(_frames())  # results are drawn inside this page, and bound by its policy too
    styles, scripts = [frame.style for frame in frames], [part for frame in frames for part in frame.scripts]
    rules = f"{policy([style, *styles], script, *scripts)}; connect-src 'self'"
    text: str = template("explorer.html").render(
        title="lrp_hooks explorer",
        style=style,
        script=script,
        data=script_safe(colour_data(next(iter(PALETTES)))),
        policy=rules,
    )
    return text, f"{rules}; frame-ancestors 'none'"
