"""The table per module counts what its modules did, forward and backward."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from families import build
from torch import nn

from benchmarks.profiling import ELSEWHERE, named, profile, shares


class Pair(nn.Module):
    """A product that is dear and one that is cheap."""

    def __init__(self) -> None:
        super().__init__()
        self.dear, self.cheap = nn.Linear(1500, 1500, bias=False), nn.Linear(1500, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cheap(torch.tanh(self.dear(x)))


def test_forward_and_backward_go_to_the_module_that_made_them() -> None:
    model, x = Pair(), torch.randn(500, 1500, requires_grad=True)
    model(x).sum().backward()
    with named(model), torch.profiler.profile(profile_memory=True) as made:
        model(x).sum().backward()
    found = shares(made.events())
    assert set(found) == {"dear", "cheap", ELSEWHERE}
    assert found["dear"].calls == found["cheap"].calls == 1
    assert found["dear"].forward > found["cheap"].forward
    assert found["dear"].backward > found["cheap"].backward
    assert found["dear"].megabytes == pytest.approx((500 * 1500 + 1500 * 1500 + 500 * 1500) * 4e-6, rel=0.5)
    assert not model.dear._forward_hooks
    assert not model.dear._forward_pre_hooks


def test_a_model_is_profiled_and_left_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build("llama")
    trace = profile(12, tmp_path, model)
    assert json.loads(trace.read_text())["traceEvents"]
    listing = (tmp_path / "profile.md").read_text()
    assert "model.layers.*.mlp.up_proj" in listing
    assert "model.layers.*.self_attn" in listing
    assert not any(module._forward_hooks for module in model.modules())
