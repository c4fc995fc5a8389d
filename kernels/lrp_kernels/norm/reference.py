"""Normalisation layers: their values, and the LRP gradient in which the scale is a constant.

AttnLRP (arXiv 2402.05602), section 3.3: the identity rule on the normalised part, which in gradient form is
"detach 1/rms or 1/std, keep the mean-centring".
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_kernels.norm.spec import NormSpec


def norm_scale(x: Tensor, spec: NormSpec) -> Tensor:
    """1/rms or 1/std of the last dimension, [..., 1], in float32 (float64 for float64)."""
    x = x if x.dtype == torch.float64 else x.to(torch.float32)
    if spec.centred:
        x = x - x.mean(-1, keepdim=True)
    return torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + spec.eps)


def norm_forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, spec: NormSpec) -> tuple[Tensor, Tensor]:
    """Values [..., D] as the module computes them, and the scale [..., 1] that the backward holds constant."""
    if spec.formula == "rms":
        return _rms(x, weight, spec)
    if spec.formula == "rms-native":
        weight = _offset(weight, spec)
        return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, spec.eps), norm_scale(x, spec)
    if spec.formula == "layer-norm-manual":
        return _manual_layer_norm(x, weight, bias, spec)
    if spec.formula in ("layer-norm", "layer-norm-float32"):
        return _native_layer_norm(x, weight, bias, spec)
    raise ValueError(f"norm formula {spec.formula!r} has no arithmetic of its own")


def frozen_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, scale: Tensor, spec: NormSpec) -> Tensor:
    """The norm as the affine map of x that LRP sees, with a given scale [..., 1], in the scale's dtype."""
    hidden = x.to(scale.dtype)
    if spec.centred:
        hidden = hidden - hidden.mean(-1, keepdim=True)
    hidden = hidden * scale
    if weight is not None:
        hidden = hidden * (weight.to(scale.dtype) + spec.weight_offset)
    return hidden if bias is None else hidden + bias.to(scale.dtype)


def norm_backward(grad: Tensor, weight: Tensor | None, scale: Tensor, spec: NormSpec) -> Tensor:
    """Gradient [..., D] with the scale constant: grad * weight * scale, re-centred where the norm centres."""
    if weight is not None:
        weight = weight.to(scale.dtype)
        if spec.weight_offset:
            weight = weight + spec.weight_offset
        out = grad.to(scale.dtype) * weight
        out *= scale
    else:
        out = grad.to(scale.dtype) * scale
    if spec.centred:
        out -= out.mean(-1, keepdim=True)
    return out.to(grad.dtype)


def _offset(weight: Tensor | None, spec: NormSpec) -> Tensor | None:
    return weight if weight is None or not spec.weight_offset else weight + spec.weight_offset


def _rms(x: Tensor, weight: Tensor | None, spec: NormSpec) -> tuple[Tensor, Tensor]:
    x32 = x.to(torch.float32)
    scale = torch.rsqrt(x32.pow(2).mean(-1, keepdim=True) + spec.eps)
    hidden = x32 * scale
    if weight is None:
        return hidden.to(x.dtype), scale
    if spec.scale_after_cast:
        offset = _offset(weight, spec)
        assert offset is not None
        return offset * hidden.to(x.dtype), scale
    return ((spec.weight_offset + weight.to(torch.float32)) * hidden).to(x.dtype), scale


def _manual_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, spec: NormSpec) -> tuple[Tensor, Tensor]:
    x32 = x.to(torch.float32)
    centred = x32 - x32.mean(-1, keepdim=True)
    scale = torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + spec.eps)
    hidden = centred * scale
    if weight is not None:
        hidden = (spec.weight_offset + weight.to(torch.float32)) * hidden
    if bias is not None:
        hidden = hidden + bias.to(torch.float32)
    return hidden.to(x.dtype), scale


def _native_layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, spec: NormSpec) -> tuple[Tensor, Tensor]:
    inner = x.to(torch.float32) if spec.formula == "layer-norm-float32" else x
    if inner is not x:
        weight, bias = (None if t is None else t.to(torch.float32) for t in (weight, bias))
    y, _, scale = torch.native_layer_norm(inner, inner.shape[-1:], _offset(weight, spec), bias, spec.eps)
    if scale.dtype in (torch.bfloat16, torch.float16):  # the native statistics are as coarse as the input
        scale = norm_scale(x, spec)
    return y.to(x.dtype), scale
