"""The data of one heatmap: tokens, raw scores, scale, and the words around them. Every output draws this."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from lrp_hooks.errors import LrpError
from lrp_hooks.render.words import sides
from lrp_hooks.tokens import TokenText, token_texts

if TYPE_CHECKING:
    from torch import Tensor

    from lrp_hooks.relevance import Relevance

MIDDLE = "inside block"
FLOAT32 = 3.4e38
"""Pages hold float32."""
NORMALIZATIONS = ("max", "sum", "signed-sum", "none")


@dataclass(frozen=True, eq=False)
class Heatmap:
    """Scores of the tokens of one prompt, ready to be drawn.

    Attributes:
        tokens: text of each token.
        scores: raw relevance, in logits.
        special: drawn gray and left out of the scale.
        layers: [P][T] raw relevance per residual point, or None.
        normalize: what divides a score for display: "max" |R| (as in arXiv 2604.17761), "sum" |R|, "signed-sum"
            (the absolute value of the sum), "none"; over the tokens that are not special.
        title, model, composite, target: words for the caption.
        value: the explained value; ``target_value`` the target itself when it differs.
        target_text, contrast_text: what positive and negative scores support; read from ``target`` where it names them.
        points: names of the rows of ``layers``, bottom (first) to top; made up where they are not given.

    Raises:
        LrpError: an unknown normalization, lengths that do not fit, or scores that are not finite.
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
    target_text: str | None = None
    contrast_text: str | None = None
    points: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.normalize not in NORMALIZATIONS:
            raise LrpError(f"unknown normalization {self.normalize!r}. choices: {', '.join(NORMALIZATIONS)}")
        rows = self.layers or ()
        lengths = {len(self.scores), len(self.special), *map(len, rows)}
        if lengths != {len(self.tokens)}:
            raise LrpError(f"{len(self.tokens)} tokens do not fit scores, marks or layers of length {sorted(lengths)}")
        if self.points is not None and len(self.points) != len(rows):
            raise LrpError(f"{len(self.points)} names for {len(rows)} residual points")
        numbers = chain((self.value, self.target_value or 0.0), self.scores, *rows)
        if not all(abs(number) <= FLOAT32 for number in numbers):
            raise LrpError("relevance contains NaN or infinity. do: try float32 or bfloat16")

    @property
    def ordinary(self) -> list[float]:
        """Scores of the tokens that are not special."""
        return [score for score, special in zip(self.scores, self.special, strict=True) if not special]

    @cached_property
    def scale(self) -> float:
        """What a raw score is divided by; 1.0 when all scores are 0."""
        return scale(self.ordinary, self.normalize)

    @cached_property
    def shares(self) -> list[float]:
        """Scores divided by the scale."""
        return [score / self.scale for score in self.scores]

    @cached_property
    def colours(self) -> list[float]:
        """Scores in [-1, 1] for colouring: relative to the largest |R|, whatever the numbers are divided by."""
        largest = scale(self.ordinary, "max")
        return [max(-1.0, min(1.0, score / largest)) for score in self.scores]

    def portion(self, index: int) -> float:
        """|R| of one token as a part of the sum of |R|."""
        return abs(self.scores[index]) / scale(self.ordinary, "sum")

    def ranked(self, count: int | None = None) -> list[int]:
        """Indices of the tokens with the largest |R|, special ones left out."""
        order = sorted(range(len(self.scores)), key=lambda i: -abs(self.scores[i]))
        return [i for i in order if not self.special[i]][:count]

    @property
    def sides(self) -> tuple[str | None, str | None]:
        """What positive and what negative scores support, in words; None where it is not known."""
        target, contrast = sides(self.target)
        return self.target_text or target, self.contrast_text or contrast

    @property
    def point_names(self) -> tuple[str, ...]:
        """Names of the rows of ``layers``."""
        if self.points is not None:
            return self.points
        return tuple(f"after block {p - 1}" if p else "before block 0" for p in range(len(self.layers or ())))

    @property
    def rows_per_block(self) -> int:
        """Rows of ``layers`` from one residual point to the next: 2 where blocks have a middle."""
        return 2 if self.points is not None and any(name.startswith(MIDDLE) for name in self.points) else 1

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
        layers: bool = True,
        mid: bool = False,
        target_text: str | None = None,
        contrast_text: str | None = None,
    ) -> Heatmap:
        """The heatmap of one row; padding is dropped.

        Args:
            first_token_special: gray the first token too (it often collects attention without meaning).
            layers: keep the relevance per residual point, for the token x layer map.
            mid: with it, the points between attention and MLP, where the relevance has them.

        Raises:
            LrpError: no such row, an unknown normalization, scores that are not finite.
        """
        if not 0 <= row < relevance.tokens.shape[0]:
            raise LrpError(f"row {row} is outside the batch of {relevance.tokens.shape[0]}")
        keep = relevance.attention_mask[row].cpu().bool()
        if relevance.input_ids is None:
            texts = [TokenText(-1, f"[{i}]") for i in range(int(keep.sum()))]
        else:
            texts = token_texts(tokenizer, relevance.input_ids[row].cpu()[keep].tolist())
        points, names = _points(relevance, row, mid) if layers else (None, None)
        return cls(
            tokens=tuple(texts),
            scores=tuple(_floats(relevance.tokens[row], keep)),
            special=tuple(text.special or (first_token_special and i == 0) for i, text in enumerate(texts)),
            layers=None if points is None else tuple(tuple(_floats(point, keep)) for point in points),
            normalize=normalize,
            title=title,
            model=model,
            composite=relevance.composite,
            target=relevance.target,
            value=float(relevance.value[row]),
            target_value=None if relevance.target_value is None else float(relevance.target_value[row]),
            target_text=target_text,
            contrast_text=contrast_text,
            points=names,
        )

    def _repr_html_(self) -> str:
        from lrp_hooks.render.page import fragment

        return fragment(self)


def _floats(scores: Tensor, keep: Tensor) -> list[float]:
    values: list[float] = scores.detach().cpu()[keep].float().tolist()
    return values


def _points(relevance: Relevance, row: int, mid: bool) -> tuple[list[Tensor], tuple[str, ...] | None]:
    """Rows of the map and their names; with ``mid`` each block's middle comes between its ends."""
    ends = list(relevance.layers[row])
    if not mid or relevance.mid is None:
        return ends, None
    rows, names = [ends[0]], ["before block 0"]
    for block, middle in enumerate(relevance.mid[row]):
        rows += [middle, ends[block + 1]]
        names += [f"{MIDDLE} {block}, after attention", f"after block {block}"]
    return rows, tuple(names)


def scale(scores: list[float], normalize: str) -> float:
    """The divisor of a normalization; 1.0 where it would be 0."""
    if normalize == "none" or not scores:
        return 1.0
    if normalize == "max":
        return max(map(abs, scores)) or 1.0
    return (math.fsum(map(abs, scores)) if normalize == "sum" else abs(math.fsum(scores))) or 1.0
