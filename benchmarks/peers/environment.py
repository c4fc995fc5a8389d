"""An environment per peer: a venv with the versions it wants, which shares this environment's torch.

Packages are installed by pip, pinned and without their dependencies, so that a peer brings neither a second torch nor
gigabytes of CUDA libraries; whatever it needs beyond is found in this environment, behind its own packages.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.resume import SCRATCH

ROOT = Path(__file__).parents[2]
WORKERS = Path(__file__).parent / "workers"
STEADY_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""As `benchmarks.measure.measured_peak`: what a program asks for is counted, not what glibc keeps of it."""
STAMP = "installed.txt"


class PeerError(Exception):
    """A peer that cannot be had or does not run; its words say why."""


@dataclass(frozen=True)
class PeerMethod:
    """One method of a tool.

    Attributes:
        name: the tool's; ours: this project's that it is compared with.
        tolerance: share of the largest score by which the two may differ, where they follow the same rules; else None.
        why: reason for the tolerance, or for there being none.
    """

    name: str
    ours: str
    tolerance: float | None
    why: str


@dataclass(frozen=True)
class Peer:
    """One tool.

    Attributes:
        packages: pinned, installed without dependencies; the first is the tool itself.
        worker: script in ``workers`` that runs inside the environment.
        missing: why the tool cannot be asked, where that is known beforehand.
    """

    name: str
    packages: tuple[str, ...]
    worker: str
    methods: tuple[PeerMethod, ...]
    missing: str = ""

    @property
    def version(self) -> str:
        return self.packages[0].split("==")[1]


def python_of(peer: Peer, folder: Path = SCRATCH / "peers") -> Path:
    """The interpreter of the peer's environment, which is made when it is not there.

    Raises:
        PeerError: the peer cannot be asked; pip failed, with its last line.
    """
    if peer.missing:
        raise PeerError(peer.missing)
    home = folder / peer.name
    python = home / "bin" / "python"
    stamp = home / STAMP
    if stamp.is_file() and stamp.read_text().split() == list(peer.packages):
        return python
    venv.create(home, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run([*pip, *peer.packages], capture_output=True, text=True, check=False)
    if done.returncode:
        raise PeerError(f"pip install {' '.join(peer.packages)}: {last_line(done.stderr)}")
    _share_packages(home)
    stamp.write_text("\n".join(peer.packages))
    return python


def _share_packages(home: Path) -> None:
    """Let the environment find this one's packages, after its own."""
    own = next((home / "lib").glob("python*")) / "site-packages"
    (own / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")


def ask(peer: Peer, request: dict[str, Any], folder: Path = SCRATCH / "peers", limit: float = 1800) -> dict[str, Any]:
    """The worker's answer to a request, both JSON, from a process of its own.

    Args:
        request: ``model`` (its folder), ``method`` (the tool's name), ``prompts`` to attribute, and ``long``: a prompt
            for which memory is measured after these, or None.

    Returns:
        ``versions``; ``results``, per prompt ``value``, ``scores`` and ``seconds``; ``megabytes``.

    Raises:
        PeerError: the worker failed or took too long; its last line.
    """
    python = python_of(peer, folder)
    question, answer = folder / f"{peer.name}.request.json", folder / f"{peer.name}.answer.json"
    question.write_text(json.dumps(request))
    answer.unlink(missing_ok=True)
    command = [str(python), str(WORKERS / peer.worker), str(question), str(answer)]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)} | (STEADY_MEMORY if request["long"] else {})
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False, env=variables)
    except subprocess.TimeoutExpired as error:
        raise PeerError(f"{peer.name} took more than {limit:.0f} s") from error
    if done.returncode or not answer.is_file():
        raise PeerError(f"{peer.name}: {last_line(done.stderr)}")
    result: dict[str, Any] = json.loads(answer.read_text())
    return result


def last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def main() -> int:
    """Make the environments that are named, or all."""
    from benchmarks.peers.tools import PEERS

    names = sys.argv[1:]
    status = 0
    for peer in PEERS:
        if not names or peer.name in names:
            try:
                print(python_of(peer))
            except PeerError as error:
                print(f"{peer.name}: {error}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
