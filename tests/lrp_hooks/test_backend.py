"""Which backend runs: decided once, never silently against what was asked for."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from lrp_hooks import ops
from lrp_hooks.errors import BackendError
from lrp_hooks.ops import backend

ROOT = Path(__file__).parents[2]
ON_GPU = cast(Any, SimpleNamespace(is_cuda=True, device="cuda:0", dtype=torch.float32))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_requested", None)
    monkeypatch.setattr(backend, "interpreted", lambda: False)
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    backend._say_once.cache_clear()


def test_auto_runs_triton_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "obstacle", lambda: None)
    assert backend.chosen(torch.zeros(1)) == "reference"
    assert backend.chosen(ON_GPU) == "triton"


def test_auto_says_once_why_it_cannot(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(backend, "obstacle", lambda: "triton cannot be used: ImportError: broken")
    with caplog.at_level(logging.WARNING):
        assert [backend.chosen(ON_GPU) for _ in range(3)] == ["reference"] * 3
    assert [r.message for r in caplog.records] == [
        "plain PyTorch instead of the Triton kernels: triton cannot be used: ImportError: broken"
    ]


def test_auto_leaves_out_what_the_kernels_do_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "obstacle", lambda: None)
    double = cast(Any, SimpleNamespace(is_cuda=True, device="cuda:0", dtype=torch.float64))
    assert backend.chosen(double) == "reference"
    assert backend.chosen(ON_GPU, lambda: "the head dimension is 300; the kernels take up to 256") == "reference"


def test_an_explicit_request_never_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "triton")
    monkeypatch.setattr(backend, "obstacle", lambda: None)
    with pytest.raises(BackendError, match=r"triton was asked for, but the tensors are on cpu \(triton needs a CUDA"):
        ops.relevance_sum(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(BackendError, match="but the head dimension is 300"):
        backend.chosen(ON_GPU, lambda: "the head dimension is 300")
    monkeypatch.setattr(backend, "obstacle", lambda: "triton cannot be used: ImportError: broken")
    with pytest.raises(BackendError, match="but triton cannot be used: ImportError: broken"):
        backend.chosen(ON_GPU)
    with pytest.raises(BackendError, match="triton cannot be used"):
        backend.backend_name()


def test_a_request_is_checked_when_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match="set_backend: no backend is called 'cuda'; choose auto, triton, reference"):
        backend.set_backend("cuda")
    monkeypatch.setattr(backend, "obstacle", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="there is no CUDA or HIP device"):
        backend.set_backend("triton")
    assert backend.requested() == "auto"
    backend.set_backend("reference")
    assert backend.chosen(ON_GPU) == "reference"
    assert backend.backend_name() == "reference"


def test_a_wrong_variable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backend.VARIABLE, "gpu")
    with pytest.raises(BackendError, match="LRP_HOOKS_BACKEND: no backend is called 'gpu'"):
        ops.relevance_sum(torch.zeros(2, 3), torch.zeros(2, 3))


def test_doctor_is_told_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backend.backend_name() == "reference (auto: no CUDA or HIP device)"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backend, "obstacle", lambda: "triton cannot be used: ImportError: broken")
    assert backend.backend_name() == "reference (auto: triton cannot be used: ImportError: broken)"
    monkeypatch.setattr(backend, "obstacle", lambda: None)
    assert backend.backend_name() == "triton on the GPU (auto)"


def python(code: str, **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "kernels"))), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_importing_the_operators_imports_no_triton() -> None:
    said = python(
        "import sys, torch; from lrp_hooks import ops;"
        "x = torch.ones(2, 3); ops.relevance_sum(x, x); print('triton' in sys.modules)"
    )
    assert said == "False\n"


def test_a_broken_triton_leaves_the_reference(tmp_path: Path) -> None:
    (tmp_path / "triton.py").write_text("raise OSError('no such library')\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from lrp_hooks.ops import backend; print(backend.obstacle())"
    )
    assert "triton cannot be used: OSError: no such library" in python(code)


def test_the_interpreter_counts_as_triton() -> None:
    code = (
        "import torch; from lrp_hooks import ops; from lrp_hooks.ops import backend; print(backend.backend_name());"
        "x = torch.ones(2, 3); print(ops.relevance_sum(x, x).tolist())"
    )
    assert python(code, TRITON_INTERPRET="1", LRP_HOOKS_BACKEND="triton") == "triton, interpreted\n[3.0, 3.0]\n"


def test_wide_heads_in_float32_are_left_to_the_reference(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backend, "obstacle", lambda: None)

    def wide(dtype: torch.dtype, width: int) -> Any:
        return SimpleNamespace(is_cuda=True, device="cuda:0", dtype=dtype, shape=(1, 4, 9, width))

    for dtype, width in ((torch.float32, 128), (torch.bfloat16, 256), (torch.float16, 256)):
        assert ops.attention_backend(*[wide(dtype, width)] * 3) == "triton"
    with caplog.at_level(logging.WARNING):
        assert ops.attention_backend(*[wide(torch.float32, 256)] * 3) == "reference"
    assert "the head dimension is 256; the attention kernels take up to 128" in caplog.text
    assert ops.edges_backend(*[wide(torch.float32, 256)] * 3) == "triton"  # the edge kernels go through it in chunks
    monkeypatch.setattr(backend, "_requested", "triton")
    with pytest.raises(BackendError, match="the head dimension is 256"):
        ops.attention_backend(*[wide(torch.float32, 256)] * 3)
