"""Each triton kernel on one layer of a model, and a whole model explained: steps to time, named as in the roofline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from lrp_kernels import gated, norm, relevance
from lrp_kernels.attention import AttentionRule, Interval

from benchmarks.gpu_checks import edge_call, normal
from benchmarks.roofline import MODELS, PARTS, costs, model_costs
from benchmarks.shapes import Shape, random_model, whole

DENSE_LIMIT = 16_384
"""Tokens above which the dense n x n output is not made."""
FEW = 3
"""Runs of what takes seconds."""
Step = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Timing:
    """Median of several runs."""

    kernel: str
    model: str
    tokens: int
    seconds: float
    floor: float
    times_floor: float
    peak_megabytes: float


def timed(step: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds and peak memory in MB beyond what was there."""
    step(), step()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    found = []
    for _ in range(repeats):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        step()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1e3)
    return sorted(found)[len(found) // 2], (torch.cuda.max_memory_allocated() - before) / 1e6


def timings(lengths: list[int], repeats: int) -> Iterator[Timing]:
    """Kernel by kernel, for each model of the roofline."""
    for model in MODELS:
        for tokens in lengths:
            floors = {cost.kernel: cost.seconds for cost in costs(model, tokens)}
            floors["attention, backward"] = floors["attention, dk and dv"] + floors["attention, dq"]
            for name, step in steps(model, tokens):
                seconds, peak = timed(step, repeats if tokens < 100_000 else FEW)
                yield Timing(name, model.name, tokens, seconds, floors[name], seconds / floors[name], peak)
            torch.cuda.empty_cache()


def model_timings(name: str, lengths: list[int]) -> Iterator[Timing]:
    """A random model of this shape in bfloat16, end to end."""
    shape = whole(name)
    model = random_model(shape).to("cuda", torch.bfloat16)
    for tokens in lengths:
        floors = {cost.kernel: cost.seconds for cost in model_costs(shape, tokens)}
        for step_name, step in model_steps(model, shape, tokens):
            seconds, peak = timed(step, FEW)
            yield Timing(step_name, name, tokens, seconds, floors[step_name], seconds / floors[step_name], peak)
        torch.cuda.empty_cache()


def steps(model: Shape, tokens: int, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> Iterator[Step]:
    """Everything that has a floor, all rows active."""
    yield from _attention_steps(model, tokens, device, dtype)
    yield from _edge_steps(model, tokens, device, dtype)
    yield from _element_steps(model, tokens, device, dtype)


def _attention_steps(model: Shape, tokens: int, device: str, dtype: torch.dtype) -> Iterator[Step]:
    from lrp_kernels.attention import triton as kernels

    q, o = (normal(1, model.heads, tokens, model.head, dtype=dtype, device=device) for _ in range(2))
    k, v = (normal(1, model.groups, tokens, model.head, dtype=dtype, device=device) for _ in range(2))
    interval, rule = Interval.causal(tokens, device=device), AttentionRule(model.head**-0.5)
    out, lse = kernels.attention_forward(q, k, v, None, interval, rule)
    D = relevance.relevance_sum(o, out, backend="triton")
    yield "attention, forward", lambda: kernels.attention_forward(q, k, v, None, interval, rule)
    only = replace(rule, query=0.0)
    yield "attention, dk and dv", lambda: kernels.attention_backward(o, q, k, v, D, lse, interval, only)
    yield "attention, backward", lambda: kernels.attention_backward(o, q, k, v, D, lse, interval, rule)


def _edge_steps(model: Shape, tokens: int, device: str, dtype: torch.dtype) -> Iterator[Step]:
    from lrp_kernels.edges import triton as kernels

    q, o = (normal(model.heads, tokens, model.head, dtype=dtype, device=device) for _ in range(2))
    k, v = (normal(model.groups, tokens, model.head, dtype=dtype, device=device) for _ in range(2))
    rows, interval = torch.arange(tokens, device=device), Interval.causal(tokens, device=device)
    call = edge_call(q, k, v, o, interval)
    call = replace(call, lse=kernels.row_lse(call, rows))
    yield "edges, log-sum-exp", lambda: kernels.row_lse(call, rows)
    if tokens <= DENSE_LIMIT:
        yield "edges, dense", lambda: kernels.edge_sums(call, rows)
    yield "edges, histogram", lambda: kernels.edge_histogram(call, rows)
    yield "edges, list", lambda: kernels.edge_list(call, rows, at_least=0.5)
    yield "edges, row and column sums", lambda: kernels.edge_totals(call, rows)
    target = rows.repeat_interleave(PARTS)
    source = (torch.rand(len(target), device=device) * (target + 1)).long().clamp(max=target)
    yield "edges, parts", lambda: kernels.listed_parts(call, rows, target, target, source)


def _element_steps(model: Shape, tokens: int, device: str, dtype: torch.dtype) -> Iterator[Step]:
    from lrp_kernels.gated import triton as gated_kernels
    from lrp_kernels.norm import triton as norm_kernels

    x, grad = (normal(tokens, model.width, dtype=dtype, device=device, seed=seed) for seed in (0, 1))
    weight, spec = normal(model.width, dtype=dtype, device=device), norm.NormSpec("rms", False, 1e-6)
    scale = norm_kernels.norm_scale(x, spec)
    yield "norm, scale", lambda: norm_kernels.norm_scale(x, spec)
    yield "norm, backward", lambda: norm_kernels.norm_backward(grad, weight, scale, spec)
    gate, up, above = (normal(tokens, model.inner, dtype=dtype, device=device, seed=seed) for seed in range(3))
    f, silu = gated.ACTIVATIONS["silu"], torch.nn.functional.silu
    yield "gated product, forward", lambda: gated.gated_product(gate, up, silu, f, (0.5, 0.5), backend="triton")
    yield "gated product, backward", lambda: gated_kernels.gated_backward(above, gate, up, "silu", 0.0, 0.5, 0.5)
    yield "relevance", lambda: relevance.relevance_sum(x, grad, backend="triton")


def model_steps(model: Any, shape: Shape, tokens: int) -> Iterator[Step]:
    """The plain forward, an attribution, and an attribution with its graph."""
    from lrp_hooks import Logit, instrument

    device = next(model.parameters()).device
    ids = torch.arange(tokens, device=device)[None] % shape.vocabulary

    def forward() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False, logits_to_keep=1)

    yield "model, forward", forward
    with instrument(model) as lrp:

        def attributed(with_graph: bool) -> object:
            trace, target = lrp.trace(input_ids=ids, allow_beyond_max=True), Logit(0)
            return trace.graph(target) if with_graph else trace.attribute(target)

        yield "model, attribution", lambda: attributed(False)
        yield "model, graph", lambda: attributed(True)
