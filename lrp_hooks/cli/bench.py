"""``lrp-hooks bench``: the repository's benchmark suites, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lrp_hooks.errors import InputError


def run(
    suites: tuple[str, ...],
    smoke: bool,
    folder: Path | None = None,
    *,
    profile: bool = False,
    base: str | None = None,
    resume: bool = False,
    report: bool = False,
) -> int:
    """Exit status of ``python -m benchmarks`` in the repository, with the options of the same names.

    Raises:
        InputError: the package was installed without its repository.
    """
    folder = Path(__file__).parents[2] if folder is None else folder
    if not (folder / "benchmarks" / "__main__.py").is_file():
        raise InputError(
            "the benchmarks are in the repository, not in the package. do: clone it and `pip install -e .`"
        )
    flags = {"--smoke": smoke, "--profile": profile, "--resume": resume, "--report": report}
    words = [flag for flag, wanted in flags.items() if wanted] + ([f"--base={base}"] if base else [])
    return subprocess.run([sys.executable, "-m", "benchmarks", *suites, *words], cwd=folder, check=False).returncode
