"""Edges between segments: token edges are summed while they stream, so that long contexts fit a screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.prune import RowBlocks
from lrp_hooks.segments import Segment, check_partition

MOST_SEGMENTS = 2048
"""Segment x segment sums are dense; above this number tokens, which stream, are the better columns."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """A partition of the tokens into segments.

    Attributes:
        index: [T] int64, the segment of each token.
    """

    segments: tuple[Segment, ...]
    index: Tensor

    @classmethod
    def of(cls, segments: Sequence[Segment], length: int, device: torch.device) -> Grouping:
        """Raises InputError when the segments are no partition, GraphError when they are too many."""
        if len(segments) > MOST_SEGMENTS:
            raise GraphError(
                f"{len(segments)} segments, at most {MOST_SEGMENTS}. do: a token graph, or longer segments"
            )
        parts = check_partition(segments, length)
        sizes = torch.tensor([len(part) for part in parts])
        return cls(parts, torch.repeat_interleave(torch.arange(len(parts)), sizes).to(device))

    def sums(self, scores: Tensor) -> Tensor:
        """[..., T] -> [..., S]."""
        total = scores.new_zeros(*scores.shape[:-1], len(self.segments))
        return total.index_add_(-1, self.index.to(scores.device), scores)

    def holding(self, tokens: Sequence[int]) -> tuple[int, ...]:
        """The segments that hold these tokens, ascending."""
        return tuple(torch.unique(self.index[list(tokens)]).tolist())

    def edge_sums(self, rows: RowBlocks) -> Tensor:
        """[S, S] in float64: what the tokens of one segment send to those of another, summed."""
        count = len(self.segments)
        total = torch.zeros(count, count, dtype=torch.float64, device=self.index.device)
        for block in rows.blocks:
            edges = rows.edges(block).to(total)
            columns = edges.new_zeros(len(block), count).index_add_(1, self.index[: edges.shape[1]], edges)
            total.index_add_(0, self.index[block.to(total.device)], columns)
        return total
