"""The data of one heatmap: tokens, raw scores, scale, and the words around them. Every output draws this."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lrp_hooks.errors import LrpError
from lrp_hooks.relevance import Relevance
from lrp_hooks.tokens import TokenText, token_texts

NORMALIZATIONS = ("max", "sum", "signed-sum", "none")


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Scores of the tokens of one prompt, ready to be drawn.

    Attributes:
        tokens: text of each token.
        scores: raw relevance, in logits.
        special: drawn gray and left out of the scale.
        layers: [L+1][T] raw relevance per residual point, or None.
        normalize: what divides a score for display: "max" |R| (as in arXiv 2604.17761), "sum" |R|, "signed-sum",
            "none"; over the tokens that are not special.
        title, model, composite, target: words for the caption.
        value: the explained value; ``target_value`` the target itself when it differs.
    """

    tokens: tuple[TokenText, ...]
    scores: tuple[float, ...]
    special: tuple[bool, ...]
    layers: tuple[tuple[float, ...], ...] | None = None
    normalize: str = "max"
    title: str = ""
    model: str = ""
    composite: str = ""
    target: str = ""
    value: float = 0.0
    target_value: float | None = None

    def __post_init__(self) -> None:
        if self.normalize not in NORMALIZATIONS:
            raise LrpError(f"unknown normalization {self.normalize!r}. choices: {', '.join(NORMALIZATIONS)}")

    @property
    def scale(self) -> float:
        """What a raw score is divided by; 1.0 when all scores are 0."""
        return _scale([s for s, special in zip(self.scores, self.special, strict=True) if not special], self.normalize)

    @property
    def shares(self) -> list[float]:
        """Scores divided by the scale."""
        return [score / self.scale for score in self.scores]

    @property
    def colours(self) -> list[float]:
        """Scores in [-1, 1] for colouring: relative to the largest |R|, whatever the numbers are divided by."""
        largest = _scale([s for s, special in zip(self.scores, self.special, strict=True) if not special], "max")
        return [max(-1.0, min(1.0, score / largest)) for score in self.scores]

    def ranked(self, count: int) -> list[int]:
        """Indices of the tokens with the largest |R|, special ones left out."""
        order = sorted(range(len(self.scores)), key=lambda i: -abs(self.scores[i]))
        return [i for i in order if not self.special[i]][:count]

    def with_title(self, title: str) -> Heatmap:
        return replace(self, title=title)

    @classmethod
    def from_relevance(
        cls,
        relevance: Relevance,
        tokenizer: Any = None,
        *,
        row: int = 0,
        model: str = "",
        title: str = "",
        normalize: str = "max",
        first_token_special: bool = False,
    ) -> Heatmap:
        """The heatmap of one row; padding is dropped. ``first_token_special`` grays the first token too (it often
        collects attention without meaning)."""
        if not 0 <= row < relevance.tokens.shape[0]:
            raise LrpError(f"row {row} is outside the batch of {relevance.tokens.shape[0]}")
        keep = relevance.attention_mask[row].cpu()
        count = int(keep.sum())
        if relevance.input_ids is None:
            texts = [TokenText(-1, f"[{i}]") for i in range(count)]
        else:
            texts = token_texts(tokenizer, relevance.input_ids[row].cpu()[keep].tolist())
        special = [text.special or (first_token_special and i == 0) for i, text in enumerate(texts)]
        layers = relevance.layers[row].cpu()[:, keep]
        target_value = None if relevance.target_value is None else float(relevance.target_value[row])
        return cls(
            tokens=tuple(texts),
            scores=tuple(relevance.tokens[row].cpu()[keep].tolist()),
            special=tuple(special),
            layers=tuple(tuple(point) for point in layers.to(torch.float32).tolist()),
            normalize=normalize,
            title=title,
            model=model,
            composite=relevance.composite,
            target=relevance.target,
            value=float(relevance.value[row]),
            target_value=target_value,
        )

    def _repr_html_(self) -> str:
        from lrp_hooks.render.page import fragment

        return fragment(self)


def _scale(scores: list[float], normalize: str) -> float:
    if normalize == "none" or not scores:
        return 1.0
    if normalize == "max":
        scale = max(abs(s) for s in scores)
    elif normalize == "sum":
        scale = sum(abs(s) for s in scores)
    else:
        scale = abs(sum(scores))
    return scale or 1.0
