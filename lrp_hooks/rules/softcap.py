"""The final logit softcap c tanh(l / c): capped values out, the gradient enters before the cap."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from lrp_hooks.ops import RuleFunction
from lrp_hooks.patching import Handle
from lrp_hooks.sites import Site


class _BeforeCap(RuleFunction):
    @staticmethod
    def forward(ctx: Any, raw: Tensor, capped: Tensor) -> Tensor:
        return capped.view_as(capped)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


def explain_before_cap(raw: Tensor, capped: Tensor) -> Tensor:
    """The capped logits [..., V] as values, the raw logits' gradient."""
    out: Tensor = _BeforeCap.call(raw, capped.detach())
    return out


def explain_raw_logits(site: Site) -> Handle:
    """Registrar on the whole model: what is explained are the logits before the cap."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        record = site.tape.record
        if record is None or record.raw_logits is None or not torch.is_grad_enabled():
            return None
        raw, record.raw_logits = record.raw_logits, None
        if isinstance(output, tuple):
            return (explain_before_cap(raw, output[0]), *output[1:])
        output.logits = explain_before_cap(raw, output.logits)
        return output

    return cast(Handle, site.module.register_forward_hook(hook))
