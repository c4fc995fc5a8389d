"""Graphs written out, for tests that compare every edge."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_hooks import AttributionGraph


def dense(graph: AttributionGraph) -> Tensor:
    """[P - 1, T, T] of a graph over all points: transition, target, source."""
    points, length = graph.relevance.shape
    out = torch.zeros(points - 1, length, length, dtype=torch.float64)
    out[graph.below, graph.target, graph.source] = graph.weight.double()
    return out
