"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True, scope="session")
def _quiet_transformers() -> None:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="session")
def demo() -> Any:
    """The demo model, loaded once: has ``.model`` and ``.tokenizer``."""
    from lrp_hooks.demo_model import load_demo_model

    return load_demo_model()


@pytest.fixture
def demo_lrp(demo: Any) -> Iterator[Any]:
    """The demo model, instrumented with AttnLRP for one test."""
    from lrp_hooks import instrument

    with instrument(demo.model) as lrp:
        yield lrp
