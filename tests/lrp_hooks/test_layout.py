"""The architecture: imports go one way, importing is free, and no folder shadows a library."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = (
    ("lrp_hooks.cli", "lrp_hooks.__main__"),
    ("lrp_hooks.explorer",),
    ("lrp_hooks.render",),
    ("lrp_hooks.cases",),
    ("lrp_hooks.instrumentation", "lrp_hooks.certificate"),
    ("lrp_hooks.trace", "lrp_hooks.recording.recorder"),
    ("lrp_hooks.graph",),
    ("lrp_hooks.recording.result",),
    ("lrp_hooks.recording.checkpointing", "lrp_hooks.detection", "lrp_hooks.composites"),
    ("lrp_hooks.rules",),
    ("lrp_hooks.recording", "lrp_hooks.sites"),
    ("lrp_hooks.structure", "lrp_hooks.targets", "lrp_hooks.written"),
    ("lrp_hooks.patching", "lrp_hooks.ops"),
    ("lrp_hooks.loading", "lrp_hooks.tokens", "lrp_hooks.segments", "lrp_hooks.relevance", "lrp_hooks.files"),
    ("lrp_hooks.errors", "lrp_kernels"),
)
"""Upper layers import lower ones; the most specific name counts."""


def level(module: str) -> int | None:
    hits = [(len(n), i) for i, names in enumerate(LAYERS) for n in names if module == n or module.startswith(n + ".")]
    return max(hits)[1] if hits else None


def imports(path: Path) -> list[str]:
    tree = ast.parse(path.read_text())
    typing_only = [n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]
    hidden = {id(node) for block in typing_only for node in ast.walk(block)}
    nodes = [node for node in ast.walk(tree) if id(node) not in hidden]
    return [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]


@pytest.mark.parametrize("path", sorted(ROOT.glob("lrp_hooks/**/*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_downwards(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    own = level(name)
    for module in imports(path):
        theirs = level(module)
        if own is not None and theirs is not None and name != "lrp_hooks":
            assert theirs >= own, f"{name} imports {module}, which is above it"


def test_kernels_know_neither_transformers_nor_the_package() -> None:
    for path in ROOT.glob("kernels/**/*.py"):
        assert not [m for m in imports(path) if m.split(".")[0] in ("transformers", "lrp_hooks")], path


def test_no_folder_shadows_a_library() -> None:
    assert not (ROOT / "kernels" / "__init__.py").exists()  # would hide the Hugging Face `kernels` library
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_documents_that_the_code_cites_are_in_the_repository() -> None:
    for folder in ("lrp_hooks", "kernels", "benchmarks", "tests"):
        for path in ROOT.glob(f"{folder}/**/*.py"):
            for name in re.findall(r"\bdocs/[\w-]+\.md\b|\b[A-Z]+\.md\b", path.read_text()):
                assert (ROOT / name).is_file(), f"{path.relative_to(ROOT)} cites {name}"


def test_importing_loads_no_torch_and_names_resolve() -> None:
    code = """
import sys, lrp_hooks, lrp_hooks.cli.app
assert not {"torch", "transformers", "matplotlib", "jinja2"} & set(sys.modules), "importing is not free"
for name in dir(lrp_hooks):
    assert getattr(lrp_hooks, name) is getattr(lrp_hooks, name)
from lrp_hooks import Instrumentation, instrument
assert callable(instrument)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_names_are_attribute_errors() -> None:
    import lrp_hooks

    with pytest.raises(AttributeError, match="no attribute 'instrumented'"):
        lrp_hooks.instrumented  # noqa: B018
