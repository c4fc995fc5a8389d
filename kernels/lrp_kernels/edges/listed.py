"""Listed edges of one attention call, head by head. Where they are few of their rows' edges, four rows are gathered per
edge and head, and no row of edges is made.

Same formulas as `lrp_kernels.edges.reference`; P_ji = exp(s_ji - lse_j), with the log-sum-exp of row j that the forward
pass kept, or that is made once for the rows that occur.
"""

from __future__ import annotations

from collections.abc import Iterator

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
    value = call.D.new_zeros(len(target), call.heads, dtype=compute_dtype(call.q))
    key = torch.zeros_like(value)
    for here, made in _in_parts(call, target, source):
        value[here], key[here] = made.value, made.key
    return HeadEdges(value, key)


def edge_parts(call: AttentionCall, target: Tensor, source: Tensor) -> EdgeParts:
    """Both paths summed over heads, the strongest head and its signed share, of the edges target[E] <- source[E]."""
    value, key, head_weight = (call.D.new_zeros(len(target)) for _ in range(3))
    head = torch.zeros(len(target), dtype=torch.long, device=target.device)
    for here, made in _in_parts(call, target, source):
        per_head = made.value + made.key
        strongest = per_head.abs().argmax(1)
        value[here], key[here] = made.value.sum(1).to(value.dtype), made.key.sum(1).to(key.dtype)
        head[here] = strongest
        head_weight[here] = per_head.gather(1, strongest[:, None])[:, 0].to(head_weight.dtype)
    return EdgeParts(value, key, head, head_weight)


def _in_parts(call: AttentionCall, target: Tensor, source: Tensor) -> Iterator[tuple[Tensor, HeadEdges]]:
    """Which edges, and what they are: gathered, or from whole rows, whatever costs less. Those left out are none."""
    if not len(target):
        return
    rows, position = torch.unique(target, return_inverse=True)
    if len(target) * MANY >= len(rows) * call.length:
        yield from _of_rows(call, rows, target, source)
        return
    lse = row_lse(call, rows) if call.lse is None else call.lse[:, rows]
    size = max(1, AT_ONCE // (call.heads * max(call.q.shape[2], call.v.shape[2])))
    for some in torch.split(torch.arange(len(target), device=target.device), size):
        yield some, _gathered(call, lse[:, position[some]], target[some], source[some])


def _of_rows(call: AttentionCall, rows: Tensor, target: Tensor, source: Tensor) -> Iterator[tuple[Tensor, HeadEdges]]:
    for block in row_blocks(rows, call.heads, call.length):
        here = torch.nonzero((target >= block[0]) & (target <= block[-1])).flatten()
        made = edge_rows(call, block)
        here = here[source[here] < made.value.shape[2]]  # columns beyond have no edges
        row, column = torch.searchsorted(block, target[here]), source[here]
        value = made.value[:, row, column].T
        yield here, HeadEdges(value, torch.zeros_like(value) if made.key is None else made.key[:, row, column].T)


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


def _gathered(call: AttentionCall, lse: Tensor, target: Tensor, source: Tensor) -> HeadEdges:
    """Value and key path; ``lse`` [H, E] of each edge's row."""
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
        return HeadEdges(to_value.T, torch.zeros_like(to_value.T))
    d_scores = weights * (toward - call.D[:, target].to(dtype))
    if slope is not None:
        d_scores = d_scores * slope
    carried = raw if call.k_carry is call.k else product(call.q, call.k_carry)
    return HeadEdges(to_value.T, (d_scores * carried * (call.scale * call.key)).T)
