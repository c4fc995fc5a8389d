"""How much of the final nodes' incoming relevance passes through each node: what viewers prune by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lrp_hooks.graph.export.columns import Edges, Nodes


def influence(nodes: Nodes, edges: Edges, finals: Mapping[int, float]) -> NDArray[np.float64]:
    """[N] share of the final nodes' incoming |weight| that passes through each node, over all paths.

    ``finals``: the share that each final node starts with, 1 where there is one.

    Every node hands its share down in proportion to |weight|: r_i = sum_j r_j |A_ji| / sum_k |A_jk|. This is the
    influence of circuit-tracer's ``compute_node_influence`` (row-normalised |A|, summed over path lengths) with the
    shares as weights of its logits; edges go up, so one sweep from above is enough.
    """
    size = np.abs(edges.weight.astype(np.float64))
    incoming = np.bincount(edges.target, size, minlength=len(nodes.id))
    share = size / np.where(incoming > 0, incoming, 1.0)[edges.target]
    found = np.zeros(len(nodes.id))
    found[list(finals)] = list(finals.values())
    order = np.argsort(-nodes.row[edges.target], kind="stable")
    cuts = np.flatnonzero(np.diff(nodes.row[edges.target][order])) + 1
    for chosen in np.split(order, cuts):
        np.add.at(found, edges.source[chosen], share[chosen] * found[edges.target[chosen]])
    return found


def cumulative(found: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N] in (0, 1]: the share of the summed influence held by a node and all that have more (ties: in order).

    A viewer that shows nodes with values up to t shows the fewest nodes that hold the share t.
    """
    order = np.argsort(-found, kind="stable")
    total = found.sum()
    out = np.ones_like(found)
    if total > 0:
        out[order] = np.minimum(np.cumsum(found[order]) / total, 1.0)
    return out
