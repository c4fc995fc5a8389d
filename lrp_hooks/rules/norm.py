"""Normalisation: 1/rms or 1/std is a constant, mean-centring stays linear (AttnLRP, section 3.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lrp_hooks.ops import NormSpec, detached_norm, frozen_norm, norm_scale
from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.sites import Site


def detach_scale(site: Site) -> Handle:
    """Registrar: the same values, a gradient in which the normalisation's scale does not move."""
    spec: NormSpec = site.spec
    module = site.module

    def forward(original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if site.tape.detour is not None:  # forward mode: the tangent sees a constant scale
            unpack: Any = forward_ad.unpack_dual
            scale = norm_scale(unpack(x).primal, spec)
            frozen = frozen_norm(x, getattr(module, "weight", None), getattr(module, "bias", None), scale, spec)
            return frozen.to(x.dtype)
        if not (torch.is_grad_enabled() and x.requires_grad):
            out: Tensor = original(x, *args, **kwargs)
            return out
        value = None
        if spec.formula == "module":
            with torch.no_grad():
                value = original(x, *args, **kwargs)
        return detached_norm(x, getattr(module, "weight", None), getattr(module, "bias", None), spec, value)

    return replace_forward(module, forward)
