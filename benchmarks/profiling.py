"""Where the time and the memory of one attribution with its graph go: a profiler trace, and a table per module.

Modules of repeated blocks are added up (``model.layers.*.mlp``). A backward operation belongs to the module whose
forward made it: the profiler gives both the same sequence number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.measure import load, random_ids
from benchmarks.resume import SCRATCH

MARK = "module: "
ELSEWHERE = "(outside of modules)"


@dataclass
class Share:
    """What one module took. Seconds of CPU, megabytes allocated net of what it freed."""

    forward: float = 0.0
    backward: float = 0.0
    megabytes: float = 0.0
    calls: int = 0


@contextmanager
def named(model: nn.Module) -> Iterator[None]:
    """While open, every module's forward is marked in the profile."""
    handles, open_marks = [], []

    def enter(name: str) -> Any:
        def hook(*_: Any) -> None:
            mark = torch.autograd.profiler.record_function(MARK + name)
            mark.__enter__()
            open_marks.append(mark)

        return hook

    def leave(*_: Any) -> None:
        open_marks.pop().__exit__(None, None, None)

    for path, module in model.named_modules():
        if path:
            handles.append(module.register_forward_pre_hook(enter(re.sub(r"\.\d+(?=\.|$)", ".*", path))))
            handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def shares(events: Sequence[Any]) -> dict[str, Share]:
    """Forward and backward seconds and memory per module, each counted at the innermost module."""
    found: dict[str, Share] = {}
    made_by: dict[int, str] = {}
    for event in events:
        name = _module_of(event)
        if event.name.startswith(MARK):
            found.setdefault(name, Share()).calls += 1
        elif event.cpu_parent is None or event.cpu_parent.name.startswith(MARK):
            if event.name.startswith("autograd::engine"):
                continue
            share = found.setdefault(name, Share())
            share.forward += event.cpu_time_total / 1e6
            share.megabytes += event.cpu_memory_usage / 1e6
        if event.sequence_nr >= 0 and not event.name.startswith("autograd::engine"):
            made_by.setdefault(event.sequence_nr, name)
    for event in events:
        if event.name.startswith("autograd::engine"):
            share = found.setdefault(made_by.get(event.sequence_nr, ELSEWHERE), Share())
            share.backward += event.cpu_time_total / 1e6
            share.megabytes += event.cpu_memory_usage / 1e6
    return found


def _module_of(event: Any) -> str:
    while event is not None:
        if event.name.startswith(MARK):
            return str(event.name.removeprefix(MARK))
        event = event.cpu_parent
    return ELSEWHERE


def lines(found: dict[str, Share]) -> list[str]:
    """Markdown, the slowest first."""
    made = ["| module | calls | forward s | backward s | MB kept |", "|---|---|---|---|---|"]
    for name, share in sorted(found.items(), key=lambda item: -(item[1].forward + item[1].backward)):
        made.append(f"| {name} | {share.calls} | {share.forward:.3f} | {share.backward:.3f} | {share.megabytes:.1f} |")
    return made


def profile(tokens: int, folder: Path = SCRATCH, model: Any = None) -> Path:
    """Profile one attribution and one graph on the demo model; print the table, return the trace's path."""
    from lrp_hooks import LogitDiff, instrument

    model = load() if model is None else model
    ids = random_ids(tokens) % model.config.vocab_size
    with instrument(model, checkpoint=False) as lrp, named(model):
        lrp.trace(input_ids=ids).graph(LogitDiff(), node_threshold=0.0)  # warm
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as made:
            lrp.trace(input_ids=ids).graph(LogitDiff(), node_threshold=0.0)
    folder.mkdir(parents=True, exist_ok=True)
    path, listing = folder / "profile.trace.json", folder / "profile.md"
    made.export_chrome_trace(str(path))
    text = "\n".join(lines(shares(made.events())))
    listing.write_text(text + "\n")
    print(f"{text}\n\n{path}: open it in ui.perfetto.dev or chrome://tracing\n{listing}: this table")
    return path
