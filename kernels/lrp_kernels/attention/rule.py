"""What an attention call computes, and how LRP shares its relevance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionRule:
    """What one attention call computes and how its relevance is shared.

    Attributes:
        scale: factor on q k.
        softcap: c of c tanh(s / c), or None; ``slope``: whether its slope (LRP) or its derivative is passed.
        query, key, value: factors on the gradients; 0 detaches.
    """

    scale: float
    softcap: float | None = None
    slope: bool = True
    query: float = 0.25
    key: float = 0.25
    value: float = 0.5
