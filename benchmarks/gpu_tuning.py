"""Times launch configurations of the matrix kernels on the GPU at hand: what their tables are chosen from.

    python -m benchmarks.gpu_tuning                        # heads of 64 and 128 numbers, the fastest five of each
    python -m benchmarks.gpu_tuning --kernel "edges, list" --width 128 --tokens 4096 --all

A configuration is (rows, columns, warps, stages). One that is faster is a candidate only: whether it spills on other
targets and variants, `python -m benchmarks.kernels` tells, and `python -m benchmarks.gpu` whether it is right.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_timings import Step, attention_steps, edge_steps, timed
from benchmarks.shapes import Shape

DTYPE = torch.bfloat16
WARM_TOKENS = 512
"""At which a configuration is compiled."""
TABLES = {
    "attention, forward": "FORWARD",
    "attention, dk and dv": "COLUMNS",
    "attention, backward": "ROWS",
    "edges, log-sum-exp": "PLAIN",
    "edges, histogram": "PLAIN",
    "edges, dense": "PLAIN",
    "edges, list": "LISTED",
}
"""Step -> the table that its launch is looked up in; the rows' kernel is timed together with the columns'."""
CONFIGURATIONS = {
    "attention": (*itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3)), (128, 64, 8, 4), (64, 64, 4, 4)),
    "edges": tuple(itertools.product((64, 128), (64, 128), (4, 8), (2, 3))),
}


@dataclass(frozen=True)
class Trial:
    """One configuration of one step; ``chosen``: the one that the table has."""

    kernel: str
    width: int
    rows: int
    columns: int
    warps: int
    stages: int
    chosen: bool = False
    seconds: float | None = None
    error: str = ""


def layer(width: int) -> Shape:
    """Sixteen query heads on eight, as Qwen3-0.6B's, of ``width`` numbers."""
    return Shape(f"heads of {width}", "qwen3", 1, 1024, 3072, 16, 8, width, 1000, tied=True)


def trials(kernel: str, width: int) -> Iterator[Trial]:
    """The chosen configuration first."""
    table = _table(kernel)[_kind()]
    chosen = next(entry[1:] for entry in table if width <= entry[0])
    yield Trial(kernel, width, *chosen, chosen=True)
    for configuration in CONFIGURATIONS[kernel.split(",")[0]]:
        if configuration != chosen:
            yield Trial(kernel, width, *configuration)


def _table(kernel: str) -> dict[str, Any]:
    from lrp_kernels.attention import triton as attention
    from lrp_kernels.edges import triton as edges

    found: dict[str, Any] = getattr(attention if kernel.startswith("attention") else edges, TABLES[kernel])
    return found


def _kind() -> str:
    from lrp_kernels.launch import target_of

    return target_of(torch.empty(0, device="cuda")).kind(DTYPE)


@contextmanager
def _configured(trial: Trial) -> Iterator[None]:
    """Its table holds this configuration alone."""
    table, kind = _table(trial.kernel), _kind()
    before = table[kind]
    table[kind] = ((1 << 16, trial.rows, trial.columns, trial.warps, trial.stages),)
    try:
        yield
    finally:
        table[kind] = before


def _step(trial: Trial, tokens: int) -> Step:
    make = attention_steps if trial.kernel.startswith("attention") else edge_steps
    return next(step for step in make(layer(trial.width), tokens, "cuda", DTYPE) if step[0] == trial.kernel)


def compiled(trial: Trial) -> str:
    """Compile it, into triton's cache on disk, where the timing process finds it; returns what went wrong."""
    try:
        step = _step(trial, WARM_TOKENS)[1]
        with _configured(trial):
            step()
        torch.cuda.synchronize()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kernel", action="append", choices=TABLES, help="default: all")
    parser.add_argument("--width", type=int, action="append", help="of a head (default 64 and 128)")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--jobs", type=int, default=min(16, os.cpu_count() or 1), help="processes that compile")
    parser.add_argument("--all", action="store_true", help="print every configuration, not only the fastest five")
    parser.add_argument("--out", type=Path, help="a JSON file of all trials")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU here. do: run this where `torch.cuda.is_available()` is true", file=sys.stderr)
        return 2
    wanted = [
        trial
        for kernel in options.kernel or TABLES
        for width in options.width or (64, 128)
        for trial in trials(kernel, width)
    ]
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        errors = list(pool.map(compiled, wanted))
    done: list[Trial] = []
    print("| kernel | head | rows | columns | warps | stages | ms | of the chosen |\n|---|---|---|---|---|---|---|---|")
    for _, group in itertools.groupby(zip(wanted, errors, strict=True), lambda x: (x[0].kernel, x[0].width)):
        measured = list(_measured(list(group), options.tokens))
        done += measured
        _print(measured, options.all)
    if options.out:
        options.out.write_text(json.dumps([asdict(trial) for trial in done], indent=1) + "\n")
    return 0


def _measured(group: list[tuple[Trial, str]], tokens: int) -> Iterator[Trial]:
    step = _step(group[0][0], tokens)[1]
    for trial, error in group:
        seconds = None
        if not error:
            with _configured(trial):
                runs, _ = timed(step, 7)
            seconds = runs[len(runs) // 2]
        yield Trial(**{**asdict(trial), "seconds": seconds, "error": error})


def _print(trials: list[Trial], every: bool) -> None:
    timed_ones = sorted((t for t in trials if t.seconds is not None), key=lambda t: t.seconds or 0.0)
    chosen = next((t.seconds for t in timed_ones if t.chosen), None)
    for trial in timed_ones if every else [t for i, t in enumerate(timed_ones) if i < 5 or t.chosen]:
        assert trial.seconds is not None
        ratio = "" if chosen is None else f"{trial.seconds / chosen:.2f}"
        sizes = f"{trial.rows} | {trial.columns} | {trial.warps} | {trial.stages}"
        mark = " (chosen)" if trial.chosen else ""
        print(f"| {trial.kernel} | {trial.width} | {sizes} | {trial.seconds * 1e3:.3f} | {ratio}{mark} |", flush=True)
    failed = [t for t in trials if t.error]
    if failed:
        print(
            f"| {trials[0].kernel} | {trials[0].width} | {len(failed)} do not run: {failed[0].error} | | | | | |",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
