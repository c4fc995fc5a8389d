"""Element-wise activations: the derivative is replaced by the slope (f(x) - f(0)) / x (AttnLRP, equation 9)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lrp_hooks.ops import Activation, slope_activation
from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.recording.stores import store_neurons
from lrp_hooks.rules.inline.carrying import carries, dual, moving, still
from lrp_hooks.sites import Site


def slope(site: Site) -> Handle:
    """Registrar: the module's own values, the slope as gradient."""
    spec: Activation = site.spec

    def forward(original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if site.tape.detour is not None and carries(x):  # forward mode: the tangent follows the slope
            return dual(original(still(x), *args, **kwargs), moving(x, spec.slope(still(x))))
        if not (torch.is_grad_enabled() and x.requires_grad):
            out: Tensor = original(x, *args, **kwargs)
            return out
        with torch.no_grad():
            value = original(x, *args, **kwargs)
        return slope_activation(x, value, spec, store_neurons(site.tape.record, site.block))

    return replace_forward(site.module, forward)
