"""What a result came from: the model's name and revision, the tokenizer, and the versions that computed it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any


def origin(model: Any, tokenizer: Any = None) -> dict[str, Any]:
    """What is known about where a model and its tokenizer come from; what is not known is left out.

    ``name``: the folder or hub name that the config was read from; ``class``: of the model; ``revision``: the commit
    that the hub resolved a branch or tag to (a folder has none); ``tokenizer``: its folder or hub name; ``versions``.
    """
    config = getattr(model, "config", None)
    found = {
        "name": getattr(config, "name_or_path", None),
        "class": type(model).__name__,
        "revision": getattr(config, "_commit_hash", None),
        "tokenizer": getattr(tokenizer, "name_or_path", None),
    }
    return {**{name: str(value) for name, value in found.items() if value}, "versions": versions()}


def short_name(model: Any) -> str:
    """What to call a model in a caption: its hub name, the last part of its folder, or its class."""
    name = str(getattr(getattr(model, "config", None), "name_or_path", "") or "")
    return (Path(name).name if Path(name).is_dir() else name) or type(model).__name__


def versions() -> dict[str, str]:
    """Of Python and the packages that decide what a model computes."""
    import torch
    import transformers

    import lrp_hooks

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "lrp_hooks": lrp_hooks.__version__,
    }
