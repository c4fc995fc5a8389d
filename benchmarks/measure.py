"""What every benchmark needs: the demo model, clocks, peak memory of a fresh process, and a result file that says where
it comes from."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
Step = Callable[[], None]
"""What is timed, once."""
Clock = Callable[[], float]
"""Seconds: `time.perf_counter`, or `time.process_time`, which a busy machine hardly moves, for work on one thread."""
Maker = Callable[..., Step]
"""Prepares a step: called with the model and further arguments. A module's function: it is sent to a process."""


def load() -> Any:
    from lrp_hooks.loading.demo import load_demo_model

    model = load_demo_model().model
    model.requires_grad_(False)
    return model


def random_ids(tokens: int) -> Any:
    import torch

    return torch.randint(10, 40_000, (1, tokens), generator=torch.Generator().manual_seed(0))


def seconds(step: Callable[[], object], clock: Clock = time.perf_counter) -> float:
    start = clock()
    step()
    return clock() - start


@dataclass(frozen=True)
class Compared:
    """Pairwise time ratios of two steps."""

    ratio: float
    fastest: float
    spread: tuple[float, float]


def alternating(
    steps: Sequence[Callable[[], object]], rounds: int, clock: Clock = time.perf_counter
) -> list[list[float]]:
    """Seconds of each step per round, after one round that does not count; every second round runs backwards."""
    for step in steps:
        step()
    found: list[list[float]] = [[] for _ in steps]
    for i in range(rounds):
        order = range(len(steps))
        for index in reversed(order) if i % 2 else order:
            found[index].append(seconds(steps[index], clock))
    return found


def compared(above: Sequence[float], below: Sequence[float]) -> Compared:
    """``above`` / ``below``, round by round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return Compared(statistics.median(ratios), min(above) / min(below), (min(ratios), max(ratios)))


def peak(make: Maker, arguments: Sequence[Any], pipe: Any) -> None:
    """Runs in a fresh process: peak resident memory of one step and of the loaded model, in MB."""
    model = load()
    step = make(model, *arguments)
    for parameter in model.parameters():
        parameter.sum()  # touch mapped weights, so that both sides count them
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that loading left
    before = status_megabytes("VmRSS")
    step()
    pipe.send((status_megabytes("VmHWM"), before))


def status_megabytes(name: str) -> float:
    """A field of Linux' /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name + ":"))


def measured_peak(make: Maker, *arguments: Any) -> tuple[float, float]:
    """Peak and base of a fresh process, in MB.

    glibc adapts the size from which it returns memory to the system; what that leaves in its heap differs by 15 %
    between runs of the same program. The size is fixed here, so that what the program asks for is what is counted.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "131072"
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=peak, args=(make, arguments, theirs))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the memory measurement of {make.__name__} ended with status {process.exitcode}")
    result: tuple[float, float] = ours.recv()
    return result


def environment() -> dict[str, Any]:
    """Machine, versions and commit of a run."""
    import torch
    import transformers

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "commit": commit.stdout.strip(),
    }


def circumstances() -> dict[str, Any]:
    """How many threads PyTorch uses, and the machine's load average of the last five minutes: times depend on both."""
    import torch

    return {"threads": torch.get_num_threads(), "load": round(os.getloadavg()[1], 2)}


METRICS_VARIABLE = "LRP_HOOKS_BENCH_METRICS"


def smoke_metrics(name: str, values: dict[str, float]) -> None:
    """Hand a smoke profile's numbers to the runner that started it, if one did; see ``Suite.bounds``."""
    file = os.environ.get(METRICS_VARIABLE)
    if file:
        with Path(file).open("a") as sink:
            sink.write(json.dumps({"suite": name, "values": values}) + "\n")


def write_result(name: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """``results/NAME.json``: rows with machine, versions, threads, load, commit and command."""
    RESULTS.mkdir(exist_ok=True)
    facts = {**environment(), **circumstances(), "command": f"python -m benchmarks.{name}", "rows": rows, **more}
    (RESULTS / f"{name}.json").write_text(json.dumps(facts, indent=1) + "\n")
