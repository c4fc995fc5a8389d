"""One attention call as its backward pass saw it, and its attention weights row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lrp_kernels.attention.interval import Interval
from lrp_kernels.gated.reference import tanh_slope
from lrp_kernels.rows import rows_at_once


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One sequence through one attention function, as its backward pass saw it.

    Attributes:
        q: [H, T, d]; k: [G, T, d]; v: [G, T, e], with H a multiple of G (grouped queries).
        o: [H, T, e], gradient at the output; D: [H, T], <o, out>.
        k_carry, v_carry: k~ and v~, shaped like k and v; the same objects where they are equal.
        mask: [1 or H, T, T] of bool (True = attend) or added numbers; None = causal, or what ``interval`` says.
        scale: factor on q k.
        softcap: c of c tanh(s / c), or None; ``slope``: whether its slope (LRP) or derivative is passed.
        sinks: [H] logits that take part in the softmax only, or None.
        value, key: factors c_v and c_k.
        lse: [H, T] log-sum-exp of the scores if the forward pass kept it, or None.
        interval: which columns each row attends to, [T], in place of a mask of n x n.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    D: Tensor
    k_carry: Tensor
    v_carry: Tensor
    mask: Tensor | None
    scale: float
    softcap: float | None
    slope: bool
    sinks: Tensor | None
    value: float
    key: float
    lse: Tensor | None = None
    interval: Interval | None = None

    @property
    def heads(self) -> int:
        return self.q.shape[0]

    @property
    def length(self) -> int:
        return self.q.shape[1]

    def columns(self, rows: Tensor) -> int:
        """How many columns, from the first, the rows can have edges from."""
        if self.mask is not None:
            return self.k.shape[1]
        last = int(rows[-1]) + 1  # the diagonal is one of them
        return last if self.interval is None else max(last, int(self.interval.end[rows].max()))


def row_blocks(rows: Tensor, heads: int, columns: int) -> Iterator[Tensor]:
    """Split row indices so that the arrays of a block, all heads in one, have the size that suits the cache."""
    yield from torch.split(rows, rows_at_once(heads, columns))


def grouped(x: Tensor, groups: int) -> Tensor:
    """[H, R, d] -> [G, H/G * R, d]: the query heads of one key head in one matrix."""
    return x.reshape(groups, -1, x.shape[-1])


def softcapped(raw: Tensor, call: AttentionCall) -> tuple[Tensor, Tensor | None]:
    """Scores after the softcap and the slope that its gradient takes (None without a softcap)."""
    if call.softcap is None:
        return raw, None
    u = raw / call.softcap
    capped = torch.tanh(u)
    slope = tanh_slope(u) if call.slope else 1 - capped * capped
    return capped * call.softcap, slope


def softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Attention weights; a row that may attend to nothing has none."""
    if sinks is not None:
        extra = sinks.to(scores.dtype)[:, None, None].expand(-1, scores.shape[1], 1)
        return torch.cat((scores, extra), -1).softmax(-1)[..., :-1]
    return torch.nan_to_num(scores.softmax(-1), nan=0.0)


def masked(scores: Tensor, call: AttentionCall, rows: Tensor) -> Tensor:
    """Scores [H, R, C] with -inf (or the mask's numbers) where a row may not attend."""
    if call.interval is not None:
        scores = scores.masked_fill(~call.interval.allowed(rows, scores.shape[2]), -torch.inf)
        if call.mask is None:
            return scores
    elif call.mask is None:
        later = torch.arange(scores.shape[2], device=rows.device) > rows[:, None]
        return scores.masked_fill(later, -torch.inf)
    assert call.mask is not None
    mask = call.mask[:, rows]
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask.to(scores.dtype)
