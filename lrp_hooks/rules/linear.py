"""Probed linear maps (quantised weights): their own gradient is LRP's; forward mode, which kernels lack, is added.

Source: AttnLRP (arXiv 2402.05602), section 3.2: the epsilon rule of a linear map is its plain gradient, and a bias
absorbs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.rules.inline.carrying import dual, still, tangent
from lrp_hooks.sites import Site


def own_gradient(site: Site) -> Handle:
    """Registrar: nothing changes but that the tangent of f(x) is f(tangent) - f(0)."""

    def forward(original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        moved = tangent(x) if site.tape.detour is not None else None
        if moved is None:
            out: Tensor = original(x, *args, **kwargs)
            return out
        values = original(still(x), *args, **kwargs)
        return dual(values, original(moved, *args, **kwargs) - original(torch.zeros_like(moved), *args, **kwargs))

    return replace_forward(site.module, forward)
