"""Which values of an instrumented model still count as the untouched model's, where kernels compute its attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import build, inputs
from lrp_kernels.attention import AttentionRule
from lrp_kernels.attention import attention as operator
from torch import Tensor

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.errors import InstrumentError
from lrp_hooks.instrumentation import verification
from lrp_hooks.instrumentation.noise import attention_noise
from lrp_hooks.rules.attention import fused
from lrp_hooks.structure.probe import probe_inputs

Change = Callable[[AttentionRule], AttentionRule]
OTHERS: dict[str, Change] = {
    "another softcap": lambda rule: replace(rule, softcap=2 * (rule.softcap or 0.0)),
    "no softcap": lambda rule: replace(rule, softcap=None),
    "another scale": lambda rule: replace(rule, scale=2 * rule.scale),
}


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """On a CPU, what a kernel computes: everything but its inputs and its output in float32."""
    monkeypatch.setattr(fused, "attention_backend", lambda *_: "triton")

    def use(change: Change) -> None:
        def attention(q: Tensor, k: Tensor, v: Tensor, interval: Any, rule: AttentionRule, sinks: Any) -> Any:
            wide = operator(q.float(), k.float(), v.float(), interval, change(rule), sinks, backend="reference")
            return wide[0].to(q.dtype), wide[1]

        monkeypatch.setattr(fused, "attention", attention)

    use(lambda rule: rule)
    return use


def gemma2(dtype: torch.dtype, loudness: float = 1.0, **options: Any) -> Any:
    """With scores ``loudness`` times as large: bfloat16 rounds them by as much more."""
    model = build("gemma2", dtype=dtype, **options).requires_grad_(False)
    for block in model.model.layers:
        block.self_attn.q_proj.weight.mul_(loudness)
    return model


def test_a_kernel_may_differ_by_what_the_models_own_rounding_does(kernels: Callable[[Change], None]) -> None:
    model, ids = gemma2(torch.bfloat16, loudness=8.0), inputs("gemma2")
    before = model(input_ids=ids).logits
    scale = float(model(**probe_inputs(model)).logits.abs().max())
    with instrument(model) as lrp:
        assert lrp.value_error > verification.VALUES * scale
        relevance = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7))
        assert relevance.ledger().max() < 0.05
        with lrp.suspended():
            assert torch.equal(model(input_ids=ids).logits, before)
    assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("other", OTHERS)
def test_another_function_is_refused(other: str, dtype: torch.dtype, kernels: Callable[[Change], None]) -> None:
    kernels(OTHERS[other])
    model, ids = gemma2(dtype), inputs("gemma2")
    before = model(input_ids=ids).logits
    with pytest.raises(InstrumentError, match=r"one rounding of its attention changes those by \d\.\d\de-0\d"):
        instrument(model)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_in_float32_no_noise_excuses_a_difference(kernels: Callable[[Change], None]) -> None:
    kernels(lambda rule: replace(rule, scale=1.1 * rule.scale))
    with pytest.raises(InstrumentError, match=r"from the untouched model's\. do: report"):
        instrument(gemma2(torch.float32))


def test_noise_is_a_few_roundings_of_the_dtype_and_the_same_each_time(kernels: Callable[[Change], None]) -> None:
    found = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        model = gemma2(dtype)
        given = probe_inputs(model)
        untouched = model(**given).logits
        with instrument(model) as lrp:
            assert set(lrp.tape.fused.values()) == {dtype}
            found[dtype], again = (attention_noise(lrp, given, untouched) for _ in range(2))
        assert found[dtype] == again
    assert found.pop(torch.float32) == 0.0
    for dtype, noise in found.items():
        assert 1.0 < noise / (torch.finfo(dtype).eps * float(untouched.abs().max())) < 10.0


def test_without_a_kernel_nothing_is_excused() -> None:
    model = gemma2(torch.bfloat16)
    given = probe_inputs(model)
    with instrument(model) as lrp:
        assert lrp.value_error == 0.0
        assert attention_noise(lrp, given, model(**given).logits) == 0.0


def test_a_model_that_is_all_noise_is_refused(
    kernels: Callable[[Change], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernels(OTHERS["no softcap"])
    monkeypatch.setattr(verification, "attention_noise", lambda *_: 100.0)
    with pytest.raises(InstrumentError, match=r"changes those by 1\.00e\+02"):
        instrument(gemma2(torch.bfloat16))
