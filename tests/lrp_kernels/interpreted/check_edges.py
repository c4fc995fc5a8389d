"""The edge kernels in triton's interpreter against dense float64; run by `test_interpreted.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense import Dense, allowed, close, intervals, normal
from lrp_kernels.attention.interval import Interval
from lrp_kernels.edges import BIN_SHIFT, AttentionCall, listed
from lrp_kernels.edges import triton as kernels
from lrp_kernels.launch import UnsupportedInput, run
from torch import Tensor

H, G, T, D, E = 4, 2, 35, 20, 24
ALL = torch.arange(T)
SOME = torch.tensor([0, 2, 3, 5, 11, 16, 17, 30, 34])
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MASKS = intervals(T)


def make(dtype: torch.dtype, mask: str = "causal", **changes: object) -> tuple[AttentionCall, Dense, Dense]:
    """The call, and the same in float64 and as the independent low-precision reference."""
    first, end = MASKS[mask]
    dense = Dense(
        normal(0, H, T, D), normal(1, G, T, D), normal(2, G, T, E), normal(3, H, T, E), allowed(*MASKS[mask], T), 0.3
    )
    dense = replace(dense, **changes).to(dtype)  # type: ignore[arg-type]
    exact = dense.to(torch.float64)
    k_carry, v_carry = (x if y is None else y for x, y in ((dense.k, dense.k_carry), (dense.v, dense.v_carry)))
    call = AttentionCall(
        dense.q, dense.k, dense.v, dense.o.float(), (exact.o * exact.out()).sum(-1).float(), k_carry, v_carry,
        None, dense.scale, dense.softcap, dense.slope, dense.sinks, dense.factors[2], dense.factors[1],
        interval=None if mask == "causal" else Interval(first, end),
    )  # fmt: skip
    return call, exact, dense


def total(dense: Dense) -> Tensor:
    value, key = dense.edges()
    return (value + key).sum(0)


@pytest.mark.parametrize(
    ("dtype", "mask"),
    [(torch.float32, mask) for mask in MASKS] + [(d, "packed, window") for d in (torch.bfloat16, torch.float16)],
)
def test_tiles_equal_dense_attention(dtype: torch.dtype, mask: str) -> None:
    call, exact, low = make(dtype, mask)
    for rows in (ALL, SOME) if mask in ("causal", "left padding") else (SOME,):
        made = kernels.edge_sums(call, rows)
        columns = made.shape[1]
        close(made, total(low)[rows, :columns], total(exact)[rows, :columns])
        assert not total(exact)[rows, columns:].any()


CASES = {
    "softcap slope": {"softcap": 0.7},
    "softcap derivative": {"softcap": 0.7, "slope": False},
    "sinks": {"sinks": normal(4, H)},
    "both carries": {"k_carry": normal(5, G, T, D), "v_carry": normal(6, G, T, E)},
    "key carry": {"k_carry": normal(5, G, T, D), "softcap": 2.0},
    "cp-lrp": {"factors": (0.0, 0.0, 1.0)},
    "gradient": {"factors": (1.0, 1.0, 1.0), "v_carry": normal(6, G, T, E), "sinks": normal(4, H)},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_options(dtype: torch.dtype, case: str) -> None:
    call, exact, low = make(dtype, "window", **CASES[case])
    close(kernels.edge_sums(call, SOME), total(low)[SOME], total(exact)[SOME])


@pytest.mark.parametrize("heads", [1, H])
def test_masks_given_as_arrays(heads: int) -> None:
    _, exact, _ = make(torch.float32)
    free = normal(7, heads, T, T) > -0.7
    for mask in (free, torch.where(free, normal(8, heads, T, T).float(), -torch.inf), free.expand(H, T, T)):
        call, *_ = make(torch.float32)
        bias = torch.where(mask, 0.0, -torch.inf) if mask.dtype == torch.bool else mask
        wide = replace(exact, allowed=torch.ones(T, T).bool(), bias=bias.double())
        narrow = wide.to(torch.float32)
        call = replace(call, mask=mask, D=(wide.o * wide.out()).sum(-1).float())
        made = kernels.edge_sums(call, SOME)
        close(made, total(narrow)[SOME], total(wide)[SOME])


def test_a_kept_log_sum_exp_is_used() -> None:
    call, exact, low = make(torch.float32, sinks=normal(4, H))
    close(kernels._Tiles(call, SOME).lse, low.lse()[:, SOME], exact.lse()[:, SOME])
    given = replace(call, lse=exact.lse().float(), sinks=None)
    close(kernels.edge_sums(given, SOME), total(low)[SOME], total(exact)[SOME])


@pytest.mark.parametrize(("width", "value_width"), [(16, 16), (80, 16), (24, 96), (128, 64), (1, 3)])
def test_head_dimensions(width: int, value_width: int) -> None:
    wide = {"q": normal(0, H, T, width), "k": normal(1, G, T, width)}
    wide |= {"v": normal(2, G, T, value_width), "o": normal(3, H, T, value_width)}
    call, exact, low = make(torch.float32, **wide)
    close(kernels.edge_sums(call, SOME), total(low)[SOME], total(exact)[SOME])


def test_strides_do_not_matter() -> None:
    call, exact, low = make(torch.float32)
    turned = {n: getattr(call, n).transpose(0, 1).contiguous().transpose(0, 1) for n in ("q", "k")}
    v = call.v.transpose(1, 2).contiguous().transpose(1, 2)  # columns apart
    call = replace(call, **turned, v=v, v_carry=v)
    call = replace(call, k_carry=call.k)
    close(kernels.edge_sums(call, SOME), total(low)[SOME], total(exact)[SOME])


def test_expanded_keys_do_not_matter() -> None:
    k = normal(1, 1, T, D).expand(G, T, D)
    call, exact, low = make(torch.float32, k=k)
    call = replace(call, k=k.float()[:1].expand(G, T, D))
    call = replace(call, k_carry=call.k)
    close(kernels.edge_sums(call, SOME), total(low)[SOME], total(exact)[SOME])


def test_tiny_gradients_keep_their_digits_in_float16() -> None:
    call, exact, low = make(torch.float16)
    small = 2.0**-20
    call = replace(call, o=call.o * small, D=call.D * small)
    close(kernels.edge_sums(call, SOME) / small, total(low)[SOME], total(exact)[SOME])


def test_a_histogram_is_counted_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    call, *_ = make(torch.bfloat16)
    whole, parts = kernels.edge_histogram(call, ALL), []
    monkeypatch.setattr(kernels, "COPIES", 2)
    monkeypatch.setattr(kernels, "COUNTED", 300)  # one tile a copy
    monkeypatch.setattr(kernels, "run", lambda *a, **k: (parts.append(a[1]), run(*a, **k)))
    found = kernels.edge_histogram(call, ALL)
    assert len([grid for grid in parts if len(grid) == 1]) > 1
    assert max(grid[0] for grid in parts if len(grid) == 1) == 2
    assert torch.equal(found.count, whole.count)
    assert torch.equal(found.mass, whole.mass)


def test_entries_of_a_histogram_do_not_overflow() -> None:
    """The most edges that a copy takes, each with all low bits set."""
    low = kernels.COUNTED * 0xFFFF
    entry = (kernels.COUNTED << kernels.LOW_BITS.value) + low
    assert entry < 2**63
    assert entry >> kernels.LOW_BITS.value == kernels.COUNTED
    assert entry & ((1 << kernels.LOW_BITS.value) - 1) == low


@pytest.mark.parametrize(("mask", "rows"), [("causal", ALL), ("right padding", SOME)])
def test_streams_equal_the_dense_tiles(mask: str, rows: Tensor) -> None:
    """Histogram, list and sums, with the diagonal, are those of the same edges made densely."""
    call, *_ = make(torch.bfloat16, mask)
    diagonal = normal(9, T).float()
    plain, dense = kernels.edge_dense(call, rows, T), kernels.edge_dense(call, rows, T, diagonal)
    plain[torch.arange(len(rows)), rows] += diagonal[rows]
    assert torch.equal(dense, plain)
    found = kernels.edge_histogram(call, rows, diagonal)
    size = dense[dense != 0].abs()
    bins = size.view(torch.int32) >> 16
    assert torch.equal(found.count, torch.bincount(bins, minlength=len(found.count)))
    assert torch.allclose(
        found.mass, torch.bincount(bins, size.double(), minlength=len(found.count)), rtol=1e-14, atol=0
    )
    for at_least, expected in ((0.05, 4), (1e9, 5)):
        made = kernels.edge_list(call, rows, diagonal, at_least=at_least, expected=expected)
        row, column = torch.nonzero((dense.abs() >= at_least) & (dense != 0), as_tuple=True)
        assert torch.equal(made.target, rows[row])
        assert torch.equal(made.source, column)
        assert torch.equal(made.weight, dense[row, column])
    row_sums, column_sums = kernels.edge_totals(call, rows, diagonal)
    assert torch.allclose(row_sums, dense.double().sum(1), rtol=1e-5, atol=1e-5)
    assert torch.allclose(column_sums, dense.double().sum(0), rtol=1e-5, atol=1e-5)


def test_the_bins_are_those_of_pruning() -> None:
    from lrp_hooks.graph import prune

    assert (kernels.BINS, BIN_SHIFT) == (prune.BINS, prune.BIN_SHIFT)


def test_the_mass_of_a_bin_is_exact_for_small_and_subnormal_numbers() -> None:
    size = torch.tensor([1e-45, 3e-44, 1.1e-38, 1.2e-38, 0.1, 1.0, 1.0000001, 3e38])
    count, low = torch.zeros(2, kernels.BINS, dtype=torch.int64)
    bits = size.view(torch.int32).long()
    count.index_add_(0, bits >> 16, torch.ones(8, dtype=torch.int64))
    low.index_add_(0, bits >> 16, bits & 0xFFFF)
    expected = torch.zeros(kernels.BINS, dtype=torch.float64).index_add_(0, bits >> 16, size.double())
    assert torch.equal(kernels.mass_of_bins(count, low), expected)


@pytest.mark.parametrize("case", ["both carries", "softcap slope", "cp-lrp", "sinks"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_of_listed_edges(dtype: torch.dtype, case: str) -> None:
    call, exact, low = make(dtype, "window", **CASES[case])
    target = torch.tensor([0, 34, 20, 20, 34, 5, 20])
    source = torch.tensor([0, 34, 19, 20, 31, 9, 2])  # the last two are no edges
    made = kernels.edge_parts(call, target, source)
    value, key = (x[:, target, source] for x in exact.edges())
    narrow = [x[:, target, source] for x in low.edges()]
    close(made.value, narrow[0].sum(0), value.sum(0))
    close(made.key, narrow[1].sum(0), key.sum(0))
    per_head = value + key
    close(
        made.head_weight, narrow[0][made.head, range(7)] + narrow[1][made.head, range(7)], per_head[made.head, range(7)]
    )
    assert torch.allclose(per_head[made.head, range(7)].abs(), per_head.abs().amax(0), rtol=1e-2)
    theirs = listed.edge_parts(call, target, source)
    assert torch.equal(made.head[:5], theirs.head[:5])


def test_no_rows_and_no_edges() -> None:
    call, *_ = make(torch.float32)
    none = torch.zeros(0, dtype=torch.long)
    assert kernels.edge_histogram(call, none).count.sum() == 0
    assert kernels.edge_list(call, none).weight.shape == (0,)
    assert kernels.edge_parts(call, none, none).value.shape == (0,)
    assert kernels.edge_totals(call, none)[0].shape == (0,)


def test_what_the_kernels_do_not_take_is_said() -> None:
    call, *_ = make(torch.float32)
    with pytest.raises(
        UnsupportedInput, match=r"queries, keys and values are float64; the kernels take one of bfloat16"
    ):
        kernels.edge_sums(replace(call, q=call.q.double(), k=call.k.double(), v=call.v.double()), ALL)
    with pytest.raises(UnsupportedInput, match="are bfloat16, float32"):
        kernels.edge_sums(replace(call, v=call.v.bfloat16()), ALL)
    with pytest.raises(UnsupportedInput, match="4 query heads are no multiple of 3 key heads"):
        kernels.edge_sums(replace(call, k=normal(0, 3, T, D).float()), ALL)
