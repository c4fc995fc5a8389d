"""What kept edges consist of: attention paths and heads, for the edges of one closed-form transition."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from lrp_hooks.graph.edges import Transition
from lrp_hooks.graph.model import EdgeDetail
from lrp_hooks.graph.prune import KeptEdges
from lrp_hooks.ops import edge_parts, head_edges

Detail = bool | Literal["heads"]
"""False: none; True: paths, and the strongest head; "heads": also the paths of every head."""


def edge_detail(made: Transition, kept: KeptEdges, wanted: Detail) -> EdgeDetail:
    """Paths and the strongest head of each kept edge, or all heads."""
    device = made.rest.device
    target, source = kept.target.to(device), kept.source.to(device)
    if wanted == "heads":
        return _by_head(made, target, source)
    parts = edge_parts(made.call, target, source)
    query = torch.where(target == source, made.query[target], 0.0)
    value, key, query, head_weight = (x.float().cpu() for x in (parts.value, parts.key, query, parts.head_weight))
    return EdgeDetail(value, key, query, parts.head.cpu(), head_weight)


def _by_head(made: Transition, target: Tensor, source: Tensor) -> EdgeDetail:
    edges = head_edges(made.call, target, source)
    query = torch.where(target == source, made.query_heads[:, target], 0.0).T
    heads = torch.stack((edges.value, edges.key, query.to(edges.value)), 2).float().cpu()
    value, key, query = heads.sum(1).unbind(1)
    attention = heads[:, :, :2].sum(2)
    head = attention.abs().argmax(1)
    return EdgeDetail(value, key, query, head, attention.gather(1, head[:, None])[:, 0], heads)


def no_attention(count: int, wanted: Detail) -> EdgeDetail:
    """Of edges that no attention is involved in."""
    zeros: Tensor = torch.zeros(count)
    heads = torch.zeros(count, 0, 3) if wanted == "heads" else None
    return EdgeDetail(zeros, zeros, zeros, torch.full((count,), -1), zeros, heads)
