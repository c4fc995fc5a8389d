"""The words around a heatmap: caption, legend, and what positive and negative scores support."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lrp_hooks.tokens import alone, visible

if TYPE_CHECKING:
    from lrp_hooks.render.heatmap import Heatmap

_LITERAL = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_TARGET = re.compile(rf"(?:logit|max logit |log p)\((?P<target>{_LITERAL})\)(?: - (?P<rest>.*))?", re.DOTALL)
_CONTRAST = re.compile(rf"(?:mean )?logit\((?P<all>{_LITERAL}(?:, {_LITERAL})*)\)", re.DOTALL)


ELSEWHERE = 0.005
"""Below this share of the value nothing is said of what no token has."""


def sides(target: str) -> tuple[str | None, str | None]:
    """Texts of the target and the contrast named by a description of `lrp_hooks.targets`, e.g.
    ``logit(' Mary') - logit(' John')``; None for a side that is not named."""
    found = _TARGET.fullmatch(target)
    if not found:
        return None, None
    rest = found["rest"]
    contrast = _CONTRAST.fullmatch(rest) if rest else None
    if contrast:
        return _text(found["target"]), " / ".join(_text(word) for word in re.findall(_LITERAL, contrast["all"]))
    return _text(found["target"]), rest


def _text(literal: str) -> str:
    try:
        return str(ast.literal_eval(literal))
    except (SyntaxError, ValueError):  # a user's own name for a target, not a literal that this package wrote
        return literal[1:-1]


def caption(heatmap: Heatmap) -> str:
    """Target, value, model and rules in one line."""
    words = statement(heatmap.target, heatmap.value, heatmap.target_value)
    return "  ·  ".join(part for part in (words, visible(heatmap.model), visible(heatmap.composite)) if part)


def statement(target: str, value: float, known: float | None = None) -> str:
    """What was explained; ``known`` is the target's own value where it differs from the explained one."""
    target = visible(target)
    if known is not None and abs(known - value) > 1e-3 * abs(value):
        return f"{target or 'target'} = {known:+.3f}; explained to first order: {value:+.3f} logits"
    return f"{target} = {value:+.3f} logits" if target else f"value {value:+.3f} logits"


def totals(heatmap: Heatmap) -> str:
    """How many tokens there are and what they sum to."""
    special = [s for s, flag in zip(heatmap.scores, heatmap.special, strict=True) if flag]
    ordinary = heatmap.ordinary
    signed, absolute = math.fsum(ordinary), math.fsum(map(abs, ordinary))
    words = f"{len(ordinary)} tokens, sum of R {signed:+.3f}, sum of |R| {absolute:.3f}"
    words += f"  ·  {len(special)} special, sum of R {math.fsum(special):+.3f}" if special else ""
    elsewhere = heatmap.value - math.fsum(heatmap.scores)
    if heatmap.value and abs(elsewhere) >= ELSEWHERE * abs(heatmap.value):
        words += f"  ·  {elsewhere:+.3f} of the value is on no token (biases, positions, softmax)"
    return words


def supports(heatmaps: Sequence[Heatmap]) -> tuple[str, str]:
    """Legend of positive and negative scores; names the tokens when all heatmaps have the same."""
    common = {heatmap.sides for heatmap in heatmaps}
    return supports_sides(*(common.pop() if len(common) == 1 else (None, None)))


def supports_sides(target: str | None, contrast: str | None) -> tuple[str, str]:
    """Legend of positive and negative scores for the two `sides` of a target."""
    positive = f"supports the target{_quoted(target)}"
    if contrast is None and target is not None:
        return positive, f"speaks against{_quoted(target)}"
    suffix = _quoted(contrast) or " (speaks against the target)"
    return positive, f"supports the contrast{suffix}"


def _quoted(text: str | None) -> str:
    return "" if text is None else f" “{alone(visible(text))}”"
