"""The committed table of compiled kernels: complete, without faults, and what a fresh compilation gives."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from lrp_kernels.launch import MAX_WIDTH, Launch, power_of_two

triton = pytest.importorskip("triton")
from benchmarks import fingerprint, kernel_page, kernels, launches, roofline  # noqa: E402
from benchmarks.shapes import Shape  # noqa: E402

ROOT = Path(__file__).parents[2]
DO = "do: make kernels (it compiles what changed, a second a row)"
SAMPLE = {
    launches.Case("attention", "sm_80", "bf16", 32, 32): {
        "attention_forward_kernel sm_80 bf16 32",
        "attention_columns_kernel sm_80 bf16 32",
    },
    launches.Case("attention", "sm_90", "bf16", 64, 64): {
        "attention_forward_kernel softcap, sinks sm_90 bf16 64",
        "attention_rows_kernel sm_90 bf16 64",
    },
    launches.Case("attention", "gfx942", "fp16", 32, 32): {
        "attention_forward_kernel gfx942 fp16 32",
        "attention_columns_kernel gfx942 fp16 32",
    },
    launches.Case("edges", "sm_80", "fp32", 32, 32): {"edge_tiles_kernel sums sm_80 fp32 32"},
    launches.Case("edges", "sm_90", "bf16", 16, 16): {"edge_tiles_kernel dense sm_90 bf16 16"},
    launches.Case("edges", "gfx942", "bf16", 16, 16): {"row_lse_kernel gfx942 bf16 16"},
    launches.Case("edge parts", "gfx942", "fp16", 64, 64): {"edge_parts_kernel gfx942 fp16 64"},
    launches.Case("element", "sm_80", "fp32", 2560, 2560): {"norm_backward_kernel centred sm_80 fp32 2560"},
}
"""Rows by case: each target's attention forward and backward and one of its edge kernels, and each other operator."""


def test_the_table_is_that_of_todays_launches() -> None:
    outdated = kernels.outdated(kernels.committed())
    assert outdated == [], f"{len(outdated)} launches are not as recorded. {DO}"


def test_the_table_is_without_faults() -> None:
    rows = kernels.committed()
    assert {r.kernel for r in rows.values()} >= kernels.MATRIX_KERNELS
    assert [row.name for row in rows.values() if row.faults()] == []


@pytest.mark.parametrize("operator", ["attention", "edges", "edge parts"])
@pytest.mark.parametrize("dtype", launches.DTYPES)
@pytest.mark.parametrize("target", launches.TARGETS)
def test_every_power_of_two_is_compiled_whole_and_padded(operator: str, dtype: str, target: str) -> None:
    of = [c for c in launches.cases() if (c.operator, c.target, c.dtype) == (operator, target, dtype)]
    widest = MAX_WIDTH // 2 if (operator, dtype) == ("attention", "fp32") else MAX_WIDTH
    sizes = {size for size in (16, 32, 64, 128, 256) if size <= widest}
    single = {c.width for c in of if not c.paired}
    assert single >= sizes
    padded = {power_of_two(width) for width in single - sizes}
    assert padded >= ({128, 256} if dtype == "bf16" and operator != "edge parts" else {128})
    assert {c.width for c in of if c.with_options} >= {64, 128}
    if dtype == "bf16" and operator != "edge parts":
        assert any(c.paired for c in of)
        assert any(c.with_options and c.with_extras and c.width == widest for c in of)


def test_faults_are_seen() -> None:
    good = kernels.committed()["edge_tiles_kernel dense sm_90 bf16 128"]
    assert replace(good, spilled=8).faults() == ["spills 8 bytes"]
    assert replace(good, shared=300_000).faults() == ["300000 bytes of shared memory, 232448 there"]
    assert replace(good, products=0).faults() == ["no wgmma.mma_async"]


def test_an_edited_launch_or_kernel_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrp_kernels import tile
    from lrp_kernels.relevance import triton as relevance

    case, known = launches.Case("element", "sm_90", "bf16", 1024, 1024), kernels.committed()
    monkeypatch.setattr(kernels, "cases", lambda: [case])
    known = {row.name: known[row.name] for row in kernels.launched(case)}
    of_relevance = ["relevance_kernel sm_90 bf16 1024"]
    assert kernels.outdated(known) == []
    assert kernels.outdated(known | {"what nothing starts": known[of_relevance[0]]}) == ["what nothing starts"]
    with monkeypatch.context() as patch:  # other blocks
        patch.setattr(relevance, "relevance_launch", lambda _: Launch({"BLOCK_M": 8, "BLOCK_D": 512}, 4, 2))
        assert kernels.outdated(known) == of_relevance
    with monkeypatch.context() as patch:  # another argument: 16 does not divide the width any more
        patch.setattr(relevance, "rows_dense", lambda x: x[..., 1:])
        assert kernels.outdated(known) == of_relevance
    slope = tile.tanh_slope  # a device function that a kernel calls
    try:
        fingerprint.source.cache_clear()
        slope._unsafe_update_src(slope.src.replace("0.04", "0.05"))
        names = kernels.outdated(known)
    finally:
        slope._unsafe_update_src(slope.src.replace("0.05", "0.04"))
        fingerprint.source.cache_clear()
    assert names
    assert {name.split()[0] for name in names} == {"gated_backward_kernel"}


def test_comments_and_docstrings_do_not_count() -> None:
    code = fingerprint._code('def f(x):\n    """What it does."""\n    y = x + 1  # why\n    return y\n')
    assert code == fingerprint._code('def f(x):\n    """Else."""\n\n    # how\n    y = x  +  1\n    return y\n')
    assert code != fingerprint._code('def f(x):\n    """Else."""\n    y = x + 2\n    return y\n')
    assert code != fingerprint._code('def f(x):\n    """Else."""\n    y = x + 1\nreturn y\n')


@pytest.mark.parametrize("case", SAMPLE, ids=lambda c: f"{c.operator} {c.target}")
def test_a_sample_compiles_to_what_is_committed(case: launches.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_ALWAYS_COMPILE", "1")
    made = kernels.environment()["triton"]
    assert triton.__version__ == made, f"triton is {triton.__version__}, the table was made with {made}. {DO}"
    rows, known = kernels.rows(case, SAMPLE[case]), kernels.committed()
    assert {row.name for row in rows} == SAMPLE[case]
    for row in rows:
        assert known[row.name] == row


def test_the_page_is_made_from_the_table() -> None:
    assert kernels.PAGE.read_text() == kernel_page.page(list(kernels.committed().values()), kernels.environment())


def test_the_floor_of_a_known_shape() -> None:
    model = Shape("one", "llama", 1, 64, 128, 1, 1, 64, 100, tied=False)
    found = {cost.kernel: cost for cost in roofline.costs(model, 4)}
    assert found["edges, dense"].flops == 2 * 2 * 10 * 64  # 10 causal pairs, two products of 64
    assert found["relevance"].bytes == 2 * 4 * 64 * 2 + 4 * 4
    assert found["relevance"].bound() == "memory"
    h200 = roofline.chip_of("NVIDIA H200")
    assert found["relevance"].floor(h200) < found["relevance"].floor(roofline.chip_of("NVIDIA H100 80GB HBM3"))
    assert roofline.chip_of("something else").name == "H100"


def test_without_a_gpu_the_gpu_script_says_so() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no GPU here" in done.stderr
