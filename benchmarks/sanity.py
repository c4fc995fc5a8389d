"""Sanity checks of the maps themselves, after arXiv 1810.03292 and 1703.01365.

A map must change when the weights it explains are randomised, and must not change when the same function is computed in
another way: neurons permuted, scales moved between two linear maps, another attention kernel.

    python -m benchmarks.sanity            # the committed result: benchmarks/results/sanity.json
    python -m benchmarks.sanity --smoke    # one prompt; the same limits
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from benchmarks.intervals import spearman
from benchmarks.measure import write_result
from benchmarks.methods import METHODS, Method
from benchmarks.prompts import Prompt, ioi_prompts

PROMPTS, SMOKE_PROMPTS = 8, 1
CHECKED = ("attnlrp", "cp-lrp", "gradient x input")
INVARIANCE = 1e-3
"""Largest change of a map allowed under reparametrisation, as a share of its largest entry. float32 rounds sums in
another order; `tests/benchmarks/test_sanity.py` shows 1e-10 in float64."""

Change = Callable[[Any], None]
"""Alters a copy of the model in place."""


def randomise(blocks: int | None = None) -> Change:
    """Permute the entries of every matrix in the last ``blocks`` blocks (all: None): same values, nothing learned."""

    def change(model: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        layers = list(model.model.layers)
        for layer in layers if blocks is None else layers[len(layers) - blocks :]:
            for weight in layer.parameters():
                if weight.dim() == 2:
                    order = torch.randperm(weight.numel(), generator=generator)
                    weight.data.copy_(weight.data.flatten()[order].view_as(weight))

    return change


def permute_neurons(model: Any) -> None:
    """Neurons of every MLP in another order."""
    generator = torch.Generator().manual_seed(0)
    for layer in model.model.layers:
        mlp = layer.mlp
        order = torch.randperm(mlp.up_proj.weight.shape[0], generator=generator)
        for linear in (mlp.up_proj, mlp.gate_proj):
            for parameter in linear.parameters():
                parameter.data = parameter.data[order].clone()
        mlp.down_proj.weight.data = mlp.down_proj.weight.data[:, order].clone()


def move_scales(model: Any) -> None:
    """A factor from the up to the down projection, from values to the output projection, from keys to queries."""
    for number, layer in enumerate(model.model.layers):
        factor = 2.0 ** (1 + number % 3)  # powers of two round nothing
        mlp, attention = layer.mlp, layer.self_attn
        _scale(mlp.up_proj, factor)
        _scale(attention.v_proj, factor)
        for reader in (mlp.down_proj, attention.o_proj):
            reader.weight.data = reader.weight.data / factor  # its bias is added after what was scaled
        _scale(attention.k_proj, 1 / factor)
        _scale(attention.q_proj, factor)


def _scale(linear: Any, factor: float) -> None:
    for parameter in linear.parameters():
        parameter.data = parameter.data * factor


def eager(model: Any) -> None:
    """Attention written out instead of the fused kernel."""
    model.set_attn_implementation("eager")


CHANGES: dict[str, tuple[bool, Change]] = {
    "last block randomised": (True, randomise(1)),
    "all blocks randomised": (True, randomise()),
    "neurons permuted": (False, permute_neurons),
    "scales moved": (False, move_scales),
    "eager attention": (False, eager),
}
"""What is done -> (whether the function changes, how)."""


def maps(model: Any, method: Method, prompts: Iterable[Prompt]) -> list[Tensor]:
    with method.open(model) as attribute:
        return [attribute(torch.tensor([p.ids]), p.target, p.contrast).double() for p in prompts]


def compare(before: list[Tensor], after: list[Tensor]) -> dict[str, float]:
    """Mean rank correlation of two sets of maps, and the largest difference as a share of the largest entry."""
    pairs = list(zip(before, after, strict=True))
    return {
        "spearman": statistics.mean(spearman(a.tolist(), b.tolist()) for a, b in pairs),
        "change": max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs),
    }


def check(model: Any, method: Method, prompts: list[Prompt]) -> list[dict[str, Any]]:
    """One row per change."""
    before, rows = maps(model, method, prompts), []
    for name, (matters, change) in CHANGES.items():
        other = copy.deepcopy(model)
        change(other)
        row = {"method": method.name, "done": name, "function_changes": matters, "prompts": len(prompts)}
        rows.append(row | compare(before, maps(other, method, prompts)))
    return rows


def faults(rows: Iterable[dict[str, Any]]) -> list[str]:
    """What fails, in words: maps that move with the way of computing, or that survive random weights."""
    found = []
    for row in rows:
        where = f"{row['method']}, {row['done']}"
        if not row["function_changes"] and row["change"] > INVARIANCE:
            found.append(f"{where}: the map changes by {row['change']:.1e} of its largest entry")
        if row["function_changes"] and row["change"] < 0.1:
            found.append(f"{where}: the map stays, to {row['change']:.1e} of its largest entry")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="one prompt, attnlrp only, nothing written")
    options = parser.parse_args()
    from lrp_hooks.loading.demo import load_demo_model

    loaded = load_demo_model()
    loaded.model.requires_grad_(False)
    prompts = list(islice(ioi_prompts(loaded), SMOKE_PROMPTS if options.smoke else PROMPTS))
    rows = []
    print("| method | done | function changes | Spearman | change |\n|---|---|---|---|---|")
    for method in METHODS:
        if method.name in (CHECKED[:1] if options.smoke else CHECKED):
            for row in check(loaded.model, method, prompts):
                rows.append(row)
                cells = f"{row['function_changes']} | {row['spearman']:.2f} | {row['change']:.1e}"
                print(f"| {row['method']} | {row['done']} | {cells} |", flush=True)
    for fault in (wrong := faults(rows)):
        print(fault, file=sys.stderr)
    if not options.smoke:
        write_result("sanity", rows)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
