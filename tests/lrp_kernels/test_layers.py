"""Kernel, launcher, autograd function: the fast implementation never imports the slow one; triton stays unloaded."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "kernels" / "lrp_kernels"
FAST = sorted(ROOT.glob("*/triton.py"))
SLOW = {"reference", "summed", "streamed"}


def imported(path: Path, *, at_import: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_import else ast.walk(tree)
    found = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return found | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


def test_every_operator_has_both() -> None:
    assert [p.parent.name for p in FAST] == ["attention", "edges", "gated", "norm", "relevance"]
    assert all((p.parent / "reference.py").exists() for p in FAST)


@pytest.mark.parametrize("path", FAST, ids=lambda p: p.parent.name)
def test_the_fast_one_does_not_know_the_slow_one(path: Path) -> None:
    assert not [m for m in imported(path, at_import=False) if m.split(".")[-1] in SLOW]


@pytest.mark.parametrize("path", sorted(set(ROOT.rglob("*.py")) - set(FAST) - {ROOT / "tile.py"}))
def test_nothing_else_loads_triton(path: Path) -> None:
    loaded = {m.split(".")[0] for m in imported(path, at_import=True)}
    assert "triton" not in loaded
    assert not [m for m in imported(path, at_import=True) if m.endswith((".triton", ".tile"))]
