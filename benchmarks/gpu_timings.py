"""Each triton kernel on one layer of a model, and a whole model explained: steps to time, named as in the roofline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from lrp_kernels import gated, norm, relevance
from lrp_kernels.attention import AttentionRule, Interval
from torch import Tensor

from benchmarks.gpu_checks import edge_call, normal
from benchmarks.roofline import MODELS, PARTS, Chip, Cost, chip_of, costs, model_costs
from benchmarks.shapes import Shape, random_model, whole

DENSE_LIMIT = 16_384
"""Tokens above which the dense n x n output is not made."""
PLAIN_LIMIT = 16_384
"""Tokens above which the plain model's backward pass, which keeps everything, is not run."""
SECONDS = 1.5
"""That the repeats of one step may take together; one is always made."""
WARM_TOKENS = 512
"""At which kernels are compiled beforehand: their code does not depend on the length."""
CEILING = 8192
"""Rows and columns of the matrices of the product that shows what the GPU reaches."""
PEERS = {"torch's attention, forward": "attention, forward", "torch's attention, backward": "attention, backward"}
"""What PyTorch's own kernels do of the same work -> the step whose floor they are held against."""
Step = tuple[str, Callable[[], object]]


@dataclass(frozen=True)
class Timing:
    """Median of several runs; ``model`` and ``tokens``: of one layer of what, or of the whole model."""

    kernel: str
    model: str
    tokens: int
    seconds: float
    floor: float
    times_floor: float
    peak_megabytes: float
    runs: int


def timed(step: Callable[[], object], repeats: int) -> tuple[list[float], float]:
    """Seconds of each run, ascending, and peak memory in MB beyond what was there.

    The first runs, which compile, are not counted; of a step that takes longer than ``SECONDS`` the first is the only.
    """
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    runs = [_once(step)]
    if runs[0] < SECONDS:
        warm = _once(step)
        runs = [_once(step) for _ in range(max(1, min(repeats, int(SECONDS / warm))))]
    return sorted(runs), (torch.cuda.max_memory_allocated() - before) / 1e6


def _once(step: Callable[[], object]) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    step()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def timing(
    name: str, step: Callable[[], object], repeats: int, floor: float, model: str = "", tokens: int = 0
) -> Timing:
    runs, peak = timed(step, repeats)
    seconds = runs[len(runs) // 2]
    return Timing(name, model, tokens, seconds, floor, seconds / floor, peak, len(runs))


def ceilings(repeats: int) -> Iterator[Timing]:
    """What PyTorch reaches of the chip's stated limits: a matrix product, and a copy within its memory."""
    chip = _chip()
    a, b = (normal(CEILING, CEILING, dtype=torch.bfloat16, seed=seed) for seed in (0, 1))
    flops = Cost("a matrix product", 2.0 * CEILING**3, 0.0)
    yield timing(flops.kernel, lambda: a @ b, repeats, flops.floor(chip))
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda").random_()
    copy, target = Cost("a copy", 0.0, 2.0 * len(source)), torch.empty_like(source)
    yield timing(copy.kernel, lambda: target.copy_(source), repeats, copy.floor(chip))


def timings(lengths: list[int], repeats: int) -> Iterator[Timing]:
    """Kernel by kernel, for each model of the roofline, and PyTorch's attention beside ours."""
    for model in MODELS:
        for tokens in lengths:
            floors = {cost.kernel: cost.floor(_chip()) for cost in costs(model, tokens)}
            floors["attention, backward"] = floors["attention, dk and dv"] + floors["attention, dq"]
            for name, step in (*steps(model, tokens), *peer_steps(model, tokens)):
                yield timing(name, step, repeats, floors[PEERS.get(name, name)], model.name, tokens)
            torch.cuda.empty_cache()


def model_timings(name: str, lengths: list[int], repeats: int) -> Iterator[Timing]:
    """A random model of this shape in bfloat16, end to end."""
    shape = whole(name)
    model = random_model(shape).to("cuda", torch.bfloat16)
    for tokens in lengths:
        floors = {cost.kernel: cost.floor(_chip()) for cost in model_costs(shape, tokens)}
        for step_name, step in model_steps(model, shape, tokens):
            yield timing(step_name, step, repeats, floors[step_name], name, tokens)
            torch.cuda.empty_cache()


def step_names() -> list[str]:
    """What `warmed` takes, beside "model"."""
    named = [cost.kernel for cost in costs(MODELS[0], WARM_TOKENS)]
    return ["attention, backward" if name == "attention, dq" else name for name in named]


def warmed(name: str, model: str) -> None:
    """Run one step of a model of this name, so that its kernels are in triton's cache on disk; "model": the whole."""
    shape = whole(model)
    made = model_steps(random_model(shape).to("cuda", torch.bfloat16), shape, WARM_TOKENS) if name == "model" else None
    for found, step in made or steps(shape, WARM_TOKENS):
        if made or found == name:
            step()
    torch.cuda.synchronize()


def _chip() -> Chip:
    return chip_of(torch.cuda.get_device_name())


def steps(model: Shape, tokens: int, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> Iterator[Step]:
    """Everything that has a floor, all rows active."""
    yield from attention_steps(model, tokens, device, dtype)
    yield from edge_steps(model, tokens, device, dtype)
    yield from _element_steps(model, tokens, device, dtype)


def attention_steps(model: Shape, tokens: int, device: str, dtype: torch.dtype) -> Iterator[Step]:
    from lrp_kernels.attention import triton as kernels

    q, k, v, o = _layer(model, tokens, device, dtype)
    interval, rule = Interval.causal(tokens, device=device), AttentionRule(model.head**-0.5)
    out, lse = kernels.attention_forward(q, k, v, None, interval, rule)
    D = relevance.relevance_sum(o, out, backend="triton")
    yield "attention, forward", lambda: kernels.attention_forward(q, k, v, None, interval, rule)
    only = replace(rule, query=0.0)
    yield "attention, dk and dv", lambda: kernels.attention_backward(o, q, k, v, D, lse, interval, only)
    yield "attention, backward", lambda: kernels.attention_backward(o, q, k, v, D, lse, interval, rule)


def edge_steps(model: Shape, tokens: int, device: str, dtype: torch.dtype) -> Iterator[Step]:
    from lrp_kernels.edges import triton as kernels

    q, k, v, o = (x[0] for x in _layer(model, tokens, device, dtype))
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


def peer_steps(model: Shape, tokens: int, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> Iterator[Step]:
    """PyTorch's attention on the same inputs: what the model itself runs."""
    leaves = [x.requires_grad_() for x in _layer(model, tokens, device, dtype)[:3]]
    o = _layer(model, tokens, device, dtype)[3]

    def attended() -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True, enable_gqa=True)

    def forward() -> Tensor:
        with torch.no_grad():
            return attended()

    names, out = iter(PEERS), attended()
    yield next(names), forward
    yield next(names), lambda: torch.autograd.grad(out, leaves, o, retain_graph=True)


def _layer(model: Shape, tokens: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v and the gradient at the output, [1, heads or groups, T, head]."""
    heads = (model.heads, model.groups, model.groups, model.heads)
    return [normal(1, n, tokens, model.head, dtype=dtype, device=device, seed=seed) for seed, n in enumerate(heads)]


def model_steps(model: Any, shape: Shape, tokens: int) -> Iterator[Step]:
    """The plain forward, its backward pass, an attribution, and an attribution with its graph."""
    from lrp_hooks import Logit, instrument

    device = next(model.parameters()).device
    ids = torch.arange(tokens, device=device)[None] % shape.vocabulary

    def forward() -> None:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False, logits_to_keep=1)

    def backward() -> None:
        embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
        logits = model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1).logits
        torch.autograd.grad(logits[0, -1, 0], embeddings)

    yield "model, forward", forward
    if tokens <= PLAIN_LIMIT:
        yield "model, forward and backward", backward
    with instrument(model) as lrp:

        def attributed(with_graph: bool) -> object:
            trace, target = lrp.trace(input_ids=ids, allow_beyond_max=True), Logit(0)
            return trace.graph(target) if with_graph else trace.attribute(target)

        yield "model, attribution", lambda: attributed(False)
        yield "model, graph", lambda: attributed(True)
