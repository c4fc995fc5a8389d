"""This tree against another commit: the same measurements, the other commit's library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from benchmarks.run import ROOT, regressions, smoke_numbers
from benchmarks.suites import Suite

LIBRARY = ("lrp_hooks", "kernels")


def compare(suites: Sequence[Suite], commit: str) -> int:
    """Smoke profiles with the library of ``commit`` and with this tree's, one after the other on this machine.

    Both are measured by this tree's benchmarks. Exit status: 1 when a number got worse than its noise allows; 2 when
    there is no such commit.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        try:
            unpack(commit, folder)
        except ValueError as error:
            print(error, file=sys.stderr)
            return 2
        path = os.pathsep.join((str(folder), str(folder / "kernels")))
        print(f"# {commit}")
        before = smoke_numbers(suites, folder, PYTHONPATH=path).numbers
    print("\n# this tree")
    found = smoke_numbers(suites)
    after = found.numbers
    print(f"\n| suite | number | {commit} | this tree | change |\n|---|---|---|---|---|")
    for suite, values in after.items():
        for name, value in values.items():
            known = before.get(suite, {}).get(name)
            cells = f"{known:.3f} | {value:.3f} | {value / known - 1:+.1%}" if known else f" | {value:.3f} | "
            print(f"| {suite} | {name} | {cells} |")
    wrong = regressions(suites, after, before)
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong) or not found.good)


def unpack(commit: str, folder: Path) -> None:
    """The library of ``commit`` and this tree's benchmarks, side by side. Touches nothing of the repository.

    Raises:
        ValueError: git knows no such commit.
    """
    done = subprocess.run(["git", "archive", commit, *LIBRARY], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"{commit}: {done.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    shutil.copytree(ROOT / "benchmarks", folder / "benchmarks")
