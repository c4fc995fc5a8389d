"""docs/gpu.md, made from what `benchmarks.gpu` measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from textwrap import fill
from typing import Any

from benchmarks.gpu_timings import PEERS
from benchmarks.roofline import PREDICTED, chip_of

Row = Mapping[str, Any]
MODEL_STEPS = ("model, forward", "model, forward and backward", "model, attribution", "model, graph")
AT = ("Qwen3-0.6B", 12_288)
"""Where `PREDICTED` speaks of."""


def page(facts: Mapping[str, Any], launches: Mapping[str, Any]) -> str:
    """Ceilings, kernels, whole models, and the checks that came before; and what was found about launches."""
    rows, chip = facts["rows"], chip_of(facts["device"])
    return PAGE_TEXT.format(
        ceilings="\n".join(_ceilings(rows)), kernels="\n".join(_kernels(rows)), models="\n".join(_models(rows)),
        checks="\n".join(_checks(facts["checks"])), remark=fill(facts.get("remark", ""), 120),
        launches="\n".join(_launches(launches["rows"])), chip=chip.name, peak=f"{chip.peak / 1e12:,.0f}",
        bandwidth=f"{chip.bandwidth / 1e12:.2f}", **{name: facts[name] for name in NAMED},
    )  # fmt: skip


NAMED = ("device", "torch", "triton", "python", "commit", "command")


def _ceilings(rows: list[Row]) -> Iterator[str]:
    yield "| what | ms | times the least |"
    yield "|---|---|---|"
    for row in rows:
        if not row["model"]:
            yield f"| {row['kernel']} | {row['seconds'] * 1e3:.3f} | {row['times_floor']:.2f} |"


def _kernels(rows: list[Row]) -> Iterator[str]:
    yield "| model | tokens | kernel (one layer) | ms | times the least | predicted | torch's, ms | peak, MB |"
    yield "|---|---|---|---|---|---|---|---|"
    peers = {(row["model"], row["tokens"], PEERS[row["kernel"]]): row for row in rows if row["kernel"] in PEERS}
    for row in rows:
        if not row["model"] or row["kernel"] in PEERS or row["kernel"] in MODEL_STEPS:
            continue
        peer = peers.get((row["model"], row["tokens"], row["kernel"]))
        predicted = PREDICTED.get(row["kernel"]) if (row["model"], row["tokens"]) == AT else None
        cells = (
            row["model"], f"{row['tokens']:,}", row["kernel"], f"{row['seconds'] * 1e3:.3f}",
            f"{row['times_floor']:.1f}", "" if predicted is None else f"{predicted:.1f}",
            "" if peer is None else f"{peer['seconds'] * 1e3:.3f}", f"{row['peak_megabytes']:,.0f}",
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _launches(rows: list[Row]) -> Iterator[str]:
    yield "| kernel | head | dtype | launch before | ms | launch now | ms | of before |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        before, now = row["before_seconds"], row["now_seconds"]
        launches = (", ".join(map(str, row[name])) for name in ("before", "now"))
        first, second = (f"{launch} | {took * 1e3:.2f}" for launch, took in zip(launches, (before, now), strict=True))
        yield f"| {row['kernel']} | {row['width']} | {row['dtype']} | {first} | {second} | {now / before:.2f} |"


def _models(rows: list[Row]) -> Iterator[str]:
    yield "| model | tokens | step | s | of forward and backward | times the least | predicted | peak, GB |"
    yield "|---|---|---|---|---|---|---|---|"
    whole = [row for row in rows if row["kernel"] in MODEL_STEPS]
    plain = {(row["model"], row["tokens"]): row["seconds"] for row in whole if row["kernel"] == MODEL_STEPS[1]}
    for row in whole:
        both = plain.get((row["model"], row["tokens"]))
        predicted = PREDICTED[row["kernel"]] if (row["model"], row["tokens"]) == AT else None
        cells = (
            row["model"], f"{row['tokens']:,}", row["kernel"].removeprefix("model, "), f"{row['seconds']:.3f}",
            "" if both is None else f"{row['seconds'] / both:.2f}", f"{row['times_floor']:.1f}",
            "" if predicted is None else f"{predicted:.1f}", f"{row['peak_megabytes'] / 1e3:.1f}",
        )  # fmt: skip
        yield f"| {' | '.join(cells)} |"


def _checks(checks: list[Row]) -> Iterator[str]:
    yield "| kernel | dtype | checks | largest error | of its limit |"
    yield "|---|---|---|---|---|"
    groups: dict[tuple[str, str], list[Row]] = {}
    for check in checks:
        groups.setdefault((check["kernel"], check["dtype"]), []).append(check)
    for (kernel, dtype), found in groups.items():
        worst = max(found, key=lambda check: check["error"] / check["limit"])
        share = worst["error"] / worst["limit"]
        yield f"| {kernel} | {dtype} | {len(found)} | {max(c['error'] for c in found):.1e} | {share:.0%} |"


PAGE_TEXT = """# On a GPU

What the kernels and whole explanations take on a GPU: {device}, torch {torch}, triton {triton}, Python {python},
commit {commit}. This page is written by `{command}`, which checks every kernel first and times nothing if a
check fails. `pytest tests/gpu` compares families, questions and memory budgets with float64 on the CPU.

{remark}

The least time is the larger of FLOPs / {peak} TFLOP/s (bf16) and bytes / {bandwidth} TB/s, as its maker states them
for the {chip}; each tensor read once, each result written once, causal halves skipped ([kernels.md](kernels.md)).
Predictions were written down before the first run on any GPU (`benchmarks/roofline.py`).

## What PyTorch reaches

{ceilings}

## Kernels

One layer, bf16, causal, all rows active; median. Torch's: `scaled_dot_product_attention` on the same inputs, whose
backward pass makes five products where ours, in two kernels, makes seven.

{kernels}

Short kernels are bound by the host: a launch from Python costs some 50 µs, which at 1,536 tokens is all there is, and
which norms and relevance do not leave behind at 12,288. Attention stays behind torch's, which is written for this chip
in CUDA (copies by the tensor memory accelerator, warps that specialise); ours gives what torch's does not have: the
log-sum-exp, intervals, softcaps, sinks, and rules.

## Launches

What `python -m benchmarks.gpu_tuning` is for: rows, columns, warps, stages. Launches that had been chosen by compiling
alone, without spills, and what a GPU chose among those without spills. Backward is dk, dv and dq, with the same launch
for dk and dv.

{launches}

- Warps stack along the rows of what a program keeps, 16 rows each. Launches with more warps than that spill nothing and
  do everything twice: no compiler says so.
- A launch that spills 856 bytes a thread took 1.97 ms for dk and dv with heads of 128, the best without spills 2.10.
  The rule against spills stays: what costs little on one chip may cost much on another.
- The histogram, same launch: one 64-bit addition an edge to one of 64 copies, where there had been two to one copy.

## Whole models

Random weights of a known shape, bf16. Attribution: trace, relevance of every token at every layer; graph: this and all
transitions, default pruning. Both keep activations while they fit.

{models}

At 1,536 tokens all of this is bound by the host: Python starts kernels more slowly than the GPU runs them.

## Checks

Largest error relative to the largest entry of the float64 result; the limit is three times what plain PyTorch commits
in the same dtype and one rounding.

{checks}
"""
