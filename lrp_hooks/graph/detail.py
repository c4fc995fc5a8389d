"""What kept edges consist of: attention paths and heads, for the edges of one closed-form transition."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_hooks.graph.edges import Transition
from lrp_hooks.graph.model import EdgeDetail
from lrp_hooks.graph.prune import KeptEdges
from lrp_hooks.ops import edge_parts


def edge_detail(made: Transition, kept: KeptEdges) -> EdgeDetail:
    """Paths and the strongest head of each kept edge."""
    device = made.rest.device
    target, source = kept.target.to(device), kept.source.to(device)
    parts = edge_parts(made.call, target, source)
    query = torch.where(target == source, made.query[target], 0.0)
    value, key, query, head_weight = (x.float().cpu() for x in (parts.value, parts.key, query, parts.head_weight))
    return EdgeDetail(value, key, query, parts.head.cpu(), head_weight)


def no_attention(count: int) -> EdgeDetail:
    """Of edges that no attention is involved in."""
    zeros: Tensor = torch.zeros(count)
    return EdgeDetail(zeros, zeros, zeros, torch.full((count,), -1), zeros)
