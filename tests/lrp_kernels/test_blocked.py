"""PyTorch's flash attention block by block, against the reference that writes weights out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lrp_kernels.attention import AttentionRule, Interval, attention, blocked, reference
from torch import Tensor

T = 37
RULE = AttentionRule(0.4, query=0.25, key=0.125, value=0.5)
INTERVALS = {
    "causal": Interval.causal(T),
    "window": Interval.causal(T, window=5),
    "everything": Interval(torch.zeros(T, dtype=torch.int32), torch.full((T,), T, dtype=torch.int32)),
    "left padding": Interval.causal(T).within(torch.tensor([[9], [0]]), torch.tensor([[T], [T]])),
    "right padding": Interval.causal(T, window=7).within(torch.tensor([[0], [0]]), torch.tensor([[T], [20]])),
    "nothing": Interval.causal(T).within(torch.tensor([[0], [T]]), torch.tensor([[0], [T]])),
}


def normal(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def run(module: object, interval: Interval, groups: int, dtype: torch.dtype, rule: AttentionRule) -> list[Tensor]:
    q, k, v = (normal(2, n, T, 8, dtype=dtype) for n in (6, groups, groups))
    out, lse = module.attention_forward(q, k, v, None, interval, rule)  # type: ignore[attr-defined]
    grad = normal(2, 6, T, 8, dtype=dtype)
    return [out, lse, *module.attention_backward(grad, q, k, v, out, lse, interval, rule)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("groups", [6, 3, 1])
@pytest.mark.parametrize("name", INTERVALS)
def test_blocks_equal_the_reference(name: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "ROWS", 8)
    monkeypatch.setattr(blocked, "MASK_ENTRIES", T * 5)  # fewer rows than that where columns are many
    expected, found = (run(module, INTERVALS[name], groups, torch.float64, RULE) for module in (reference, blocked))
    for a, b in zip(expected, found, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(torch.isinf(a), torch.isinf(b))
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_stays_within_its_noise(dtype: torch.dtype) -> None:
    expected = run(reference, INTERVALS["left padding"], 3, torch.float64, RULE)
    noise = 64 * torch.finfo(dtype).eps
    for a, b in zip(expected, run(blocked, INTERVALS["left padding"], 3, dtype, RULE), strict=True):
        seen = torch.isfinite(a)
        assert (a - b.double())[seen].abs().max() < noise * a[seen].abs().max()


def test_a_factor_of_zero_gives_no_gradient() -> None:
    found = run(blocked, INTERVALS["causal"], 3, torch.float64, AttentionRule(0.4, query=0.0, key=0.0, value=1.0))
    assert found[2] is None
    assert found[3] is None
    assert torch.allclose(found[4], 2 * run(blocked, INTERVALS["causal"], 3, torch.float64, RULE)[4])


def test_a_window_is_asked_for_no_more_columns_than_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocked, "ROWS", 8)
    for rows, columns, mask, _ in blocked._blocks(INTERVALS["window"], torch.float32):
        assert columns.start == max(0, rows.start - 4)
        assert columns.stop == rows.stop
        assert mask.shape[-1] == columns.stop - columns.start


def test_the_operator_takes_blocks_where_they_know_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = list[str]()
    for module in (blocked, reference):
        name, plain = module.__name__.rsplit(".", 1)[1], module.attention_forward
        monkeypatch.setattr(module, "attention_forward", lambda *a, n=name, f=plain: calls.append(n) or f(*a))
    q, wide = normal(2, 6, T, 8), normal(2, 6, T, 5)
    interval = INTERVALS["causal"]
    attention(q, q, q, interval, RULE)
    attention(q, q, q, interval, RULE, normal(6))
    attention(q, q, wide, interval, RULE)
    attention(q, q, q, interval, AttentionRule(0.4, 2.0))
    assert calls == ["blocked", "reference", "reference", "reference"]


@pytest.mark.parametrize("module", [reference, blocked], ids=["reference", "blocked"])
@pytest.mark.parametrize("name", ["causal", "window", "left padding"])
@pytest.mark.parametrize("groups", [6, 2])
def test_rows_without_a_gradient_are_left_out_exactly(
    module: Any, name: str, groups: int, few_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked, "ROWS", few_rows)
    q, k, v, grad = (normal(2, n, T, 8) for n in (6, groups, groups, 6))
    out, lse = module.attention_forward(q, k, v, None, INTERVALS[name], RULE)
    explained = 14  # in a block of its own with three rows that have no gradient
    grad[:, :, :explained], grad[:, :, explained + 1 :] = 0.0, 0.0
    said = list[bool]()
    made = []
    for answer in (module.takes_part, lambda rows: True):
        monkeypatch.setattr(module, "takes_part", lambda rows, a=answer: said.append(a(rows)) or said[-1])
        made.append(module.attention_backward(grad, q, k, v, out, lse, INTERVALS[name], RULE))
    for left_out, all_of_them in zip(*made, strict=True):
        assert torch.equal(left_out, all_of_them)
        assert left_out.any()
    blocks, per_row = -(-T // few_rows), 2 * (groups if module is reference else 1)
    assert len(said) == 2 * blocks * per_row
    assert said[: blocks * per_row].count(True) == per_row
