"""What `benchmarks.gpu` checks before it times anything, and the steps that it times, in triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from benchmarks import gpu_checks as gpu
from benchmarks import gpu_timings, roofline
from benchmarks.shapes import Shape, random_model

TINY = Shape("tiny", "qwen3", 2, 32, 48, 4, 2, 16, 64, tied=True, qk_norm=True)
KERNELS = {"attention, out", "attention, lse", "attention, dq", "attention, dk", "attention, dv"}
KERNELS |= {"edges, log-sum-exp", "edges, dense", "edges, histogram", "edges, list", "edges, row and column sums"}
KERNELS |= {"edges, parts"}


@pytest.mark.parametrize(
    ("setting", "tokens"),
    [
        (gpu.Setting(16, 16, "padding", sinks=True), 21),
        (gpu.Setting(24, 16, "packed", softcap=True), 15),
        (gpu.Setting(16, 40, "window", softcap=True, sinks=True), 15),
    ],
    ids=str,
)
def test_its_checks_pass(setting: gpu.Setting, tokens: int) -> None:
    found = list(gpu.checks(setting, torch.float16, tokens=tokens, device="cpu"))
    assert {check.kernel for check in found} == KERNELS
    assert [check for check in found if not check.passed] == []


def test_its_checks_of_elements_and_of_a_model_pass() -> None:
    found = [*gpu.element_checks(torch.float16, "cpu"), *gpu.model_checks(torch.float16, "cpu")]
    assert {check.kernel for check in found} >= {"norm, scale", "norm, backward", "a model, edges"}
    assert [check for check in found if not check.passed] == []


def test_its_settings_are_all_that_matters() -> None:
    assert {16, 64, 80, 128, 256} <= {setting.width for setting in gpu.SETTINGS}
    assert any(setting.width != setting.value_width for setting in gpu.SETTINGS)
    assert {setting.mask for setting in gpu.SETTINGS} == {"window", "padding", "packed"}
    wide = [setting for setting in gpu.SETTINGS if setting.width == 256]
    assert any(setting.softcap for setting in wide)
    assert not any(gpu.supported(setting, torch.float32) for setting in wide)
    assert any(setting.sinks for setting in gpu.SETTINGS)


def test_a_wrong_result_fails() -> None:
    exact = torch.ones(3, dtype=torch.float64)
    assert not gpu.compare("x", torch.float32, exact.float() * 1.01, exact.float(), exact).passed
    assert not gpu.compare("x", torch.float32, torch.full((3,), torch.nan), exact.float(), exact).passed


def test_a_row_that_sees_nothing_must_say_so() -> None:
    exact = torch.tensor([1.0, -torch.inf], dtype=torch.float64)
    right, wrong = (gpu._reached(torch.tensor([1.0, x]), exact) for x in (-torch.inf, 0.0))
    exact = gpu._reached(exact, exact)
    assert gpu.compare("x", torch.float32, right, right, exact).passed
    assert not gpu.compare("x", torch.float32, wrong, right, exact).passed


def test_masks_are_what_their_names_say() -> None:
    window, padded, packed = (
        gpu.Setting(16, 16, mask).interval(9, "cpu")
        for mask in ("window", "padding", "packed")  # type: ignore[arg-type]
    )
    assert (window.end - window.first).max() == 4
    assert (padded.end[1] > padded.first[1]).tolist() == [False] * 3 + [True] * 6
    assert packed.first[1].tolist() == [0] * 3 + [3] * 6
    assert (packed.end[1] > packed.first[1]).all()


def test_every_step_runs_and_has_a_floor() -> None:
    steps = dict(gpu_timings.steps(TINY, 19, "cpu", torch.float16))
    floors = {cost.kernel: cost.floor() for cost in roofline.costs(TINY, 19)}
    peers = dict(gpu_timings.peer_steps(TINY, 19, "cpu", torch.float32))
    assert set(peers) == set(gpu_timings.PEERS)
    assert set(gpu_timings.PEERS.values()) <= set(steps)
    assert set(steps) - {"attention, backward"} == set(floors) - {"attention, dq"}
    assert all(seconds > 0 for seconds in floors.values())
    for step in (*steps.values(), *peers.values()):
        assert step() is not None


def test_a_whole_model_is_explained() -> None:
    names = []
    for name, step in gpu_timings.model_steps(random_model(TINY), TINY, 11):
        step()
        names.append(name)
    costs = {cost.kernel: cost for cost in roofline.model_costs(TINY, 11)}
    assert names == list(costs)
    assert costs["model, forward"].flops < costs["model, attribution"].flops < costs["model, graph"].flops
