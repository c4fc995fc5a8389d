"""Checks and times every triton kernel on the GPU at hand, in one command.

    python -m benchmarks.gpu                   # writes benchmarks/results/gpu.json

Each kernel is first compared with float64 arithmetic on the same inputs; its error may be a few times that of plain
PyTorch in the same dtype. Only then is it timed, and its time divided by the floor of `benchmarks.roofline`; last a
whole random model is explained: its plain forward, an attribution, a graph.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch

from benchmarks.gpu_checks import SETTINGS, Check, Setting, checks, element_checks, model_checks
from benchmarks.gpu_timings import Timing, ceilings, model_timings, timings
from benchmarks.roofline import LENGTHS

RESULT = Path(__file__).parent / "results" / "gpu.json"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MODEL = "Qwen3-0.6B"
"""What is explained end to end."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, action="append", help=f"lengths to time (default {LENGTHS})")
    parser.add_argument("--repeats", type=int, default=11, help="of a step; fewer of one that takes long")
    parser.add_argument("--checks-only", action="store_true")
    parser.add_argument("--model", default=MODEL, help=f"shape of the model explained end to end (default {MODEL})")
    parser.add_argument(
        "--jobs", type=int, default=min(16, os.cpu_count() or 1), help="processes that compile and check"
    )
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"there is no GPU here: torch {torch.__version__} sees no CUDA or HIP device. "
            "do: run this where `torch.cuda.is_available()` is true; without a GPU `python -m benchmarks.kernels` "
            "compiles every kernel and `pytest tests/lrp_kernels` interprets it",
            file=sys.stderr,
        )
        return 2
    if not _passed(all_checks(options.jobs)):
        print("a check failed: nothing is timed", file=sys.stderr)
        return 1
    if options.checks_only:
        return 0
    lengths = options.tokens or list(LENGTHS)
    measured: list[Timing] = []
    of_layers, of_model = timings(lengths, options.repeats), model_timings(options.model, lengths, options.repeats)
    for row in _printed(chain(ceilings(options.repeats), of_layers, of_model)):
        measured.append(row)
        facts = {**environment(), "rows": [asdict(row) for row in measured]}
        options.out.write_text(json.dumps(facts, indent=1) + "\n")
    return 0


def all_checks(jobs: int) -> Iterator[tuple[str, Check | str]]:
    """(setting, check) of everything, made by several processes, since what takes long is to compile; (setting, error)
    where there was one."""
    work = [(dtype, setting) for dtype in DTYPES for setting in (*SETTINGS, None)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(_checked, work):
            yield from found


def _checked(work: tuple[torch.dtype, Setting | None]) -> list[tuple[str, Check | str]]:
    """The checks of one setting; of what has no head dimensions for None."""
    dtype, setting = work
    name, done = "" if setting is None else str(setting), list[tuple[str, Check | str]]()
    found = chain(element_checks(dtype), model_checks(dtype)) if setting is None else checks(setting, dtype)
    try:
        for check in found:
            done.append((name, check))
    except Exception as error:  # a kernel that does not compile, or a launch that fails: said, and others go on
        done.append((name, f"{dtype}: {type(error).__name__}: {error}\n{traceback.format_exc(limit=-3)}"))
    return done


def _passed(found: Iterable[tuple[str, Check | str]]) -> bool:
    """Print a row per check; whether all hold."""
    print("| kernel | setting | dtype | error | limit | |\n|---|---|---|---|---|---|")
    errors, passed = [], True
    for setting, check in found:
        if isinstance(check, str):
            errors.append(f"{setting} {check}")
            continue
        passed &= check.passed
        verdict = "ok" if check.passed else "FAILED"
        row = (check.kernel, setting, check.dtype, f"{check.error:.2e}", f"{check.limit:.2e}", verdict)
        print(f"| {' | '.join(row)} |", flush=True)
    for error in errors:
        print(error, file=sys.stderr)
    return passed and not errors


def _printed(rows: Iterable[Timing]) -> Iterator[Timing]:
    """Print a row per timing, as it comes."""
    print("\n| kernel | model | tokens | ms | measured / floor | peak MB | runs |\n|---|---|---|---|---|---|---|")
    for row in rows:
        numbers = f"{row.seconds * 1e3:.3f} | {row.times_floor:.2f} | {row.peak_megabytes:.0f} | {row.runs}"
        print(f"| {row.kernel} | {row.model} | {row.tokens:,} | {numbers} |", flush=True)
        yield row


def environment() -> dict[str, str]:
    import triton

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": commit.stdout.strip(),
        "command": "python -m benchmarks.gpu",
        "gate": "the checks of the same command",
    }


if __name__ == "__main__":
    sys.exit(main())
