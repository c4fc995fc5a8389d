"""A peer's scores beside this project's on the same prompts, and what may be concluded."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.intervals import pearson
from benchmarks.methods import METHODS
from benchmarks.peers.environment import Peer, PeerError, ask
from benchmarks.prompts import Prompt

SAME_MODEL = 1e-3
"""Logits by which a peer's value may differ before its model is not the same one."""


def ours(model: Any, name: str, prompts: Sequence[Prompt]) -> tuple[list[list[float]], float]:
    """This project's scores per prompt, and the median seconds of one map."""
    (method,) = (method for method in METHODS if method.name == name)
    scores, seconds = [], []
    with method.open(model) as attribute:
        for prompt in prompts:
            start = time.perf_counter()
            scores.append(attribute(torch.tensor([prompt.ids]), prompt.target, prompt.contrast).tolist())
            seconds.append(time.perf_counter() - start)
    return scores, statistics.median(seconds)


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


def rows_of(
    peer: Peer, answer: dict[str, Any], model: Any, name: str, prompts: Sequence[Prompt]
) -> list[dict[str, Any]]:
    """One row per method of the peer.

    Raises:
        PeerError: its logits are others, so that it did not explain the same model.
    """
    rows = []
    for theirs, own in peer.methods.items():
        found = [result for result in answer["results"] if result["method"] == theirs]
        for result, prompt in zip(found, prompts, strict=True):
            if abs(result["value"] - prompt.difference) > SAME_MODEL:
                raise PeerError(
                    f"{peer.name} explains {result['value']:.3f}, not {prompt.difference:.3f}: another model"
                )
        scores, seconds = ours(model, own, prompts)
        row = {"tool": peer.name, "version": f"{peer.version}, {answer['versions']}", "method": theirs, "ours": own}
        pairs = list(zip((result["scores"] for result in found), scores, strict=True))
        rows.append(
            row
            | {
                "model": name,
                "prompts": len(prompts),
                "same_rules": peer.tolerance is not None,
                "difference": max(relative_difference(a, b) for a, b in pairs),
                "pearson": statistics.mean(pearson(a, b) for a, b in pairs),
                "seconds": statistics.median(result["seconds"] for result in found),
                "our_seconds": seconds,
            }
        )
    return rows


def relative_difference(theirs: Sequence[float], own: Sequence[float]) -> float:
    """Largest difference as a share of our largest score."""
    return max(abs(a - b) for a, b in zip(theirs, own, strict=True)) / max(abs(b) for b in own)


def examine(peer: Peer, model: Any, name: str, files: Path, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """The peer's rows; when it cannot be had, one row that says why."""
    request = {
        "model": str(files),
        "methods": list(peer.methods),
        "prompts": [{"ids": p.ids, "target": p.target, "contrast": p.contrast} for p in prompts],
    }
    try:
        return rows_of(peer, ask(peer, request), model, name, prompts)
    except PeerError as error:
        return [{"tool": peer.name, "version": peer.version, "model": name, "skipped": str(error)}]


def faults(peers: Sequence[Peer], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Methods that should be the same and are not, in words."""
    bounds = {peer.name: peer.tolerance for peer in peers}
    found = []
    for row in rows:
        bound = bounds.get(row["tool"])
        if bound is not None and row.get("difference", 0.0) > bound:
            found.append(f"{row['tool']} {row['method']}: differs by {row['difference']:.1e}, more than {bound:.0e}")
    return found
