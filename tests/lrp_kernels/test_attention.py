"""The attention reference: gradcheck where the rule is the plain gradient, and intervals against masks.

Its LRP gradients are compared with dense attention in `interpreted/check_attention.py`, beside the kernels'.
"""

from __future__ import annotations

import pytest
import torch
from lrp_kernels.attention import AttentionRule, Interval, attention
from lrp_kernels.launch import near
from lrp_kernels.rows import BLOCK_BYTES, FEW_ROWS, FEWEST_ROWS, LARGEST_BYTES, rows_at_once
from torch import Tensor

T = 11


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("softcap", [None, 1.5])
def test_with_factors_of_one_it_is_the_plain_gradient(softcap: float | None) -> None:
    rule = AttentionRule(0.4, softcap, slope=False, query=1.0, key=1.0, value=1.0)
    q, k, v = (normal(2, n, T, d).requires_grad_() for n, d in ((4, 3), (2, 3), (2, 5)))
    interval = Interval.causal(T, window=4)
    sinks = normal(4)
    assert torch.autograd.gradcheck(lambda *x: attention(*x, interval, rule, sinks)[0], (q, k, v))


def test_factors_share_the_gradient() -> None:
    interval = Interval.causal(T)
    grads = []
    for factors in ((1.0, 1.0, 1.0), (0.25, 0.125, 0.5), (0.0, 0.0, 1.0)):
        q, k, v = (normal(1, n, T, 4).requires_grad_() for n in (4, 2, 2))
        attention(q, k, v, interval, AttentionRule(0.4, None, True, *factors))[0].square().sum().backward()
        grads.append((q.grad, k.grad, v.grad))
    for whole, part, factor in zip(grads[0], grads[1], (0.25, 0.125, 0.5), strict=True):
        assert torch.allclose(whole * factor, part, rtol=1e-12)
    assert grads[2][:2] == (None, None)
    assert torch.equal(grads[2][2], grads[0][2])


def test_rows_without_columns_give_zeros() -> None:
    q, k, v = (normal(1, 2, T, 4).requires_grad_() for _ in range(3))
    interval = Interval.causal(T).within(torch.tensor(3), torch.tensor(8))
    out, lse = attention(q, k, v, interval, AttentionRule(0.4))
    out.sum().backward()
    for outside in (slice(0, 3), slice(8, None)):
        assert not out[:, :, outside].any()
        assert (lse[:, :, outside] == -torch.inf).all()
        assert not any(x.grad[:, :, outside].any() for x in (q, k, v))
    assert v.grad[:, :, 3:8].all()


def masks() -> dict[str, Tensor]:
    causal = torch.ones(T, T).tril().bool()
    start = torch.where(torch.arange(T) < 5, 0, 5)
    return {
        "causal": causal,
        "window": causal & ~torch.ones(T, T).tril(-3).bool(),
        "left padding": causal & (torch.arange(T) >= 2) & (torch.arange(T) >= 2)[:, None],
        "packed": causal & (torch.arange(T) >= start[:, None]),
        "everything": torch.ones(T, T).bool(),
    }


@pytest.mark.parametrize("name", masks())
def test_intervals_say_what_masks_say(name: str) -> None:
    mask = masks()[name]
    found = Interval.of_mask(mask)
    assert found is not None
    assert torch.equal(found.allowed(torch.arange(T), T), mask)
    batch = Interval.of_mask(torch.stack((mask, masks()["causal"])))
    assert batch is not None
    assert torch.equal(batch.allowed(torch.tensor([2, 7]), T)[0], mask[[2, 7]])


def test_a_mask_with_holes_is_no_interval() -> None:
    holes = masks()["causal"].clone()
    holes[7, 3] = False
    assert Interval.of_mask(holes) is None


def test_intervals_are_made_from_windows_and_bounds() -> None:
    made = Interval.causal(T, window=3)
    assert torch.equal(made.allowed(torch.arange(T), T), masks()["window"])
    start = torch.where(torch.arange(T) < 5, 0, 5)
    packed = Interval.causal(T).within(start, torch.where(torch.arange(T) < 5, 5, T))
    assert torch.equal(packed.allowed(torch.arange(T), T), masks()["packed"])
    padded = Interval.causal(T).within(torch.tensor([[2], [0]]), torch.tensor([[T], [T]]))
    assert torch.equal(padded.allowed(torch.arange(T), T)[0], masks()["left padding"])
    assert torch.equal(padded.allowed(torch.arange(T), T)[1], masks()["causal"])


@pytest.mark.parametrize("size", [1, 3, 4, 16])
@pytest.mark.parametrize("name", masks())
def test_row_ranges_miss_no_row(name: str, size: int) -> None:
    mask = masks()[name]
    interval = Interval.of_mask(mask)
    assert interval is not None
    low, high = interval.row_range(T, size)
    for block, (first, last) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        rows = torch.nonzero(mask[:, block * size : (block + 1) * size].any(1)).flatten()
        if len(rows):
            assert first <= rows[0]
            assert rows[-1] < last
            if name in ("causal", "window", "packed"):  # nor any row too many
                assert (first, last) == (rows[0], rows[-1] + 1)


@pytest.mark.parametrize("heads", [1, 4, 9, 32])
def test_row_blocks_fit_the_cache_and_are_never_a_few_rows_without_need(heads: int) -> None:
    for columns in (1, 100, 1024, 8192, 32_768, 1 << 20):
        size = rows_at_once(heads, columns)
        held = 4 * heads * columns * size
        if size > FEW_ROWS:
            assert held <= BLOCK_BYTES
        else:
            assert size == FEWEST_ROWS or held <= LARGEST_BYTES
            assert size == FEW_ROWS or held + 4 * heads * columns > LARGEST_BYTES


def test_rows_far_apart_are_brought_together() -> None:
    """A tile's offsets are 32 bits wide: 128 rows times the distance of two."""
    close = torch.empty_strided((1, 2, 9, 16), (0, 16, 32, 1), device="meta")
    apart = torch.empty_strided((1, 2, 9, 16), (0, 16, 1 << 24, 1), device="meta")
    assert near(close) is close
    assert near(apart).stride() == (288, 144, 16, 1)
    assert 128 * max(x.stride(-2) for x in (near(close), near(apart))) < 2**31
