"""Pruning by histogram and list, as the kernels do it, against pruning row block by row block."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lrp_hooks.graph.edges import Transition
from lrp_hooks.graph.prune import KeptEdges, keep_above, keep_top_p
from lrp_hooks.graph.tiled import TiledEdges, tiles_above, tiles_top_p
from lrp_hooks.ops import AttentionCall

H, G, T, D = 4, 2, 40, 8


def transition(scale: float = 1.0) -> Transition:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator)

    q, k, v, o = normal(H, T, D), normal(G, T, D), normal(G, T, D), scale * normal(H, T, D)
    call = AttentionCall(q, k, v, o, scale * normal(H, T), k, v, None, D**-0.5, None, True, None, 0.5, 0.25)
    return Transition(call, scale * normal(T), scale * normal(T), scale * normal(T))


def tiles(made: Transition, rows: torch.Tensor) -> TiledEdges:
    return TiledEdges(made.call, rows, made.diagonal)


def same(a: KeptEdges, b: KeptEdges) -> None:
    assert torch.equal(a.target, b.target)
    assert torch.equal(a.source, b.source)
    assert torch.allclose(a.weight, b.weight, rtol=1e-6)
    assert (a.total_count, a.threshold) == (b.total_count, pytest.approx(b.threshold, rel=1e-6))
    assert a.total_mass == pytest.approx(b.total_mass, rel=1e-6)


ROWS = {"all": torch.arange(T), "some": torch.tensor([0, 3, 4, 11, 39]), "none": torch.arange(0)}


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("top_p", [0.01, 0.5, 0.85, 1.0])
def test_the_smallest_set_is_the_same(rows: torch.Tensor, top_p: float) -> None:
    made = transition()
    same(tiles_top_p(tiles(made, rows), top_p), keep_top_p(made.row_blocks(rows), top_p))


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("threshold", [0.0, 0.1, 1e9])
def test_what_is_above_a_threshold_is_the_same(rows: torch.Tensor, threshold: float) -> None:
    made = transition()
    same(tiles_above(tiles(made, rows), threshold), keep_above(made.row_blocks(rows), threshold))


def test_an_edge_at_the_threshold_is_not_above_it() -> None:
    made = transition()
    sizes = keep_above(made.row_blocks(ROWS["all"]), 0.0).weight.abs()
    threshold = float(sizes[10])
    assert len(tiles_above(tiles(made, ROWS["all"]), threshold).weight) == 10


def test_tiny_edges_have_bins_too() -> None:
    made = transition(1e-30)
    same(tiles_top_p(tiles(made, ROWS["all"]), 0.85), keep_top_p(made.row_blocks(ROWS["all"]), 0.85))
