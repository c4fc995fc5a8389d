"""What each query row j of one attention call sends to each key column i, head by head (docs/mathematics.md).

    value path   A_v[j,i] = c_v P_ji <o_j, v~_i>
    key path     A_k[j,i] = c_k dS_ji scale <q_j, k~_i>       dS_ji = lambda_ji P_ji (<o_j, v_i> - D_j)

with o the gradient at the attention output, D_j = <o_j, out_j>, P the attention weights, lambda the slope of a softcap,
and k~, v~ the relevance-carrying parts of k and v (equal to k and v where nothing adds a constant on the way from the
residual stream).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrp_kernels.edges.call import AttentionCall, grouped, masked, softcapped, softmax
from lrp_kernels.function import compute_dtype


@dataclass(frozen=True, eq=False)
class EdgeRows:
    """Edges from all columns to some rows, per head: each [H, R, C]; columns beyond C have none."""

    value: Tensor
    key: Tensor | None

    def total(self) -> Tensor:
        """[H, R, C] value and key path together."""
        return self.value if self.key is None else self.value + self.key


def edge_rows(call: AttentionCall, rows: Tensor) -> EdgeRows:
    """Edges into the query rows [R] (ascending), in the compute dtype of the call."""
    dtype = compute_dtype(call.q)
    groups, last = call.k.shape[0], call.columns(rows)
    q, o = (grouped(x[:, rows].to(dtype), groups) for x in (call.q, call.o))  # [G, H/G * R, d]

    def product(a: Tensor, b: Tensor) -> Tensor:
        return torch.bmm(a, b[:, :last].to(dtype).transpose(1, 2)).view(call.heads, len(rows), last)

    scores, slope = softcapped(product(q, call.k) * call.scale, call)
    weights = softmax(masked(scores, call, rows), call.sinks)
    to_value = weights * product(o, call.v_carry) * call.value
    if not call.key:
        return EdgeRows(to_value, None)
    d_scores = weights * (product(o, call.v) - call.D[:, rows].to(dtype)[:, :, None])
    if slope is not None:
        d_scores = d_scores * slope
    return EdgeRows(to_value, d_scores * product(q, call.k_carry) * (call.scale * call.key))
