"""Gated MLPs down(act(gate(x)) * up(x)): slope on the activation, relevance of the product shared by a rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.ops import Activation, gated_product, half_product
from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.recording.stores import store_neurons
from lrp_hooks.sites import GatedSpec, Site


def share_product(gate: float, up: float) -> Callable[[Site], Handle]:
    """The rule that gives ``gate`` and ``up`` of the product's relevance to the two branches.

    (1/2, 1/2) is AttnLRP's half rule (section 3.3); (0, 1) makes the gate a constant, as in CP-LRP.
    """

    def register(site: Site) -> Handle:
        spec, activation = site.spec
        return replace_forward(site.module, _forward(site, spec, activation, (gate, up)))

    return register


def _forward(
    site: Site, spec: GatedSpec, activation: Activation, factors: tuple[float, float]
) -> Callable[..., Tensor]:
    module = site.module

    def forward(original: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if not (torch.is_grad_enabled() and x.requires_grad):
            out: Tensor = original(x, *args, **kwargs)
            return out
        gate, up = gate_and_up(module, spec, x)
        act = module.get_submodule(spec.act)
        observe = store_neurons(site.tape.record, site.block)
        if _has_hooks(act):  # the user's hooks on the activation keep firing
            product = half_product(act(gate), up, factors, observe)
        else:
            product = gated_product(gate, up, _plain_values(act), activation, factors, observe)
        result: Tensor = module.get_submodule(spec.down)(product)
        return result

    return forward


def gate_and_up(module: nn.Module, spec: GatedSpec, x: Tensor) -> tuple[Tensor, Tensor]:
    """The two branches, each [..., I]."""
    if spec.gate != spec.up:
        return module.get_submodule(spec.gate)(x), module.get_submodule(spec.up)(x)
    first, second = module.get_submodule(spec.gate)(x).chunk(2, dim=-1)
    return (first, second) if spec.gate_first else (second, first)


def _plain_values(act: nn.Module) -> Callable[[Tensor], Tensor]:
    def values(x: Tensor) -> Tensor:
        with torch.no_grad():
            out: Tensor = act(x)
        return out

    return values


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )
