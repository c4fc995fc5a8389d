"""What kept edges consist of: attention paths and heads, for the edges of one closed-form transition."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_hooks.graph.edges import Transition
from lrp_hooks.graph.model import EdgeDetail
from lrp_hooks.graph.prune import KeptEdges
from lrp_hooks.ops import edge_rows


def edge_detail(made: Transition, kept: KeptEdges) -> EdgeDetail:
    """Paths and the strongest head of each kept edge; heads of the kept rows are made once more, block by block."""
    device = made.rest.device
    target, source = kept.target.to(device), kept.source.to(device)
    count = len(target)
    value, key, head_weight = (made.rest.new_zeros(count) for _ in range(3))
    head = torch.zeros(count, dtype=torch.long, device=device)
    for block in made.row_blocks(torch.unique(target)).blocks:
        here = torch.nonzero(torch.isin(target, block)).flatten()
        row, column = torch.searchsorted(block, target[here]), source[here]
        edges = edge_rows(made.call, block)
        per_head = edges.total()[:, row, column]  # [H, E']
        value[here] = edges.value[:, row, column].sum(0)
        key[here] = per_head.sum(0) - value[here]
        head[here] = per_head.abs().argmax(0)
        head_weight[here] = per_head.gather(0, head[here][None])[0]
    query = torch.where(target == source, made.query[target], 0.0)
    value, key, query, head_weight = (column.float().cpu() for column in (value, key, query, head_weight))
    return EdgeDetail(value, key, query, head.cpu(), head_weight)


def no_attention(count: int) -> EdgeDetail:
    """Of edges that no attention is involved in."""
    zeros: Tensor = torch.zeros(count)
    return EdgeDetail(zeros, zeros, zeros, torch.full((count,), -1), zeros)
