"""A peer's scores beside this project's on the same prompts, and what may be concluded."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.intervals import mean_interval, pearson
from benchmarks.measure import Step, measured_peak
from benchmarks.peers.environment import Peer, PeerError, PeerMethod, ask
from benchmarks.peers.own import own
from benchmarks.prompts import Prompt
from benchmarks.removal import removal

SAME_MODEL = 1e-3
"""Logits by which a peer's value may differ before its model is not the same one."""


@dataclass(frozen=True)
class Subject:
    """What all tools explain.

    Attributes:
        name: of the model; files: its folder, as peers load it.
        prompts: attributed and compared; long: one for which memory is measured.
        blank: the token that stands in for a removed one.
    """

    model: Any
    name: str
    files: Path
    prompts: Sequence[Prompt]
    long: Prompt
    blank: int


def ours(model: Any, name: str, prompts: Sequence[Prompt]) -> tuple[list[list[float]], float]:
    """This project's scores per prompt, and the median seconds of one map."""
    scores, seconds = [], []
    with own(name).open(model) as attribute:
        for prompt in prompts:
            start = time.perf_counter()
            scores.append(attribute(torch.tensor([prompt.ids]), prompt.target, prompt.contrast).tolist())
            seconds.append(time.perf_counter() - start)
    return scores, statistics.median(seconds)


def one_map(model: Any, name: str, first: Prompt, long: Prompt) -> Step:
    """For a fresh process: one short map is made, the step makes a long one."""
    opened = ExitStack()
    attribute = opened.enter_context(own(name).open(model))
    attribute(torch.tensor([first.ids]), first.target, first.contrast)
    return partial(_attributed, opened, attribute, long)


def _attributed(_opened: ExitStack, attribute: Any, prompt: Prompt) -> None:
    """``_opened``: keeps the method open until the process ends."""
    attribute(torch.tensor([prompt.ids]), prompt.target, prompt.contrast)


def our_megabytes(name: str, first: Prompt, long: Prompt) -> float:
    """What one map of the long prompt adds to the memory of a process that has made a short one."""
    peak, before = measured_peak(one_map, name, first, long)
    return peak - before


def older_folder(model_folder: Path, folder: Path) -> Path:
    """The model's files with a config that transformers 4 understands too: it reads ``rope_theta`` at the top level."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in model_folder.iterdir():
        link = folder / file.name
        if file.name != "config.json":
            link.unlink(missing_ok=True)
            link.symlink_to(file)
    config = json.loads((model_folder / "config.json").read_text())
    config.setdefault("rope_theta", config.get("rope_parameters", {}).get("rope_theta", 10_000.0))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def row_of(peer: Peer, method: PeerMethod, answer: dict[str, Any], subject: Subject) -> dict[str, Any]:
    """One method of the peer beside ours.

    Raises:
        PeerError: its logits are others, so that it did not explain the same model.
    """
    found, prompts = answer["results"], subject.prompts
    for result, prompt in zip(found, prompts, strict=True):
        if abs(result["value"] - prompt.difference) > SAME_MODEL:
            raise PeerError(f"{peer.name} explains {result['value']:.3f}, not {prompt.difference:.3f}: another model")
    scores, seconds = ours(subject.model, method.ours, prompts)
    theirs = [result["scores"] for result in found]
    pairs = list(zip(theirs, scores, strict=True))
    return {
        "tool": peer.name,
        "version": f"{peer.version}, {answer['versions']}",
        "method": method.name,
        "ours": method.ours,
        "model": subject.name,
        "prompts": len(prompts),
        "same_rules": method.tolerance is not None,
        "difference": max(relative_difference(a, b) for a, b in pairs),
        "pearson": statistics.mean(pearson(a, b) for a, b in pairs),
        "seconds": statistics.median(result["seconds"] for result in found),
        "our_seconds": seconds,
        "remark": method.why,
        **faithfulness(subject, theirs, scores),
    }


def faithfulness(subject: Subject, theirs: Sequence[list[float]], scores: Sequence[list[float]]) -> dict[str, Any]:
    """Area between the curves of removing the least and the most relevant tokens first, of both maps.

    ``gap_interval`` is that of ours less theirs, prompt by prompt.
    """

    def gap(prompt: Prompt, one: list[float]) -> float:
        return removal(subject.model, prompt, torch.tensor(one), subject.blank).gap

    gaps = [[gap(p, one) for p, one in zip(subject.prompts, maps, strict=True)] for maps in (theirs, scores)]
    _, low, high = mean_interval([b - a for a, b in zip(*gaps, strict=True)])
    return {"gap": statistics.mean(gaps[0]), "our_gap": statistics.mean(gaps[1]), "gap_interval": [low, high]}


def relative_difference(theirs: Sequence[float], own: Sequence[float]) -> float:
    """Largest difference as a share of our largest score."""
    return max(abs(a - b) for a, b in zip(theirs, own, strict=True)) / max(abs(b) for b in own)


def examine(peer: Peer, subject: Subject) -> list[dict[str, Any]]:
    """The peer's rows; when it cannot be had, one row that says why."""
    if peer.missing:
        return [_absent(peer, subject, peer.missing)]
    rows = []
    for method in peer.methods:
        try:
            rows.append(examine_method(peer, method, subject))
        except PeerError as error:
            rows.append(_absent(peer, subject, str(error)) | {"method": method.name})
    return rows


def examine_method(peer: Peer, method: PeerMethod, subject: Subject) -> dict[str, Any]:
    """Scores and time on all prompts; memory, which wants another heap, on the long one in a second process.

    Raises:
        PeerError: the peer failed or explained another model.
    """
    request = {"model": str(subject.files), "method": method.name, "long": None}
    row = row_of(peer, method, ask(peer, request | {"prompts": [asked(p) for p in subject.prompts]}), subject)
    first = subject.prompts[0]
    answer = ask(peer, request | {"prompts": [asked(first)], "long": asked(subject.long)})
    memory = {"megabytes": answer["megabytes"], "our_megabytes": our_megabytes(method.ours, first, subject.long)}
    return row | memory | {"long_tokens": len(subject.long.ids)}


def asked(prompt: Prompt) -> dict[str, Any]:
    return {"ids": prompt.ids, "target": prompt.target, "contrast": prompt.contrast}


def _absent(peer: Peer, subject: Subject, why: str) -> dict[str, Any]:
    return {"tool": peer.name, "version": peer.version, "model": subject.name, "skipped": why, "remark": why}


def faults(peers: Sequence[Peer], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Methods that should be the same and are not, in words."""
    bounds = {(peer.name, method.name): method.tolerance for peer in peers for method in peer.methods}
    found = []
    for row in rows:
        bound = bounds.get((row["tool"], row.get("method", "")))
        if bound is not None and row.get("difference", 0.0) > bound:
            found.append(f"{row['tool']} {row['method']}: differs by {row['difference']:.1e}, more than {bound:.0e}")
    return found
