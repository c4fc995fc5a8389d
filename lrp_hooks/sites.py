"""Roles and sites: what each module does for LRP."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from lrp_hooks.recording.tape import Tape


class Role(Enum):
    """What a module does for LRP. Plain linear maps, embeddings and residual sums need no rule."""

    LINEAR = "linear"
    """Linear map that the autograd graph does not show as one (quantised weights), probed."""
    NORM = "norm"
    """RMSNorm, LayerNorm, QK-norm."""
    ACTIVATION = "activation"
    """Element-wise function of one input."""
    GATED = "gated"
    """MLP that multiplies an activated gate branch with a value branch."""
    ATTENTION = "attention"
    """Softmax attention that goes through transformers' AttentionInterface."""
    DROPOUT = "dropout"
    """nn.Dropout."""
    EXPERTS = "experts"
    """Bank of expert MLPs: routing weights are constants, the inside goes operation by operation."""
    ROUTER = "router"
    """Chooses experts: everything it returns is a constant."""
    MIXER = "mixer"
    """Token mixing without softmax: what decides how tokens mix is a constant, relevance goes through the values."""
    INLINE = "inline"
    """Non-linear operations in a forward of its own, claimed operation by operation."""
    FINAL_SOFTCAP = "final-softcap"
    """c tanh(l / c) on the logits inside the model's own forward."""


@dataclass(frozen=True)
class GatedSpec:
    """Where a gated MLP keeps its parts: down(act(gate(x)) * up(x)).

    Attributes:
        gate, up: child names; equal when one fused linear computes both.
        down: child name of the output projection.
        act: child name of the activation.
        gate_first: for fused projections, whether the gate is the first half.
    """

    gate: str
    up: str
    down: str
    act: str
    gate_first: bool = True


@dataclass(frozen=True, eq=False)
class Site:
    """One module instance with its role and what its probe found.

    Attributes:
        path: dotted module path in the model.
        module: the instance.
        role: what it does for LRP.
        spec: probed parameters (``NormSpec``, ``Activation``, ``GatedSpec``, softcap constant), or None.
        block: index of the block it is in; None above and below the blocks.
        error: largest difference between the spec's values and the module's own, relative; 0.0 = bit for bit.
        tape: the recorder that rules report to in the backward pass.
    """

    path: str
    module: nn.Module
    role: Role
    spec: Any
    block: int | None
    error: float
    tape: Tape = field(repr=False)
