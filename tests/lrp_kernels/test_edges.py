"""Edges of one attention call against autograd on a dense attention, one query row at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lrp_kernels.edges import AttentionCall, edge_rows, edge_sums, row_blocks
from torch import Tensor

HEADS, GROUPS, T, D, E = 6, 3, 11, 5, 7


def scores(call: AttentionCall, q: Tensor, k: Tensor) -> Tensor:
    """Masked, capped scores [H, T, T], written out."""
    s = call.scale * torch.einsum("hjd,hid->hji", q, k.repeat_interleave(HEADS // GROUPS, 0))
    if call.softcap is not None:
        s = call.softcap * torch.tanh(s / call.softcap)
    if call.mask is None:
        return s.masked_fill(torch.ones(T, T).triu(1).bool(), -torch.inf)
    return s.masked_fill(~call.mask, -torch.inf) if call.mask.dtype == torch.bool else s + call.mask


def attend(call: AttentionCall, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    s = scores(call, q, k)
    if call.sinks is not None:
        s = torch.cat((s, call.sinks[:, None, None].expand(-1, T, 1)), -1)
    return s.softmax(-1)[..., :T] @ v.repeat_interleave(HEADS // GROUPS, 0)


def expected(call: AttentionCall) -> tuple[Tensor, Tensor]:
    """Value and key path by autograd, [T, T] each: <v_i, d/dv_i> and <k_i, d/dk_i> of <o_j, out_j>, with factors."""
    value, key = torch.zeros(T, T, dtype=torch.float64), torch.zeros(T, T, dtype=torch.float64)
    for j in range(T):
        k, v = (x.clone().requires_grad_() for x in (call.k, call.v))
        flow = (attend(call, call.q, k, v)[:, j] * call.o[:, j]).sum()
        dk, dv = torch.autograd.grad(flow, (k, v))
        value[j] = call.value * (dv * call.v_carry).sum((0, 2))
        key[j] = call.key * (dk * call.k_carry).sum((0, 2))
    return value, key


def make(dtype: torch.dtype = torch.float64, **changes: object) -> AttentionCall:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    q, k, v, o = normal(HEADS, T, D), normal(GROUPS, T, D), normal(GROUPS, T, E), normal(HEADS, T, E)
    call = AttentionCall(q, k, v, o, torch.zeros(HEADS, T), k, v, None, 0.4, None, False, None, 0.5, 0.25)
    call = replace(call, **changes)  # type: ignore[arg-type]
    wide = replace(call, **{n: getattr(call, n).double() for n in ("q", "k", "v", "o")})
    return replace(call, D=(attend(wide, wide.q, wide.k, wide.v) * wide.o).sum(-1))


def assembled(call: AttentionCall, rows: Tensor) -> tuple[Tensor, Tensor]:
    value, key = torch.full((2, T, T), torch.nan, dtype=torch.float64)
    for block in row_blocks(rows, HEADS, T):
        edges = edge_rows(call, block)
        value[block], key[block] = 0.0, 0.0
        value[block, : edges.value.shape[2]] = edges.value.sum(0).double()
        if edges.key is not None:
            key[block, : edges.key.shape[2]] = edges.key.sum(0).double()
    return value, key


WINDOW = torch.ones(T, T).tril().bool() & torch.ones(T, T).triu(-3).bool()
OTHER = torch.randn(GROUPS, T, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CASES = {
    "causal": {},
    "window": {"mask": WINDOW[None]},
    "added mask": {"mask": torch.where(WINDOW, 0.0, -torch.inf).double()[None]},
    "softcap": {"softcap": 0.7},
    "sinks": {"sinks": torch.randn(HEADS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)},
    "other key carry": {"k_carry": OTHER},
    "other value carry": {"v_carry": OTHER @ torch.ones(D, E).double()},
    "no key path": {"key": 0.0},
}
SUMMED = {
    **CASES,
    "softcap slope": {"softcap": 0.7, "slope": True},
    "softcap, sinks": {**CASES["sinks"], "softcap": 1.0},
}


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("case", CASES)
def test_rows_equal_autograd_on_dense_attention(case: str) -> None:
    call = make(**CASES[case])
    for ours, theirs in zip(assembled(call, torch.arange(T)), expected(call), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("rows", [torch.arange(T), torch.tensor([4, 5, 6]), torch.tensor([2, 3, 9]), torch.tensor([0])])
@pytest.mark.parametrize("case", SUMMED)
def test_the_fused_sum_equals_the_heads(case: str, rows: Tensor) -> None:
    call = make(**SUMMED[case])
    before = [x.clone() for x in (call.q, call.k, call.v, call.o, call.D)]
    assert torch.allclose(edge_sums(call, rows), edge_rows(call, rows).total().sum(0), rtol=1e-11, atol=1e-13)
    assert all(torch.equal(x, y) for x, y in zip(before, (call.q, call.k, call.v, call.o, call.D), strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_fused_sum_accumulates_in_float32(dtype: torch.dtype) -> None:
    rows, call = torch.arange(T), make(dtype)
    names = ("q", "k", "v", "o", "k_carry", "v_carry")
    wide = replace(call, **{n: getattr(call, n).double() for n in names})
    assert torch.allclose(edge_sums(call, rows).double(), edge_rows(wide, rows).total().sum(0), rtol=1e-4, atol=1e-5)


def test_only_the_wanted_rows_are_made() -> None:
    rows = torch.tensor([2, 3, 9])
    value, _ = assembled(make(), rows)
    assert torch.isnan(value).all(1).sum() == T - 3
    assert torch.allclose(value[rows], expected(make())[0][rows], rtol=1e-12, atol=1e-13)


def test_the_slope_of_a_softcap_is_its_own_path() -> None:
    call = make(softcap=0.7)
    derivative, slope = edge_rows(call, torch.arange(T)), edge_rows(replace(call, slope=True), torch.arange(T))
    u = call.scale * call.q @ call.k.repeat_interleave(2, 0).transpose(1, 2) / 0.7
    ratio = torch.tanh(u) / u / (1 - torch.tanh(u) ** 2)
    below = torch.ones(T, T).tril(-1).bool()
    assert derivative.key is not None
    assert slope.key is not None
    assert torch.allclose((slope.key / derivative.key)[:, below], ratio[:, below], rtol=1e-9)
    assert torch.equal(slope.value, derivative.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_lower_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    call = make(dtype)
    wide = replace(call, **{n: getattr(call, n).double() for n in ("q", "k", "v", "o", "k_carry", "v_carry")})
    for ours, theirs in zip(assembled(call, torch.arange(T)), expected(wide), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
