"""Listed edges of one attention call, head by head: four rows are gathered per edge and head, no row of edges is made.

Same formulas as `lrp_kernels.edges.reference`; P_ji = exp(s_ji - lse_j), with the log-sum-exp of row j that the forward
pass kept, or that is made once for the rows that occur.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_kernels.edges.call import AttentionCall, masked, row_blocks, softcapped
from lrp_kernels.edges.results import EdgeParts, HeadEdges
from lrp_kernels.function import compute_dtype

AT_ONCE = 1 << 22
"""Numbers of one gathered array, all heads."""


def head_edges(call: AttentionCall, target: Tensor, source: Tensor) -> HeadEdges:
    """Value and key path per head of the edges target[E] <- source[E], in the compute dtype of the call."""
    rows, position = torch.unique(target, return_inverse=True)
    lse = row_lse(call, rows) if call.lse is None else call.lse[:, rows]
    parts = []
    width = max(call.q.shape[2], call.v.shape[2])
    for some in torch.split(torch.arange(len(target), device=target.device), max(1, AT_ONCE // (call.heads * width))):
        parts.append(_gathered(call, lse[:, position[some]], target[some], source[some]))
    value, key = (torch.cat(column) for column in zip(*parts, strict=True))
    return HeadEdges(value, key)


def parts_of(edges: HeadEdges) -> EdgeParts:
    """Both paths summed over heads, the strongest head, and its signed share."""
    total = edges.value + edges.key
    head = total.abs().argmax(1) if len(total) else total.new_zeros(0, dtype=torch.long)
    return EdgeParts(edges.value.sum(1), edges.key.sum(1), head, total.gather(1, head[:, None])[:, 0])


def row_lse(call: AttentionCall, rows: Tensor) -> Tensor:
    """[H, R] log-sum-exp of the scores of the rows [R] (ascending), sinks included; -inf where a row sees nothing."""
    dtype = compute_dtype(call.q)
    made = [call.q.new_zeros(call.heads, 0, dtype=dtype)]
    for block in row_blocks(rows, call.heads, call.length) if len(rows) else ():
        k = call.k[:, : call.columns(block)].to(dtype)
        q = call.q[:, block].to(dtype).view(len(k), -1, k.shape[2])
        raw = torch.bmm(q, k.transpose(1, 2)).view(call.heads, len(block), k.shape[1])
        total = masked(softcapped(raw * call.scale, call)[0], call, block).logsumexp(2)
        made.append(total if call.sinks is None else torch.logaddexp(total, call.sinks.to(dtype)[:, None]))
    return torch.cat(made, 1)


def _gathered(call: AttentionCall, lse: Tensor, target: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
    """([E, H], [E, H]): value and key path; ``lse`` [H, E] of each edge's row."""
    dtype, groups = compute_dtype(call.q), call.k.shape[0]

    def product(at_target: Tensor, at_source: Tensor) -> Tensor:
        """[H, E] of [H, T, x] and [G, T, x]."""
        rows = at_target[:, target].to(dtype).view(groups, call.heads // groups, len(target), at_target.shape[2])
        return (rows * at_source[:, None, source].to(dtype)).sum(3).view(call.heads, len(target))

    raw = product(call.q, call.k)
    scores, slope = softcapped(raw * call.scale, call)
    allowed = None
    if call.interval is not None:
        first, end = call.interval.first[target], call.interval.end[target]
        allowed = (source >= first) & (source < end)
    elif call.mask is None:
        allowed = source <= target
    if call.mask is not None:
        mask = call.mask[:, target, source]
        if mask.dtype == torch.bool:
            allowed = mask if allowed is None else mask & allowed
        else:
            scores = scores + mask.to(dtype)
    weights = torch.exp(scores - torch.where(lse == -torch.inf, 0.0, lse).to(dtype))
    if allowed is not None:
        weights = weights.masked_fill(~allowed, 0.0)
    toward = product(call.o, call.v)
    to_value = weights * (toward if call.v_carry is call.v else product(call.o, call.v_carry)) * call.value
    if not call.key:
        return to_value.T, torch.zeros_like(to_value.T)
    d_scores = weights * (toward - call.D[:, target].to(dtype))
    if slope is not None:
        d_scores = d_scores * slope
    carried = raw if call.k_carry is call.k else product(call.q, call.k_carry)
    return to_value.T, (d_scores * carried * (call.scale * call.key)).T
