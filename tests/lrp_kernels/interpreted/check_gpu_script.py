"""The checks that `benchmarks.gpu` makes before it times anything, run in triton's interpreter on the CPU."""

from __future__ import annotations

import torch

from benchmarks import gpu


def test_its_checks_pass() -> None:
    found = list(gpu.checks(16, torch.float16, tokens=21, device="cpu"))
    assert {check.kernel for check in found} >= {
        "attention, dk",
        "edges, histogram",
        "norm, backward",
        "a model, edges",
    }
    assert [check for check in found if not check.passed] == []


def test_a_wrong_result_fails() -> None:
    exact = torch.ones(3, dtype=torch.float64)
    assert not gpu.compare("x", torch.float32, exact.float() * 1.01, exact.float(), exact).passed
    assert not gpu.compare("x", torch.float32, torch.full((3,), torch.nan), exact.float(), exact).passed
