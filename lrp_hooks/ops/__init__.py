"""The one door to the operators: rules import from here, never from the kernels.

The reference operators (plain PyTorch) run everywhere; `backend` decides where the Triton kernels take their place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lrp_kernels.attention as _attention
import lrp_kernels.edges as _edges
import lrp_kernels.gated as _gated
import lrp_kernels.norm as _norm
import lrp_kernels.relevance as _relevance
import torch
from lrp_kernels.attention import AttentionRule, Interval
from lrp_kernels.edges import (
    BIN_SHIFT,
    BINS,
    AttentionCall,
    EdgeHistogram,
    EdgeList,
    EdgeParts,
    EdgeRows,
    edge_rows,
    head_edges,
    row_blocks,
)
from lrp_kernels.function import RuleFunction, compute_dtype, rule_of
from lrp_kernels.gated import (
    ACTIVATIONS,
    Activation,
    SlopeActivation,
    half_product,
    secant,
    slope_activation,
    tanh_slope,
)
from lrp_kernels.launch import DTYPES, MAX_NORM, MAX_WIDTH
from lrp_kernels.norm import NormSpec, frozen_norm, norm_forward, norm_scale
from lrp_kernels.product import Observe, ObservedSoftmax, observed_softmax, shared_bilinear
from torch import Tensor

from lrp_hooks.ops.backend import Backend, backend_name, chosen, set_backend

__all__ = [
    "ACTIVATIONS",
    "BINS",
    "BIN_SHIFT",
    "Activation",
    "AttentionCall",
    "AttentionRule",
    "EdgeHistogram",
    "EdgeList",
    "EdgeParts",
    "EdgeRows",
    "Interval",
    "NormSpec",
    "Observe",
    "ObservedSoftmax",
    "RuleFunction",
    "SlopeActivation",
    "attention",
    "attention_backend",
    "backend_name",
    "compute_dtype",
    "detached_norm",
    "edge_histogram",
    "edge_list",
    "edge_parts",
    "edge_rows",
    "edge_sums",
    "edge_totals",
    "edges_backend",
    "frozen_norm",
    "gated_product",
    "half_product",
    "head_edges",
    "norm_forward",
    "norm_scale",
    "observed_softmax",
    "relevance_sum",
    "row_blocks",
    "rule_of",
    "secant",
    "set_backend",
    "shared_bilinear",
    "slope_activation",
    "tanh_slope",
]


def attention(
    q: Tensor, k: Tensor, v: Tensor, interval: Interval, rule: AttentionRule, sinks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`lrp_kernels.attention.attention` on the chosen backend; plain PyTorch goes by blocks of rows."""
    return _attention.attention(q, k, v, interval, rule, sinks, backend=attention_backend(q, k, v))


def attention_backend(q: Tensor, k: Tensor, v: Tensor, unsupported: Callable[[], str | None] | None = None) -> Backend:
    """Which backend `attention` runs on; ``unsupported`` says what else about a call the kernels do not take."""
    return chosen(q, lambda: _one_dtype(q, k, v) or _narrow(q, v) or (unsupported() if unsupported else None))


def edges_backend(q: Tensor, k: Tensor, v: Tensor) -> Backend:
    """Which backend the operators on edges run on."""
    return chosen(q, lambda: _one_dtype(q, k, v))


def relevance_sum(x: Tensor, grad: Tensor) -> Tensor:
    """`lrp_kernels.relevance.relevance_sum` on the chosen backend."""
    return _relevance.relevance_sum(x, grad, backend=chosen(x, lambda: _known(grad)))


def detached_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, spec: NormSpec, value: Tensor | None = None
) -> Tensor:
    """`lrp_kernels.norm.detached_norm` on the chosen backend."""
    return _norm.detached_norm(x, weight, bias, spec, value, backend=chosen(x, lambda: _norm_shape(x, weight)))


def gated_product(
    gate: Tensor, up: Tensor, act: Any, activation: Activation, factors: tuple[float, float], observe: Any = None
) -> Tensor:
    """`lrp_kernels.gated.gated_product` on the chosen backend."""
    backend = chosen(gate, lambda: _in_table(activation) or _known(up))
    return _gated.gated_product(gate, up, act, activation, factors, observe, backend=backend)


def edge_sums(call: AttentionCall, rows: Tensor) -> Tensor:
    """`lrp_kernels.edges.edge_sums` on the chosen backend."""
    return _edges.edge_sums(call, rows, backend=edges_backend(call.q, call.k, call.v))


def edge_histogram(call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None) -> EdgeHistogram:
    """`lrp_kernels.edges.edge_histogram` on the chosen backend."""
    backend = edges_backend(call.q, call.k, call.v)
    return _edges.edge_histogram(call, rows, diagonal, backend=backend)


def edge_list(
    call: AttentionCall,
    rows: Tensor,
    diagonal: Tensor | None = None,
    *,
    at_least: float = 0.0,
    expected: int = 1 << 16,
) -> EdgeList:
    """`lrp_kernels.edges.edge_list` on the chosen backend."""
    return _edges.edge_list(
        call, rows, diagonal, at_least=at_least, expected=expected, backend=edges_backend(call.q, call.k, call.v)
    )


def edge_totals(call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`lrp_kernels.edges.edge_totals` on the chosen backend."""
    backend = edges_backend(call.q, call.k, call.v)
    return _edges.edge_totals(call, rows, diagonal, backend=backend)


def edge_parts(call: AttentionCall, target: Tensor, source: Tensor) -> EdgeParts:
    """`lrp_kernels.edges.edge_parts` on the chosen backend."""
    backend = edges_backend(call.q, call.k, call.v)
    return _edges.edge_parts(call, target, source, backend=backend)


def _one_dtype(*tensors: Tensor) -> str | None:
    found = sorted({str(x.dtype).removeprefix("torch.") for x in tensors})
    return None if len(found) == 1 else f"queries, keys and values have different dtypes: {', '.join(found)}"


def _narrow(q: Tensor, v: Tensor) -> str | None:
    widest = max(q.shape[-1], v.shape[-1])
    limit = MAX_WIDTH if q.dtype != torch.float32 else MAX_WIDTH // 2
    return None if widest <= limit else f"the head dimension is {widest}; the attention kernels take up to {limit}"


def _known(x: Tensor) -> str | None:
    return None if x.dtype in DTYPES else f"the kernels do not take {str(x.dtype).removeprefix('torch.')}"


def _norm_shape(x: Tensor, weight: Tensor | None) -> str | None:
    if weight is not None and weight.shape != x.shape[-1:]:
        return f"the weight of a norm has the shape {list(weight.shape)}, not [{x.shape[-1]}]"
    return None if x.shape[-1] <= MAX_NORM else f"the norm is over {x.shape[-1]} numbers; the kernel takes {MAX_NORM}"


def _in_table(activation: Activation) -> str | None:
    known = ACTIVATIONS.get(activation.name) is activation
    return None if known else f"the kernel knows no activation {activation.name!r}"
