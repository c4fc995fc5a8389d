"""Detection by structure: every leaf and every MLP is probed numerically against its own forward.

A probe decides, not a class name: a norm is what equals one of the norm formulas bit for bit on random input, an
activation is what equals a table entry on a grid, a gated MLP is the order of its children that reproduces its output.
What no probe recognises is left alone here; the walk over the autograd graph (`lrp_hooks.detection.walk`) decides
whether that is harmless.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.detection.linearity import ROUNDING, is_opaque_linear, linear_error
from lrp_hooks.ops import ACTIVATIONS, Activation, NormSpec, norm_forward, secant
from lrp_hooks.patching import loaded, unwrapped_forward
from lrp_hooks.rules.gated import gate_and_up
from lrp_hooks.rules.mixers import kernels_of
from lrp_hooks.sites import GatedSpec, Role
from lrp_hooks.structure.probe import probe_device

LINEAR_CLASSES = (nn.Linear, nn.Embedding)
LINEAR_NAMES = ("Conv1D",)  # transformers' transposed linear


@dataclass(frozen=True)
class Finding:
    """What a probe found: the role, its parameters, and the relative error of the module's own values."""

    role: Role
    spec: Any
    error: float


@dataclass
class Detection:
    """Findings by module path, and for everything else the patterns that were tried.

    Attributes:
        not_linear: modules that say they are linear maps and fail the probe.
    """

    findings: dict[str, Finding] = field(default_factory=dict)
    tried: dict[str, list[str]] = field(default_factory=dict)
    not_linear: list[str] = field(default_factory=list)


def detect(model: nn.Module) -> Detection:
    """Probe every module of the model. Runs no forward of the whole model."""
    found = Detection()
    last_norm: list[NormSpec] = []
    dtype = activation_dtype(model)
    activations: dict[str, Activation] = {}
    for path, module in model.named_modules():
        tried: list[str] = []
        with loaded(module):
            if is_opaque_linear(module):
                finding = _detect_linear(path, module, found, tried, dtype)
            else:
                finding = _detect_leaf(module, tried, last_norm)
        if finding is None and is_attention(module):
            finding = Finding(Role.ATTENTION, None, 0.0)
        if finding is None and is_expert_bank(module):
            finding = Finding(Role.EXPERTS, None, 0.0)
        if finding is None and kernels_of(module):
            finding = Finding(Role.MIXER, ", ".join(k.name for k in kernels_of(module)), 0.0)
        if finding is not None:
            found.findings[path] = finding
            if finding.role is Role.ACTIVATION:
                activations[path] = finding.spec
        else:
            found.tried[path] = tried
    if all(finding.role is not Role.EXPERTS for finding in found.findings.values()):
        _detect_routers(model, found)
    for path, module in model.named_modules():
        if path in found.findings:
            continue
        gated = _detect_gated(path, module, activations, found.tried[path])
        if gated is not None:
            found.findings[path] = gated
    return found


def is_attention(module: nn.Module) -> bool:
    """Whether the module's forward asks transformers' attention interface for its attention function."""
    code = getattr(unwrapped_forward(module), "__code__", None)
    return "config" in module.__dict__ and code is not None and "ALL_ATTENTION_FUNCTIONS" in code.co_names


def is_expert_bank(module: nn.Module) -> bool:
    """Whether the module's forward goes through transformers' experts interface."""
    return {"has_gate", "is_transposed", "has_bias"} <= module.__dict__.keys() and hasattr(module, "_apply_gate")


def _detect_routers(model: nn.Module, found: Detection) -> None:
    """Experts with a forward of their own (llama4, jetmoe, dbrx): what chooses them returns constants."""
    for path, module in model.named_modules():
        if path not in found.findings and is_router(module):
            found.findings[path] = Finding(Role.ROUTER, None, 0.0)


def is_router(module: nn.Module) -> bool:
    """Whether the module's forward takes the top k of something and the module holds no more than linear maps."""
    code = getattr(unwrapped_forward(module), "__code__", None)
    small = all(is_linear(child) for child in module.children())
    return small and code is not None and "topk" in code.co_names


def is_linear(module: nn.Module) -> bool:
    return isinstance(module, LINEAR_CLASSES) or type(module).__name__ in LINEAR_NAMES


def _detect_leaf(module: nn.Module, tried: list[str], last_norm: list[NormSpec]) -> Finding | None:
    if isinstance(module, nn.Dropout):
        return Finding(Role.DROPOUT, None, 0.0)
    if is_linear(module) or next(module.children(), None) is not None:
        return None
    return _detect_norm(module, tried, last_norm) or _detect_activation(module, tried)


def activation_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the first floating-point parameter of a model (quantised weights are integers)."""
    return next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), torch.float32)


def _detect_linear(
    path: str, module: nn.Module, found: Detection, tried: list[str], dtype: torch.dtype
) -> Finding | None:
    error = linear_error(module, dtype, probe_device(module))
    if error is not None and error <= ROUNDING:
        return Finding(Role.LINEAR, None, error)
    found.not_linear.append(path)
    tried.append("linear map (no gradient)" if error is None else f"linear map (it deviates by {error:.1e})")
    return None


def _own(module: nn.Module, *args: Any) -> Tensor | None:
    """The module's own output, or None when it is no function of one tensor."""
    try:
        with torch.no_grad():
            out = module.__class__.forward(module, *args) if not hasattr(module, "_hf_hook") else module(*args)
    except Exception:  # a probe asks "does this fit?"; any failure means no
        return None
    return out if isinstance(out, Tensor) else None


def relative_error(ours: Tensor, own: Tensor) -> float:
    """max |ours - own| / max |own|; infinite for other shapes, 0.0 only when equal bit for bit."""
    if ours.shape != own.shape or ours.dtype != own.dtype:
        return float("inf")
    if torch.equal(ours, own):
        return 0.0
    difference = (ours.double() - own.double()).abs().max().item()
    return difference / max(own.double().abs().max().item(), torch.finfo(torch.float64).tiny)


def _random(shape: tuple[int, ...], like: nn.Module, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(probe_device(like), dtype)


# Norms


def _detect_norm(module: nn.Module, tried: list[str], last: list[NormSpec]) -> Finding | None:
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if (weight is not None and not isinstance(weight, Tensor)) or any(True for _ in module.buffers()):
        return None
    if weight is not None and weight.dim() > 2:
        return None
    if weight is not None and weight.device.type == "meta":
        tried.append("norm (its weights are on the meta device)")
        return None
    dtype = weight.dtype if weight is not None else torch.float32
    if not dtype.is_floating_point:
        return None
    width = weight.shape if weight is not None else _width(module)
    normal = _random((2, 3, *width), module, dtype)
    small = normal * 1e-3  # mean square near eps: tells the values of eps apart
    own = [out for x in (normal, small) if (out := _own(module, x)) is not None]
    if len(own) < 2 or own[0].shape != normal.shape:
        tried.append("norm (not a map of one tensor to its shape)")
        return None
    best: tuple[float, NormSpec | None] = (float("inf"), None)
    for spec in itertools.chain(last, _norm_specs(module, weight, bias)):
        error = max(
            relative_error(_try_norm(x, weight, bias, spec), theirs)
            for x, theirs in zip((normal, small), own, strict=True)
        )
        if error < best[0]:
            best = (error, spec)
        if error == 0.0:
            break
    error, found = best
    if found is None or error > 64 * torch.finfo(dtype).eps:
        tried.append(f"norm (closest formula is {error:.1e} away)")
        return None
    if error > 0.0:  # close, not equal: values come from the module, the scale from the closest formula
        found = NormSpec("module", found.centred, found.eps, found.weight_offset, found.scale_after_cast)
    last[:] = [found]
    return Finding(Role.NORM, found, error)


def _width(module: nn.Module) -> tuple[int, ...]:
    shape = getattr(module, "normalized_shape", None)
    return tuple(shape) if isinstance(shape, tuple) and shape else (16,)


def _try_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, spec: NormSpec) -> Tensor:
    if spec.formula == "module":
        return x.new_full((1,), float("nan"))
    try:
        with torch.no_grad():
            return norm_forward(x, weight, bias, spec)[0]
    except RuntimeError:  # a formula that cannot broadcast this weight does not fit
        return x.new_full((1,), float("nan"))


def _norm_specs(module: nn.Module, weight: Tensor | None, bias: Tensor | None) -> Iterator[NormSpec]:
    """Candidates, the likely ones first. RMS formulas without bias only; an eps is any float attribute named so."""
    named = {float(v) for k, v in vars(module).items() if "eps" in k and isinstance(v, float)}
    offsets = (0.0, 1.0) if weight is not None else (0.0,)
    for eps in (*named, *({1e-5, 1e-6, torch.finfo(torch.float32).eps} - named)):
        for offset in offsets:
            if bias is None:
                for after in (True, False) if weight is not None else (True,):
                    yield NormSpec("rms", False, eps, offset, after)
                yield NormSpec("rms-native", False, eps, offset)
            yield NormSpec("layer-norm", True, eps, offset)
            yield NormSpec("layer-norm-float32", True, eps, offset)
            yield NormSpec("layer-norm-manual", True, eps, offset)


# Activations ---------------------------------------------------------------------------------------------------------


def _detect_activation(module: nn.Module, tried: list[str]) -> Finding | None:
    if next(module.parameters(), None) is not None:
        tried.append("activation (it has parameters)")
        return None
    grid = torch.cat(
        (torch.linspace(-8, 8, 201, dtype=torch.float64), torch.tensor([0.0, 1e-5, -1e-5], dtype=torch.float64))
    )
    own = _own(module, grid)
    if own is None or own.shape != grid.shape:
        tried.append("activation (not a map of one tensor to its shape)")
        return None
    flipped = _own(module, grid.flip(0))
    part = _own(module, grid[:97])  # a norm without weight is no function of one element, whatever the order
    if (
        flipped is None
        or part is None
        or max(relative_error(flipped.flip(0), own), relative_error(part, own[:97])) > 1e-12
    ):
        tried.append("activation (not element-wise)")
        return None
    for activation in ACTIVATIONS.values():
        error = relative_error(activation.value(grid).to(own.dtype), own)
        if error < 1e-9:
            return Finding(Role.ACTIVATION, activation, error)
    if own.dtype != torch.float64 or not torch.isfinite(own).all():
        tried.append("activation (element-wise, unknown, and not finite in float64)")
        return None
    name = f"secant of {type(module).__name__}"
    return Finding(Role.ACTIVATION, secant(name, lambda x: type(module).forward(module, x)), 0.0)


# Gated MLPs ----------------------------------------------------------------------------------------------------------


def _detect_gated(path: str, module: nn.Module, activations: dict[str, Activation], tried: list[str]) -> Finding | None:
    children = dict(module.named_children())
    acts = [name for name in children if f"{path}.{name}" in activations]
    linears = [name for name, child in children.items() if _in_width(child) is not None]
    if len(acts) != 1 or not 2 <= len(linears) <= 3:
        if acts or len(linears) >= 2:
            tried.append(
                f"gated MLP (needs one activation and two or three linears; has {len(acts)} and {len(linears)})"
            )
        return None
    weight: Any = children[linears[0]].weight
    dtype = weight.dtype if weight.dtype.is_floating_point else torch.float32
    probe = _mlp_probe(module, {_in_width(children[name]): None for name in linears}, dtype)
    if probe is None:
        tried.append("gated MLP (its forward does not take one tensor)")
        return None
    x, own = probe
    activation = activations[f"{path}.{acts[0]}"]
    for spec in _gated_specs(linears, acts[0]):
        error = _gated_error(module, spec, x, own)
        if error <= 16 * torch.finfo(dtype).eps:
            return Finding(Role.GATED, (spec, activation), error)
    tried.append(f"gated MLP (no order of {', '.join(linears)} gives its output)")
    return None


def _in_width(child: nn.Module) -> int | None:
    """Input width of a linear-like child (nn.Linear, Conv1D, quantised or adapted ones), None for other modules."""
    width = getattr(child, "in_features", getattr(child, "nx", None))
    return width if isinstance(width, int) and getattr(child, "weight", None) is not None else None


def _mlp_probe(module: nn.Module, widths: Iterable[int | None], dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Random input of the width that the module accepts, and its own output."""
    for width in widths:
        x = _random((1, 3, width or 0), module, dtype)
        own = _own(module, x)
        if own is not None:
            return x, own
    return None


def _gated_specs(linears: list[str], act: str) -> Iterator[GatedSpec]:
    if len(linears) == 3:
        for gate, up, down in itertools.permutations(linears):
            yield GatedSpec(gate, up, down, act)
    else:
        for first, down in itertools.permutations(linears):
            yield GatedSpec(first, first, down, act, gate_first=True)
            yield GatedSpec(first, first, down, act, gate_first=False)


def _gated_error(module: nn.Module, spec: GatedSpec, x: Tensor, own: Tensor) -> float:
    try:
        with torch.no_grad():
            gate, up = gate_and_up(module, spec, x)
            ours = module.get_submodule(spec.down)(module.get_submodule(spec.act)(gate) * up)
    except RuntimeError:  # an order whose widths do not fit
        return float("inf")
    return relative_error(ours, own) if isinstance(ours, Tensor) else float("inf")
