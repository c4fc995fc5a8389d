"""Dropout is off: relevance of a random thinned network explains nothing."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.sites import Site


def off(site: Site) -> Handle:
    """Registrar: the identity, also in training mode."""

    def forward(original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x

    return replace_forward(site.module, forward)
