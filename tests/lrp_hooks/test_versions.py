"""Versions of transformers: one place says the range; `instrument` refuses the rest by name, importing never does."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import transformers
from loaded import tiny

from lrp_hooks import instrument
from lrp_hooks.errors import UnsupportedVersionError
from lrp_hooks.instrumentation.compatibility import BELOW, OLDEST, check_transformers

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("version", ["4.57.6", "5.0.0", "6.0.0", "6.1.0.dev0", "10.0"])
def test_other_versions_are_refused_by_name(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr("transformers.__version__", version)
    with pytest.raises(UnsupportedVersionError, match=rf"transformers {version} is not supported.*>=5\.\d+,<6"):
        instrument(model)


@pytest.mark.parametrize(
    "version", [".".join(map(str, (*OLDEST, 0))), "5.99.1", "5.99.0.dev0", transformers.__version__]
)
def test_versions_in_the_range_are_accepted(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", version)
    check_transformers()


def test_the_package_metadata_names_the_same_range() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    oldest, below = (".".join(map(str, version)) for version in (OLDEST, BELOW))
    assert f"transformers>={oldest},<{below}" in dependencies
