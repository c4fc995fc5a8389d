"""Listed edges of one attention call, head by head. Where they are few of their rows' edges, four rows are gathered per
edge and head, and no row of edges is made.

Same formulas as `lrp_kernels.edges.reference`; P_ji = exp(s_ji - lse_j), with the log-sum-exp of row j that the forward
pass kept, or that is made once for the rows that occur.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_kernels.edges.call import AttentionCall, masked, row_blocks, softcapped
from lrp_kernels.edges.reference import edge_rows
from lrp_kernels.edges.results import EdgeParts, HeadEdges
from lrp_kernels.function import compute_dtype

AT_ONCE, MANY = 1 << 22, 32
"""Numbers of one gathered array, all heads; from a share 1/MANY of a row's columns on the whole row costs less. On a
core, 4,096 columns, 9 heads of 64: 512 rows take 0.3 s, gathering 64 edges of each 0.08 s, 256 of each 0.7 s."""


def head_edges(call: AttentionCall, target: Tensor, source: Tensor) -> HeadEdges:
    """Value and key path per head of the edges target[E] <- source[E], in the compute dtype of the call."""
    rows, position = torch.unique(target, return_inverse=True)
    if not are_few(len(target), len(rows), call):
        return _of_rows(call, rows, target, source)
    lse = row_lse(call, rows) if call.lse is None else call.lse[:, rows]
    parts = []
    width = max(call.q.shape[2], call.v.shape[2])
    for some in torch.split(torch.arange(len(target), device=target.device), max(1, AT_ONCE // (call.heads * width))):
        parts.append(_gathered(call, lse[:, position[some]], target[some], source[some]))
    value, key = (torch.cat(column) for column in zip(*parts, strict=True))
    return HeadEdges(value, key)


def are_few(edges: int, rows: int, call: AttentionCall) -> bool:
    """Whether gathering so many edges costs less than making the rows that they are in."""
    return edges * MANY < rows * call.length or not edges


def _of_rows(call: AttentionCall, rows: Tensor, target: Tensor, source: Tensor) -> HeadEdges:
    """The same from whole rows."""
    value = call.D.new_zeros(len(target), call.heads, dtype=compute_dtype(call.q))
    key = torch.zeros_like(value)
    for block in row_blocks(rows, call.heads, call.length):
        here = torch.nonzero((target >= block[0]) & (target <= block[-1])).flatten()
        made = edge_rows(call, block)
        here = here[source[here] < made.value.shape[2]]  # columns beyond are no edges
        row, column = torch.searchsorted(block, target[here]), source[here]
        value[here] = made.value[:, row, column].T
        if made.key is not None:
            key[here] = made.key[:, row, column].T
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
