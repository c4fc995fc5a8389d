"""Fixtures of the tests that run on a GPU; without one they are skipped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from lrp_hooks.ops.backend import set_backend

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drivers and libraries of the machine at hand may warn of what they like: shown, but no failure."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture
def device() -> str:
    """Where the models go: "cuda", or what LRP_HOOKS_TEST_DEVICE says."""
    name = os.environ.get("LRP_HOOKS_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return name


@pytest.fixture
def gpu(device: str) -> str:
    """The same for what only a GPU has."""
    if device != "cuda":
        pytest.skip("needs a GPU's memory or its kernels")
    return device


@pytest.fixture(autouse=True)
def _as_asked(device: str) -> Iterator[None]:
    """float32 means float32 in convolutions too, and the backend that a test asks for is forgotten after it."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    set_backend("auto")
    yield
    set_backend("auto")
    torch.backends.cudnn.allow_tf32 = before
