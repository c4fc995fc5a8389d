"""The explorer's own page: everything it needs is in it, and its policy lets it talk to nobody but its server."""

from __future__ import annotations

from functools import cache

from lrp_hooks.render.colours import PALETTES
from lrp_hooks.render.html import colour_data, policy, script_safe, template, template_file

SCRIPTS = (
    "shared.js",
    *(f"explorer_{name}.js" for name in ("jobs", "prompt", "candidates", "question", "results")),
    "explorer_start.js",
)
STYLES = ("shared.css", "explorer.css")


@cache
def explorer_page() -> tuple[str, str]:
    """The page, and the content policy that it is sent with."""
    style, script = ("\n".join(map(template_file, names)) for names in (STYLES, SCRIPTS))
    rules = f"{policy(style, script)}; connect-src 'self'; frame-src 'self'"
    text: str = template("explorer.html").render(
        title="lrp_hooks explorer",
        style=style,
        script=script,
        data=script_safe(colour_data(next(iter(PALETTES)))),
        policy=rules,
    )
    return text, f"{rules}; frame-ancestors 'none'"
