"""Checks and times every triton kernel on the GPU at hand, in one command.

    python -m benchmarks.gpu                   # writes benchmarks/results/gpu.json

Each kernel is first compared with float64 arithmetic on the same inputs; its error may be a few times that of plain
PyTorch in the same dtype. Only then is it timed, and its time divided by the floor of `benchmarks.roofline`; last a
whole random model is explained: its plain forward, an attribution, a graph.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path

import torch

from benchmarks.gpu_checks import SETTINGS, Check, checks, element_checks, model_checks
from benchmarks.gpu_timings import Timing, model_timings, timings
from benchmarks.roofline import LENGTHS

RESULT = Path(__file__).parent / "results" / "gpu.json"
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MODEL, MODEL_LONGEST = "Qwen3-0.6B", 16_384
"""What is explained end to end, and up to which length."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, action="append", help=f"lengths to time (default {LENGTHS})")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--checks-only", action="store_true")
    parser.add_argument("--model", default=MODEL, help=f"shape of the model explained end to end (default {MODEL})")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"there is no GPU here: torch {torch.__version__} sees no CUDA or HIP device. "
            "do: run this where `torch.cuda.is_available()` is true; without a GPU `python -m benchmarks.kernels` "
            "compiles every kernel and `pytest tests/lrp_kernels` interprets it",
            file=sys.stderr,
        )
        return 2
    if not _passed(all_checks()):
        print("a check failed: nothing is timed", file=sys.stderr)
        return 1
    if options.checks_only:
        return 0
    lengths = options.tokens or list(LENGTHS)
    whole = model_timings(options.model, [tokens for tokens in lengths if tokens <= MODEL_LONGEST])
    measured = _measured(chain(timings(lengths, options.repeats), whole))
    RESULT.write_text(json.dumps({**environment(), "rows": [asdict(row) for row in measured]}, indent=1) + "\n")
    return 0


def all_checks() -> Iterator[tuple[str, Check]]:
    """(setting, check) of everything."""
    for dtype in DTYPES:
        for setting in SETTINGS:
            yield from ((str(setting), check) for check in checks(setting, dtype))
        yield from (("", check) for check in chain(element_checks(dtype), model_checks(dtype)))


def _passed(found: Iterable[tuple[str, Check]]) -> bool:
    """Print a row per check; whether all hold."""
    print("| kernel | setting | dtype | error | limit | |\n|---|---|---|---|---|---|")
    passed = True
    for setting, check in found:
        passed &= check.passed
        verdict = "ok" if check.passed else "FAILED"
        row = (check.kernel, setting, check.dtype, f"{check.error:.2e}", f"{check.limit:.2e}", verdict)
        print(f"| {' | '.join(row)} |", flush=True)
    return passed


def _measured(rows: Iterable[Timing]) -> list[Timing]:
    """Print a row per timing, as it comes."""
    print("\n| kernel | model | tokens | ms | measured / floor | peak MB |\n|---|---|---|---|---|---|")
    found = []
    for row in rows:
        found.append(row)
        numbers = f"{row.seconds * 1e3:.3f} | {row.times_floor:.2f} | {row.peak_megabytes:.0f}"
        print(f"| {row.kernel} | {row.model} | {row.tokens:,} | {numbers} |", flush=True)
    return found


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
