"""Histogram, list, sums and parts of edges in plain PyTorch against the dense array of the same edges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lrp_kernels.attention import Interval
from lrp_kernels.edges import (
    BIN_SHIFT,
    BINS,
    AttentionCall,
    edge_histogram,
    edge_list,
    edge_parts,
    edge_rows,
    edge_sums,
    edge_totals,
)
from torch import Tensor

H, G, T = 4, 2, 13
ROWS = torch.tensor([0, 1, 4, 5, 6, 12])


def make(interval: Interval | None = None) -> AttentionCall:
    generator = torch.Generator().manual_seed(0)
    q, k, v, o = (torch.randn(n, T, 5, generator=generator) for n in (H, G, G, H))
    D = torch.randn(H, T, generator=generator)
    return AttentionCall(q, k, v, o, D, k, v, None, 0.4, None, True, None, 0.5, 0.25, None, interval)


def dense(call: AttentionCall, rows: Tensor, diagonal: Tensor) -> Tensor:
    total = torch.zeros(len(rows), T)
    edges = edge_sums(call, rows)
    total[:, : edges.shape[1]] = edges
    total[torch.arange(len(rows)), rows] += diagonal[rows]
    return total


pytestmark = pytest.mark.usefixtures("few_rows")


@pytest.mark.parametrize("interval", [None, Interval.causal(T, window=4)])
def test_all_at_once_equals_the_dense_array(interval: Interval | None) -> None:
    call, diagonal = make(interval), torch.linspace(-1, 1, T)
    edges = dense(call, ROWS, diagonal)
    size = edges[edges != 0].abs()
    bins = size.view(torch.int32) >> BIN_SHIFT
    found = edge_histogram(call, ROWS, diagonal)
    assert torch.equal(found.count, torch.bincount(bins, minlength=BINS))
    assert torch.allclose(found.mass, torch.bincount(bins, size.double(), minlength=BINS), rtol=1e-5)
    for at_least in (0.0, 0.1, 1e9):
        made = edge_list(call, ROWS, diagonal, at_least=at_least)
        row, column = torch.nonzero((edges.abs() >= at_least) & (edges != 0), as_tuple=True)
        assert torch.equal(made.target, ROWS[row])
        assert torch.equal(made.source, column)
        assert torch.allclose(made.weight, edges[row, column], rtol=1e-5)
    row_sums, column_sums = edge_totals(call, ROWS, diagonal)
    assert torch.allclose(row_sums, edges.double().sum(1), atol=1e-6)
    assert torch.allclose(column_sums, edges.double().sum(0), atol=1e-6)


def test_intervals_stand_for_masks() -> None:
    interval = Interval.causal(T, window=4).within(torch.tensor(2), torch.tensor(11))
    masked = replace(make(), mask=interval.allowed(torch.arange(T), T)[None])
    for rows in (torch.arange(T), ROWS):
        ours, theirs = (edge_rows(call, rows).total() for call in (make(interval), masked))
        assert torch.allclose(ours, theirs[:, :, : ours.shape[2]], atol=1e-7)
        assert not theirs[:, :, ours.shape[2] :].any()
        sums = edge_sums(make(interval), rows)
        assert torch.allclose(sums, theirs.sum(0)[:, : sums.shape[1]], atol=1e-6)
        assert sums.shape[1] > rows[-1]


def test_parts_of_listed_edges() -> None:
    call = make()
    target, source = torch.tensor([12, 3, 3, 0, 5]), torch.tensor([12, 0, 3, 0, 9])  # the last is no edge
    rows = edge_rows(call, torch.arange(T))
    made = edge_parts(call, target, source)
    per_head = rows.total()[:, target, source]
    assert rows.key is not None
    assert torch.allclose(made.value, rows.value[:, target, source].sum(0), atol=1e-6)
    assert torch.allclose(made.key, rows.key[:, target, source].sum(0), atol=1e-6)
    assert torch.equal(made.head, per_head.abs().argmax(0))
    assert torch.allclose(made.head_weight, per_head.gather(0, made.head[None])[0], atol=1e-6)


def test_no_rows() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert edge_histogram(make(), none).count.sum() == 0
    assert edge_list(make(), none).weight.shape == (0,)
    assert edge_parts(make(), none, none).value.shape == (0,)
    assert edge_totals(make(), none)[0].shape == (0,)
