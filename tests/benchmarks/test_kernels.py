"""The committed table of compiled kernels: complete, without faults, and what a fresh compilation gives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")
from benchmarks import kernels, roofline  # noqa: E402
from benchmarks.shapes import Shape  # noqa: E402

ROOT = Path(__file__).parents[2]
SAMPLE = (
    kernels.Case("edges", "sm_90", "bf16", 16),
    kernels.Case("attention", "sm_80", "bf16", 32),
    kernels.Case("edge parts", "gfx942", "fp16", 64),
    kernels.Case("element", "sm_80", "fp32", 2560),
)


def test_the_table_is_complete_and_without_faults() -> None:
    rows = kernels.committed()
    assert {(r.target, r.dtype, r.width) for r in rows.values() if r.kernel == "edge_tiles_kernel"} == {
        (target, dtype, width) for target in kernels.TARGETS for dtype in kernels.DTYPES for width in kernels.WIDTHS
    }
    assert {r.kernel for r in rows.values()} >= kernels.MATRIX_KERNELS
    assert [row.name for row in rows.values() if row.faults()] == []


def test_faults_are_seen() -> None:
    good = kernels.committed()["edge_tiles_kernel dense sm_90 bf16 128"]
    assert replace(good, spilled=8).faults() == ["spills 8 bytes"]
    assert replace(good, shared=300_000).faults() == ["300000 bytes of shared memory, 232448 there"]
    assert replace(good, products=0).faults() == ["no wgmma.mma_async"]


@pytest.mark.parametrize("case", SAMPLE, ids=lambda c: f"{c.operator} {c.target}")
def test_a_sample_compiles_to_what_is_committed(case: kernels.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")
    if triton.__version__ != kernels.committed_version():
        pytest.skip(f"the table was made with triton {kernels.committed_version()}")
    known = kernels.committed()
    for row in kernels.rows(case):
        assert known[row.name] == row


def test_the_page_is_made_from_the_table() -> None:
    assert kernels.PAGE.read_text() == kernels.page(list(kernels.committed().values()), kernels.environment())


def test_the_floor_of_a_known_shape() -> None:
    model = Shape("one", "llama", 1, 64, 128, 1, 1, 64, 100, tied=False)
    found = {cost.kernel: cost for cost in roofline.costs(model, 4)}
    assert found["edges, dense"].flops == 2 * 2 * 10 * 64  # 10 causal pairs, two products of 64
    assert found["relevance"].bytes == 2 * 4 * 64 * 2 + 4 * 4
    assert found["relevance"].bound == "memory"


def test_without_a_gpu_the_gpu_script_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no GPU here" in done.stderr
