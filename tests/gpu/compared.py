"""One question on a device and on the CPU in float64, of the same weights, and how far the answers may be apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import pytest
import torch
from dense_graphs import dense
from families import EXPERTS, FAMILIES, VARIANTS, build, exact_float64
from torch import Tensor

from benchmarks.tiny import tiny_model
from lrp_hooks import AttributionGraph, LogitDiff, Relevance, instrument
from lrp_hooks.ops.backend import requested, set_backend

CONTRAST = LogitDiff(5, 7)
WHOLE: Any = {"node_threshold": 0.0, "top_p": 1.0, "connected": False}
"""Every edge of a graph."""
TIMES = {torch.float32: 8.0, torch.float16: 3.0, torch.bfloat16: 3.0}
VACUOUS = {torch.float32: 1e-2, torch.float16: 0.5, torch.bfloat16: 1.0}
ROUNDINGS = 4.0
"""An error may be TIMES as large as ROUNDINGS roundings to the dtype and the largest error of plain PyTorch in the same
dtype on the CPU together. Faults are orders of magnitude larger in float32; half precision allows less of a factor.
A limit that reaches VACUOUS compares nothing, and fails: a part that is nought but for rounding, say."""

Answer = dict[str, Tensor]
Question = Callable[[Any, str], Answer]
"""From an instrumentation and the device that its inputs belong on."""


@dataclass(frozen=True, eq=False)
class Twins:
    """A model in its dtype, and the same weights in float64; both on the CPU."""

    low: Any
    wide: Any

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = next(self.low.parameters()).dtype
        return dtype


def twins(
    name: str,
    dtype: torch.dtype = torch.float32,
    *,
    attention: str | None = None,
    experts: str | None = None,
    **options: Any,
) -> Twins:
    """A row of tests/families.py, with other options of its config where some are given."""
    kind, known = next(table[name] for table in (FAMILIES, VARIANTS, EXPERTS) if name in table)
    with patch.dict(FAMILIES, {name: (kind, {**known, **options})}):
        low = build(name, dtype=dtype, attn_implementation=attention, experts_implementation=experts)
        wide = build(name, attn_implementation=attention)
    return _alike(low.to(dtype), wide)


def tiny_twins(kind: str, dtype: torch.dtype = torch.float32, **options: Any) -> Twins:
    """Any type of transformers, built tiny."""
    return _alike(tiny_model(kind, dtype, **options), tiny_model(kind, torch.float64, **options))


def _alike(low: Any, wide: Any) -> Twins:
    rounded = dict(low.named_parameters())
    for name, parameter in wide.named_parameters():
        parameter.data = rounded[name].detach().double()
    return Twins(low, wide)


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Operators inside run on this backend."""
    before = requested()
    set_backend(name)
    try:
        yield
    finally:
        set_backend(before)


def agree(
    models: Twins, device: str, question: Question, *, backends: tuple[str, ...] = ("auto",), **options: Any
) -> None:
    """Ask on the device, with these options of `instrument`, and compare with the CPU's answer in float64."""
    with exact_float64(), instrument(models.wide) as lrp:
        exact = question(lrp, "cpu")
    with instrument(models.low) as lrp:
        plain = max(errors(question(lrp, "cpu"), exact).values())
    limit = TIMES[models.dtype] * (plain + ROUNDINGS * torch.finfo(models.dtype).eps)
    assert limit < VACUOUS[models.dtype], f"plain PyTorch commits {plain:.1e}: the comparison would say nothing"
    models.low.to(device)
    for name in backends:
        with backend(name), instrument(models.low, **options) as lrp:
            found = errors(question(lrp, device), exact)
        wrong = {part: error for part, error in found.items() if not error <= limit}
        assert not wrong, f"{name} on {device}: {wrong}; the limit is {limit:.1e}, plain PyTorch commits {plain:.1e}"


def errors(ours: Answer, exact: Answer) -> dict[str, float]:
    """Largest error of each part relative to its largest entry, or to a tenth of the largest entry of all parts."""
    assert ours.keys() == exact.keys()
    least = 0.1 * max(float(part.detach().abs().max()) for part in exact.values())
    found = {}
    for name, expected in exact.items():
        mine, expected = ours[name].detach().cpu().double(), expected.detach().double()
        assert mine.shape == expected.shape, name
        assert torch.isfinite(mine).all(), name
        found[name] = float((mine - expected).abs().max() / expected.abs().max().clamp_min(least))
    return found


def skip_unless_it_runs(model: Any, ids: Tensor, device: str) -> None:
    """Skip where the untouched model cannot run: a package or an instruction that the machine lacks."""
    try:
        with torch.no_grad():
            model.to(device)(input_ids=ids.to(device))
    except (ImportError, NotImplementedError) as error:
        pytest.skip(f"the untouched model does not run here: {error}")
    except RuntimeError as error:
        if "grouped_mm" not in str(error):
            raise
        pytest.skip(f"no grouped product here: {error}")
    finally:
        model.to("cpu")


# Answers in parts ----------------------------------------------------------------------------------------------------


def relevance_parts(relevance: Relevance) -> Answer:
    """Every residual point by itself, and the rest as far as it was recorded."""
    parts = {"value": relevance.value, "tokens": relevance.tokens}
    parts |= {f"point {point}": scores for point, scores in enumerate(relevance.layers.unbind(1))}
    if relevance.mid is not None:
        parts["mid"] = relevance.mid
    if relevance.heads is not None:
        parts["heads"] = relevance.heads
    for block, neurons in (relevance.neurons or {}).items():
        parts[f"neurons of block {block}"] = neurons
    if relevance.absorbed is not None:
        parts["absorbed"] = relevance.absorbed.above(0)
    return parts


def edge_parts(graph: AttributionGraph) -> Answer:
    """The edges of every transition by themselves."""
    return {f"edges from point {below}": edges for below, edges in enumerate(dense(graph))}


def explanation(ids: Tensor, target: Any = CONTRAST, *, row: int = 0, **given: Tensor) -> Question:
    """Relevance at every point and all edges of one row, of one trace."""

    def ask(lrp: Any, at: str) -> Answer:
        trace = lrp.trace(input_ids=ids.to(at), **{name: x.to(at) for name, x in given.items()})
        return relevance_parts(trace.attribute(target)) | edge_parts(trace.graph(target, row=row, **WHOLE))

    return ask


def long_llama(dtype: torch.dtype = torch.float32, **options: Any) -> Twins:
    """A llama with biases that takes prompts longer than the kernels' blocks."""
    return twins("llama", dtype, max_position_embeddings=1024, **options)
