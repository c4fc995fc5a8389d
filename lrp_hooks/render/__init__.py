"""Pictures of relevance: terminal, notebook, self-contained HTML, SVG, PNG, PDF. Names are resolved on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {"Heatmap": "heatmap", "load": "output", "save": "output", "print_heatmap": "text", "figure": "figures"}

if TYPE_CHECKING:
    from lrp_hooks.render.figures import figure as figure
    from lrp_hooks.render.heatmap import Heatmap as Heatmap
    from lrp_hooks.render.output import load as load
    from lrp_hooks.render.output import save as save
    from lrp_hooks.render.text import print_heatmap as print_heatmap


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lrp_hooks.render' has no attribute {name!r}")
    return getattr(import_module(f"lrp_hooks.render.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOME)
