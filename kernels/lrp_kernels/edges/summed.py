"""The same edges summed over heads, with as few passes over [heads, rows, columns] arrays as plain PyTorch allows.

    sum_h P (c_v <o, v~> + c_k lambda (<o, v> - D) scale <q, k~>)

Without a softcap and with v~ = v, k~ = k two products serve for everything: with T = <o, v> - D (one call, D as the
product's addend) and S the scaled scores the bracket is T (c_k S + c_v) + c_v D.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_kernels.edges.call import AttentionCall, grouped, masked, softcapped, softmax
from lrp_kernels.function import compute_dtype


def edge_sums(call: AttentionCall, rows: Tensor) -> Tensor:
    """[R, C] edges into the query rows [R] (ascending), summed over heads; columns beyond C have none."""
    dtype = compute_dtype(call.q)
    groups, last = call.k.shape[0], call.columns(rows)
    shape = (call.heads, len(rows), last)
    start = int(rows[0])
    index = slice(start, start + len(rows)) if int(rows[-1]) - start + 1 == len(rows) else rows
    q = grouped(call.q[:, index].to(dtype) * call.scale, groups)  # [G, H/G * R, d]
    o = grouped(call.o[:, index].to(dtype), groups)
    kept = call.D[:, index].to(dtype)[:, :, None]  # [H, R, 1]

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b[:, :last].to(dtype).transpose(1, 2)).view(shape)

    raw = product(q, call.k)
    scores, slope = softcapped(raw, call)
    weights = _weights(scores, call, rows, start)
    if not call.key:
        return _sum_of_products(weights, product(o, call.v_carry).mul_(call.value))
    v = call.v[:, :last].to(dtype).transpose(1, 2)
    towards = torch.baddbmm(kept.reshape(groups, -1, 1), o, v, beta=-1).view(shape)  # <o, v> - D
    if slope is None and call.k_carry is call.k and call.v_carry is call.v:
        raw.mul_(call.key).add_(call.value)
        return _sum_of_products(weights, torch.addcmul(kept * call.value, towards, raw))
    carried = raw if call.k_carry is call.k else product(q, call.k_carry)
    if slope is not None:
        towards.mul_(slope)
    total = product(o, call.v_carry).mul_(call.value).addcmul_(towards, carried, value=call.key)
    return _sum_of_products(weights, total)


def _weights(scores: Tensor, call: AttentionCall, rows: Tensor, start: int) -> Tensor:
    """Attention weights; ``scores`` stay finite. Causal rows are masked only where columns pass the first row."""
    if call.mask is not None or call.interval is not None:
        return softmax(masked(scores, call, rows), call.sinks)
    scores = scores.clone()
    later = torch.arange(start + 1, scores.shape[2], device=rows.device) > rows[:, None]
    scores[:, :, start + 1 :].masked_fill_(later, -torch.inf)
    return scores.softmax(-1) if call.sinks is None else softmax(scores, call.sinks)


def _sum_of_products(a: Tensor, b: Tensor) -> Tensor:
    """sum over the first dimension of a * b, [H, R, C] -> [R, C]; ``a`` is overwritten."""
    total: Tensor = a.mul_(b).sum(0)
    return total
