"""Edges that are gathered one by one, head by head, against loops over the equations and against whole rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from lrp_kernels.attention import Interval
from lrp_kernels.edges import AttentionCall, edge_parts, edge_rows, head_edges, listed
from torch import Tensor

H, G, T, D_, E_ = 4, 2, 11, 5, 3


def make(**changes: Any) -> AttentionCall:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v, o = normal(H, T, D_), normal(G, T, D_), normal(G, T, E_), normal(H, T, E_)
    call = AttentionCall(q, k, v, o, normal(H, T), k, v, None, 0.4, None, True, None, 0.5, 0.25)
    return replace(call, **changes)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


HOLES = torch.rand(T, T, generator=torch.Generator().manual_seed(2)) < 0.6
HOLES[3] = False  # a row that sees nothing
CALLS = {
    "causal": {},
    "window": {"interval": Interval.causal(T, window=4)},
    "padding": {"interval": Interval.causal(T).within(torch.tensor(2), torch.tensor(9))},
    "mask": {"mask": HOLES[None]},
    "mask of every head": {"mask": torch.stack([HOLES.roll(n, 1) for n in range(H)])},
    "added numbers": {"mask": torch.where(HOLES, random(T, T), -torch.inf)[None]},
    "interval and mask": {"interval": Interval.causal(T, window=6), "mask": HOLES.roll(2, 0)[None]},
    "interval and bias": {"interval": Interval.causal(T, window=6), "mask": random(H, T, T)},
    "softcap, slope": {"softcap": 0.7},
    "softcap, derivative": {"softcap": 0.7, "slope": False},
    "sinks": {"sinks": random(H)},
    "carried": {"k_carry": random(G, T, D_), "v_carry": random(G, T, E_)},
    "no key path": {"key": 0.0},
}


def by_hand(call: AttentionCall, j: int, i: int, h: int) -> tuple[float, float]:
    """Value and key path of one edge of one head: loops over the module's equations, and no tensor operation."""
    g = h // (H // G)

    def dot(a: Tensor, b: Tensor) -> float:
        return math.fsum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))

    def seen(column: int) -> bool:
        if call.interval is not None and not call.interval.first[j] <= column < call.interval.end[j]:
            return False
        if call.mask is not None and call.mask.dtype == torch.bool:
            return bool(call.mask[h if len(call.mask) > 1 else 0, j, column])
        return column <= j if call.mask is None and call.interval is None else True

    def score(column: int) -> float:
        raw = dot(call.q[h, j], call.k[g, column]) * call.scale
        capped = raw if call.softcap is None else call.softcap * math.tanh(raw / call.softcap)
        bias = 0.0
        if call.mask is not None and call.mask.dtype != torch.bool:
            bias = float(call.mask[h if len(call.mask) > 1 else 0, j, column])
        return capped + bias if seen(column) else -math.inf

    sink = [] if call.sinks is None else [math.exp(float(call.sinks[h]))]
    whole = math.fsum([*(math.exp(score(column)) for column in range(T)), *sink])
    weight = math.exp(score(i)) / whole if whole else 0.0
    u = dot(call.q[h, j], call.k[g, i]) * call.scale / (call.softcap or 1.0)
    slope = 1.0 if call.softcap is None else (math.tanh(u) / u if call.slope else 1 - math.tanh(u) ** 2)
    value = call.value * weight * dot(call.o[h, j], call.v_carry[g, i])
    d_score = slope * weight * (dot(call.o[h, j], call.v[g, i]) - float(call.D[h, j]))
    return value, call.key * d_score * call.scale * dot(call.q[h, j], call.k_carry[g, i])


@pytest.mark.parametrize("how", ["gathered", "gathered with a kept sum", "whole rows"])
@pytest.mark.parametrize("name", CALLS)
def test_every_edge_of_every_head_is_what_the_equations_say(
    name: str, how: str, monkeypatch: pytest.MonkeyPatch, few_rows: None
) -> None:
    monkeypatch.setattr(listed, "AT_ONCE", 7 * H * D_)  # several chunks, the last one short
    monkeypatch.setattr(listed, "MANY", 1 << 30 if how == "whole rows" else 0)
    call = make(**CALLS[name])
    if how == "gathered with a kept sum":
        call = replace(call, lse=listed.row_lse(call, torch.arange(T)))
    target, source = (x.flatten() for x in torch.meshgrid(torch.arange(T), torch.arange(T), indexing="ij"))
    made = head_edges(call, target, source)
    assert made.value.shape == made.key.shape == (T * T, H)
    for e in range(T * T):
        for h in range(H):
            value, key = by_hand(call, int(target[e]), int(source[e]), h)
            assert float(made.value[e, h]) == pytest.approx(value, abs=1e-12)
            assert float(made.key[e, h]) == pytest.approx(key, abs=1e-12)


@pytest.mark.parametrize("name", CALLS)
def test_gathering_and_whole_rows_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    call = make(**CALLS[name])
    target, source = torch.tensor([10, 3, 3, 0, 5, 7]), torch.tensor([10, 0, 3, 0, 9, 6])
    monkeypatch.setattr(listed, "MANY", 0)
    gathered = edge_parts(call, target, source)
    monkeypatch.setattr(listed, "MANY", 1 << 30)
    rows = edge_parts(call, target, source)
    for part in ("value", "key", "head_weight"):
        assert torch.allclose(getattr(gathered, part), getattr(rows, part), atol=1e-12)
    assert torch.equal(gathered.head[gathered.head_weight != 0], rows.head[rows.head_weight != 0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    call = make()
    names = ("q", "k", "v", "o", "D", "k_carry", "v_carry")
    low = replace(call, **{name: getattr(call, name).to(dtype) for name in names})
    rows = edge_rows(low, torch.arange(T))
    target, source = torch.tensor([10, 4]), torch.tensor([2, 4])
    made = head_edges(low, target, source)
    assert made.value.dtype == torch.float32
    assert rows.key is not None
    assert torch.allclose(made.value.T, rows.value[:, target, source], atol=1e-5)
    assert torch.allclose(made.key.T, rows.key[:, target, source], atol=1e-5)


def test_a_kept_sum_is_what_weights_are_divided_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listed, "MANY", 0)
    target, source = torch.tensor([10, 4]), torch.tensor([2, 4])
    kept = listed.row_lse(make(), torch.arange(T))
    whole, half = (head_edges(make(lse=kept + by), target, source) for by in (0.0, math.log(2)))
    assert torch.allclose(half.value, whole.value / 2, rtol=1e-12)
    assert torch.allclose(half.key, whole.key / 2, rtol=1e-12)


def test_no_edges_are_no_edges() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert head_edges(make(), none, none).value.shape == (0, H)
    assert edge_parts(make(), none, none).head.shape == (0,)
