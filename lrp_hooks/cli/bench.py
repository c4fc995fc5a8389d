"""``lrp-hooks bench``: the repository's benchmark suites, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lrp_hooks.errors import InputError


def run(suites: tuple[str, ...], smoke: bool, folder: Path | None = None) -> int:
    """Exit status of ``python -m benchmarks`` in the repository.

    Raises:
        InputError: the package was installed without its repository.
    """
    folder = Path(__file__).parents[2] if folder is None else folder
    if not (folder / "benchmarks" / "__main__.py").is_file():
        raise InputError(
            "the benchmarks are in the repository, not in the package. do: clone it and `pip install -e .`"
        )
    command = [sys.executable, "-m", "benchmarks", *suites, *(["--smoke"] if smoke else [])]
    return subprocess.run(command, cwd=folder, check=False).returncode
