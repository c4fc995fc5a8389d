"""What the pages share: templates, the content policy, data that cannot leave its script element."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from lrp_hooks.render.colours import GAMMA, GRAY, GRAY_ON_DARK, GROUNDS, PALETTES


def policy(style: str | Sequence[str], *scripts: str) -> str:
    """A content policy that allows exactly this style (or these) and these scripts, by hash, and no network."""
    styles = [style] if isinstance(style, str) else style
    return (
        f"default-src 'none'; style-src {_hashes(styles)}; script-src {_hashes(scripts)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def script_safe(data: Any) -> str:
    """JSON that cannot end its script element or start another, whatever the strings hold."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def packed(kind: str, numbers: Sequence[float]) -> str:
    """Little-endian numbers of one `struct` kind in base64: a 12k x 37 map of float32 stays below 3 MB."""
    return base64.b64encode(struct.pack(f"<{len(numbers)}{kind}", *numbers)).decode()


def colour_data(palette: str) -> dict[str, Any]:
    """The palettes and grounds as shared.js reads them."""
    return {
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
    }


@cache
def template(name: str) -> Any:
    """A jinja2 template of the package; everything is escaped unless it says ``safe``."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(template_file))
    return environment.get_template(name)


@cache
def template_file(name: str) -> str:
    """Text of a file in ``templates``."""
    return resources.files("lrp_hooks.render").joinpath("templates", name).read_text(encoding="utf-8")


def _hashes(texts: Sequence[str]) -> str:
    return " ".join(f"'{_hash(text)}'" for text in texts)


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
