"""Checks and times every triton kernel on the GPU at hand, in one command.

    python -m benchmarks.gpu                   # writes benchmarks/results/gpu.json and docs/gpu.md

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
from benchmarks.gpu_page import page
from benchmarks.gpu_timings import Timing, ceilings, model_timings, step_names, timings, warmed
from benchmarks.roofline import LENGTHS, MODELS

RESULT = Path(__file__).parent / "results" / "gpu.json"
LAUNCHES = RESULT.with_name("gpu_launches.json")
"""What `benchmarks.gpu_tuning` found; a run of this command leaves it as it is."""
PAGE = Path(__file__).parent.parent / "docs" / "gpu.md"
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
    parser.add_argument("--page", action="store_true", help="only write docs/gpu.md from what is known")
    options = parser.parse_args()
    if options.page:
        write_page()
        return 0
    if not torch.cuda.is_available():
        print(
            f"there is no GPU here: torch {torch.__version__} sees no CUDA or HIP device. "
            "do: run this where `torch.cuda.is_available()` is true; without a GPU `python -m benchmarks.kernels` "
            "compiles every kernel and `pytest tests/lrp_kernels` interprets it",
            file=sys.stderr,
        )
        return 2
    found = list(_printed_checks(all_checks(options.jobs, None if options.checks_only else options.model)))
    if not all(isinstance(check, Check) and check.passed for _, check in found):
        print("a check failed: nothing is timed", file=sys.stderr)
        return 1
    if options.checks_only:
        return 0
    lengths = options.tokens or list(LENGTHS)
    measured: list[Timing] = []
    of_layers, of_model = timings(lengths, options.repeats), model_timings(options.model, lengths, options.repeats)
    for row in _printed(chain(ceilings(options.repeats), of_layers, of_model)):
        measured.append(row)
        rows = {"checks": _noted(found), "rows": [asdict(row) for row in measured]}
        RESULT.write_text(json.dumps({**environment(), **rows}, indent=1) + "\n")
    write_page()
    return 0


def write_page() -> None:
    """docs/gpu.md, from the results."""
    PAGE.write_text(page(*(json.loads(path.read_text()) for path in (RESULT, LAUNCHES))))


def _noted(found: Iterable[tuple[str, Check | str]]) -> list[dict[str, object]]:
    """Checks as plain data."""
    return [
        {"setting": setting, **asdict(check), "limit": check.limit}
        for setting, check in found
        if isinstance(check, Check)
    ]


def all_checks(jobs: int, model: str | None) -> Iterator[tuple[str, Check | str]]:
    """(setting, check) of everything, made by several processes, since what takes long is to compile; (setting, error)
    where there was one. With a ``model``, what will be timed is compiled as well."""
    work = [(dtype, setting) for dtype in DTYPES for setting in (*SETTINGS, None)]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        warm = [] if model is None else [("model", model), *((n, of.name) for of in MODELS for n in step_names())]
        compiled = [pool.submit(warmed, *item) for item in warm]
        checked = [pool.submit(_checked, item) for item in work]
        for found in checked:
            yield from found.result()
        for done, item in zip(compiled, warm, strict=True):
            if (error := done.exception()) is not None:
                yield item[0], f"{item[1]}: {type(error).__name__}: {error}"


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


def _printed_checks(found: Iterable[tuple[str, Check | str]]) -> Iterator[tuple[str, Check | str]]:
    """Print a row per check, as they come; errors in full."""
    print("| kernel | setting | dtype | error | limit | |\n|---|---|---|---|---|---|")
    for setting, check in found:
        if isinstance(check, str):
            print(f"{setting} {check}", file=sys.stderr, flush=True)
        else:
            verdict = "ok" if check.passed else "FAILED"
            row = (check.kernel, setting, check.dtype, f"{check.error:.2e}", f"{check.limit:.2e}", verdict)
            print(f"| {' | '.join(row)} |", flush=True)
        yield setting, check


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
