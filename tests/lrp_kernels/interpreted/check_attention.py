"""The attention kernels and their autograd function in triton's interpreter; run by `test_interpreted.py`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from dense import Dense, allowed, close, intervals, normal
from lrp_kernels.attention import AttentionRule, Interval, attention
from lrp_kernels.launch import UnsupportedInput

B, H, G, T, D, E = 2, 4, 2, 35, 20, 24
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MASKS = intervals(T)


def problem(mask: str, batch: int = B, **changes: object) -> list[Dense]:
    """One dense problem per sequence of the batch; the second sequence has another mask."""
    found = []
    for b in range(batch):
        first, end = MASKS[mask if b == 0 else "causal"]
        shapes = ((H, T, D), (G, T, D), (G, T, E), (H, T, E))
        dense = Dense(*(normal(4 * b + i, *shape) for i, shape in enumerate(shapes)), allowed(first, end, T), 0.3)
        found.append(replace(dense, **changes))  # type: ignore[arg-type]
    return found


def interval(mask: str, batch: int) -> Interval:
    pairs = [MASKS[mask if b == 0 else "causal"] for b in range(batch)]
    if batch == 1:
        return Interval(*pairs[0])
    return Interval(torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs]))


def compare(dtype: torch.dtype, mask: str, backend: str = "triton", batch: int = B, **changes: object) -> None:
    lows = [p.to(dtype) for p in problem(mask, batch, **changes)]
    exacts = [p.to(torch.float64) for p in lows]
    one = lows[0]
    q, k, v = (torch.stack([getattr(p, n) for p in lows]).requires_grad_() for n in ("q", "k", "v"))
    query, key, value = one.factors
    rule = AttentionRule(one.scale, one.softcap, one.slope, query, key, value)
    out, lse = attention(q, k, v, interval(mask, batch), rule, one.sinks, backend=backend)  # type: ignore[arg-type]
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    close(out.detach(), torch.stack([p.out() for p in lows]), torch.stack([p.out() for p in exacts]))
    reached = torch.stack([p.lse() for p in exacts]) > -torch.inf
    assert torch.equal(lse == -torch.inf, ~reached)
    close(lse[reached], torch.stack([p.lse() for p in lows])[reached], torch.stack([p.lse() for p in exacts])[reached])
    out.backward(torch.stack([p.o for p in lows]))
    narrow, exact = (list(zip(*(p.gradients() for p in ps), strict=True)) for ps in (lows, exacts))
    for x, factor, low, wide in zip((q, k, v), one.factors, narrow, exact, strict=True):
        if factor:
            assert x.grad is not None
            close(x.grad, torch.stack(low), torch.stack(wide))
        else:
            assert x.grad is None


@pytest.mark.parametrize("mask", MASKS)
def test_masks(mask: str) -> None:
    compare(torch.float32, mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    compare(dtype, "packed, window", batch=1)
    compare(dtype, "left padding", batch=1, softcap=2.0, sinks=normal(50, H))


CASES = {
    "softcap slope": {"softcap": 0.7},
    "softcap derivative": {"softcap": 0.7, "slope": False},
    "sinks": {"sinks": normal(50, H)},
    "cp-lrp": {"factors": (0.0, 0.0, 1.0)},
    "gradient": {"factors": (1.0, 1.0, 1.0), "sinks": normal(50, H), "softcap": 5.0, "slope": False},
}


@pytest.mark.parametrize("case", CASES)
def test_options(case: str) -> None:
    compare(torch.float32, "right padding", batch=1, **CASES[case])


@pytest.mark.parametrize(("width", "value_width"), [(16, 40), (80, 16), (1, 3)])
def test_head_dimensions(width: int, value_width: int) -> None:
    wide = {"q": normal(0, H, T, width), "k": normal(1, G, T, width), "scale": width**-0.5}
    compare(torch.float32, "window", batch=1, **wide, v=normal(2, G, T, value_width), o=normal(3, H, T, value_width))


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("mask", ["packed, window", "left padding"])
def test_dk_and_dv_apart(mask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the widest heads are, over rows that are filled up."""
    from lrp_kernels.attention import triton as kernels

    monkeypatch.setattr(kernels, "APART", frozenset({("interpreter", 32)}))
    compare(torch.float32, mask, softcap=2.0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("case", ["softcap slope", "gradient", "cp-lrp"])
def test_the_reference_equals_dense_attention(case: str, mask: str) -> None:
    compare(torch.float32, mask, "reference", **CASES[case])


def test_strides_do_not_matter() -> None:
    (dense,) = problem("causal", 1)
    q, k = (getattr(dense, n).float().transpose(0, 1).contiguous().transpose(0, 1)[None] for n in ("q", "k"))
    v = dense.v.float().transpose(1, 2).contiguous().transpose(1, 2)[None]
    out, _ = attention(q, k, v, interval("causal", 1), AttentionRule(0.3), backend="triton")
    close(out[0], dense.to(torch.float32).out(), dense.out())


def test_an_empty_sequence() -> None:
    q, k = torch.zeros(1, 2, 0, 16), torch.zeros(1, 1, 0, 16)
    out, lse = attention(q, k, k, Interval.causal(0), AttentionRule(1.0), backend="triton")
    assert (out.shape, lse.shape) == ((1, 2, 0, 16), (1, 2, 0))


def test_what_the_kernels_do_not_take_is_said() -> None:
    q = torch.zeros(1, 2, 4, 300)
    with pytest.raises(UnsupportedInput, match="head dimension is 300; in float32 the kernel takes up to 256"):
        attention(q, q, q, Interval.causal(4), AttentionRule(1.0), backend="triton")
    with pytest.raises(UnsupportedInput, match="are float64"):
        attention(q.double(), q.double(), q.double(), Interval.causal(4), AttentionRule(1.0), backend="triton")
