"""Softmax attention: the softmax keeps its own gradient, relevance is shared between query, key and value.

AttnLRP (arXiv 2402.05602), section 3.3, in gradient form: two products (scores = q k, out = P v), each sharing its
relevance by halves, give q x 1/4, k x 1/4, v x 1/2. CP-LRP holds the attention weights constant: v x 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lrp_hooks.ops import Interval, RuleFunction, relevance_sum, tanh_slope
from lrp_hooks.patching import Handle, redirect_attention
from lrp_hooks.recording.detour import AttentionRun
from lrp_hooks.recording.records import ForwardRecord
from lrp_hooks.recording.stores import per_row
from lrp_hooks.rules.attention.fused import fused_attention, kernel_rule, value_of_attention
from lrp_hooks.rules.attention.visible import visible
from lrp_hooks.sites import Site


@dataclass(frozen=True)
class Factors:
    """Shares of the relevance of one attention call."""

    query: float
    key: float
    value: float


def share_attention(query: float, key: float, value: float, *, softcap_slope: bool = True) -> Callable[[Site], Handle]:
    """The rule with the given factors on the gradients of query, key and value. A factor of 0 detaches.

    ``softcap_slope``: a softcap c tanh(s/c) on the scores passes its slope tanh(u)/u (LRP) or its derivative.
    """
    if value <= 0:
        raise ValueError(f"the value factor must be positive (out's relevance flows through v); got {value}")
    factors = Factors(query, key, value)

    def register(site: Site) -> Handle:
        def attention(base: Any, module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, **kwargs: Any) -> Any:
            mask = kwargs.pop("attention_mask", mask)  # some families pass it by name
            if "dropout" in kwargs:
                kwargs["dropout"] = 0.0
            if site.tape.detour is not None:
                return site.tape.detour.attend(AttentionRun(base, module, q, k, v, mask, kwargs, site.block))
            if not (torch.is_grad_enabled() and v.requires_grad):
                return value_of_attention(base, module, q, k, v, mask, kwargs)
            # masks and biases made from hidden states (Doge, Inkling) say how tokens mix: constants, like other masks
            site.tape.holds_bias |= any(_moves(x) for x in (mask, *kwargs.values()))
            mask = _constant(mask)
            kwargs = {name: _constant(x) for name, x in kwargs.items()}
            record = site.tape.record
            seen = visible(module, q, k, mask, kwargs)
            setting = Setting(module, mask, kwargs, factors, softcap_slope, seen)
            q, k, v = AttentionInputs.call(q, k, v, setting, record, site.block)
            with site.tape.own_rule():
                out, weights = setting.attend(base, q, k, v)
            if setting.lse is not None:
                site.tape.fused[site.path] = q.dtype
            return AttentionOutput.call(out, record, site.block), weights

        return redirect_attention(site.module, attention)

    return register


def _moves(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _constant(x: Any) -> Any:
    return x.detach() if _moves(x) else x


@dataclass(eq=False)
class Setting:
    """What one attention call was given besides q, k and v, and how it was computed.

    Attributes:
        interval: which columns each row sees, [T] or [B, T]; None where that is no interval.
        lse: [B, H, T] log-sum-exp of the scores, where the Triton kernels computed the attention; else None.
    """

    module: Any
    mask: Any
    options: dict[str, Any]
    factors: Factors
    softcap_slope: bool
    interval: Interval | None = None
    lse: Tensor | None = None

    def attend(self, base: Callable[..., Any], q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Any]:
        """(out [B, T, H, d], weights or None), by the Triton kernels or by the model's own function."""
        factors = float(bool(self.factors.query)), float(bool(self.factors.key))
        rule = kernel_rule(q, self.options, softcap_slope=self.softcap_slope, query=factors[0], key=factors[1])
        made = fused_attention(base, self.module, q, k, v, self.mask, self.options, rule, self.interval)
        if made is not None:
            out, self.lse = made
            return out, None
        if self.softcap_slope and self.options.get("softcap") is not None:
            with _TanhSlope():
                out, weights = base(self.module, q, k, v, self.mask, **self.options)
        else:
            out, weights = base(self.module, q, k, v, self.mask, **self.options)
        return out, weights


class AttentionInputs(RuleFunction):
    """Identity on q, k, v [B, H, T, d]; scales their gradients and records what the softmax absorbs.

    Absorbed by one call: (1 - c_v)<out, d out> - <q, d q> - <k, d k>, where <v, d v> = c_v <out, d out> always, so that
    ``out`` need not be kept (docs/mathematics.md).
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, setting: Setting, record: ForwardRecord | None, block: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        factors = setting.factors
        outs = tuple(x.view_as(x) for x in (q, k, v))
        detached = [
            out for out, factor in zip(outs, (factors.query, factors.key, factors.value), strict=True) if not factor
        ]
        ctx.mark_non_differentiable(*detached)
        ctx.save_for_backward(q, k, v)
        ctx.setting, ctx.record, ctx.block = setting, record, block
        ctx.set_materialize_grads(False)
        return outs[0], outs[1], outs[2]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        factors: Factors = ctx.setting.factors
        scaled = [
            None if grad is None or not factor else grad if factor == 1.0 else grad * factor
            for grad, factor in zip(grads, (factors.query, factors.key, factors.value), strict=True)
        ]
        record: ForwardRecord | None = ctx.record
        if record is None or ctx.block is None or not record.want & {"absorbed", "edges"}:
            return (*scaled, None, None, None)
        q, k, v = ctx.saved_tensors
        current = record.current()
        if "edges" in record.want:
            current.park(ctx.block).inputs.append((ctx.setting, (q, k, v), tuple(scaled)))
        if "absorbed" in record.want:
            shares = [_total(x, grad) for x, grad in zip((q, k, v), scaled, strict=True)]
            kept = shares[2] * ((1.0 - factors.value) / factors.value) - shares[0] - shares[1]
            current.add(current.attention, ctx.block, record.unscaled(record.summed(kept)))
        return (*scaled, None, None, None)


def _total(x: Tensor | None, grad: Tensor | None) -> Any:
    return 0.0 if x is None or grad is None else per_row(relevance_sum(x, grad))


class AttentionOutput(RuleFunction):
    """Identity on the attention output [B, T, H, d]; records relevance per head on request."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, record: ForwardRecord | None, block: int | None) -> Tensor:
        ctx.save_for_backward(out)
        ctx.record, ctx.block = record, block
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = ctx.saved_tensors
        record: ForwardRecord | None = ctx.record
        if record is not None and ctx.block is not None and record.want & {"heads", "edges"}:
            current, shares = record.current(), relevance_sum(out, grads[0])  # [B, T, H]
            if "heads" in record.want:
                current.add(current.heads, ctx.block, record.unscaled(shares))
            if "edges" in record.want:
                current.park(ctx.block).outputs.append((grads[0], shares))
        return grads[0], None, None


class SoftcapTanh(RuleFunction):
    """tanh on the scaled scores u = s / c with the slope tanh(u)/u as its gradient."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return torch.tanh(u)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (u,) = ctx.saved_tensors
        compute = u if u.dtype == torch.float64 else u.float()
        return ((tanh_slope(compute) * grads[0]).to(grads[0].dtype),)


class _TanhSlope(TorchFunctionMode):
    """While the model's own eager attention runs, its softcap's tanh gets the slope as gradient.

    The values stay the model's own, operation by operation, whatever the family's eager function looks like.
    """

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in (torch.tanh, Tensor.tanh) and torch.is_grad_enabled():
            return SoftcapTanh.call(args[0])
        return func(*args, **(kwargs or {}))
