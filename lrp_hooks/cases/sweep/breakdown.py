"""How the relevance of one case is shared among the named parts of its prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence

from lrp_hooks.cases.schema import Strict
from lrp_hooks.segments import Segment


class Share(Strict):
    """One named part.

    Attributes:
        tokens: how many it has.
        absolute: its part of sum |R|, 0 to 1.
        signed: its sum of R over the same sum |R|: positive speaks for the target, negative for the contrast.
    """

    name: str
    tokens: int
    absolute: float
    signed: float


def breakdown(segments: Sequence[Segment], scores: Sequence[float]) -> tuple[Share, ...]:
    """Shares per name, in the order in which names first appear; the absolute ones sum to 1 unless all scores are 0.

    Args:
        segments: a partition of the tokens.
        scores: relevance per token, in logits.
    """
    whole = math.fsum(map(abs, scores)) or 1.0
    parts: dict[str, list[float]] = {}
    for segment in segments:
        parts.setdefault(segment.name, []).extend(scores[segment.start : segment.stop])
    return tuple(
        Share(
            name=name,
            tokens=len(many),
            absolute=math.fsum(map(abs, many)) / whole,
            signed=math.fsum(many) / whole,
        )
        for name, many in parts.items()
    )
