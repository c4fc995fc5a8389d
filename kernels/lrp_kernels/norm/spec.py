"""How one normalisation layer computes its values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Formula = Literal["rms", "rms-native", "layer-norm", "layer-norm-float32", "layer-norm-manual", "module"]


@dataclass(frozen=True)
class NormSpec:
    """How one normalisation layer computes its values.

    Attributes:
        formula: which arithmetic gives the module's values bit for bit; "module" when none does and the values
            are taken from the module itself.
        centred: whether the mean is subtracted (LayerNorm) or not (RMSNorm).
        eps: the constant under the root.
        weight_offset: 1.0 for the norms that scale by (1 + weight).
        scale_after_cast: whether the weight multiplies after the cast back to the input's dtype.
    """

    formula: Formula
    centred: bool
    eps: float
    weight_offset: float = 0.0
    scale_after_cast: bool = True
