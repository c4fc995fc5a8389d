"""Checks and times every triton kernel on the GPU at hand, in one command.

    python -m benchmarks.gpu                   # writes benchmarks/results/gpu.json

Each kernel is first compared with float64 arithmetic on the same inputs; its error may be a few times that of plain
PyTorch in the same dtype. Only then is it timed, and its time divided by the floor of `benchmarks.roofline`.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from lrp_kernels import attention, edges, gated, norm, relevance
from lrp_kernels.attention import AttentionRule, Interval
from torch import Tensor

from benchmarks.roofline import LENGTHS, MODELS, costs
from benchmarks.shapes import Shape

Backend = Literal["reference", "triton"]
RESULT = Path(__file__).parent / "results" / "gpu.json"
TIMES = 3.0
"""A kernel's error may be this many times that of plain PyTorch and of one rounding to the dtype together."""
DENSE_LIMIT = 16_384
"""Tokens above which the dense n x n output is not made."""


@dataclass(frozen=True)
class Check:
    """Largest error relative to the largest exact entry, and what plain PyTorch in the same dtype commits."""

    kernel: str
    dtype: str
    error: float
    plain: float

    @property
    def limit(self) -> float:
        """The kernels round weights to the dtype before a product, as every flash attention; the reference does not."""
        return TIMES * (self.plain + torch.finfo(getattr(torch, self.dtype)).eps)

    @property
    def passed(self) -> bool:
        return self.error <= self.limit


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


def normal(*shape: int, dtype: torch.dtype, device: str = "cuda", seed: int = 0) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, device=device).to(dtype)


def compare(kernel: str, dtype: torch.dtype, ours: Tensor, plain: Tensor, exact: Tensor) -> Check:
    size = exact.abs().max()
    error, other = (((x.double() - exact).abs().max() / size).item() for x in (ours, plain))
    return Check(kernel, str(dtype).removeprefix("torch."), error, other)


def checks(width: int, dtype: torch.dtype, tokens: int = 517, device: str = "cuda") -> Iterator[Check]:
    """Every kernel against plain PyTorch in float64, at a length that no block size divides."""
    yield from attention_checks(width, dtype, tokens, device)
    yield from edge_checks(width, dtype, tokens, device)
    yield from element_checks(dtype, device)
    yield from model_checks(dtype, device)


def attention_checks(width: int, dtype: torch.dtype, tokens: int, device: str) -> Iterator[Check]:
    q, k, v, o = (normal(1, n, tokens, width, dtype=dtype, device=device, seed=i) for i, n in enumerate((8, 4, 4, 8)))
    interval = Interval.causal(tokens, window=tokens // 2, device=device)
    rule = AttentionRule(width**-0.5, softcap=5.0)

    def gradients(dtype: torch.dtype, backend: Backend) -> list[Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        out, lse = attention.attention(*leaves, interval, rule, backend=backend)
        out.backward(o.to(dtype))
        return [out.detach(), lse, *(x.grad for x in leaves if x.grad is not None)]

    ours, plain = gradients(dtype, "triton"), gradients(dtype, "reference")
    for name, *found in zip(
        ("out", "lse", "dq", "dk", "dv"), ours, plain, gradients(torch.float64, "reference"), strict=True
    ):
        yield compare(f"attention, {name}", dtype, *found)


def edge_checks(width: int, dtype: torch.dtype, tokens: int, device: str) -> Iterator[Check]:
    q, k, v, o = (normal(n, tokens, width, dtype=dtype, device=device, seed=i) for i, n in enumerate((8, 4, 4, 8)))
    interval = Interval.causal(tokens, window=tokens // 2, device=device)
    wide = edge_call(*(x.double() for x in (q, k, v, o)), interval)
    out, _ = attention.attention(wide.q[None], wide.k[None], wide.v[None], interval, AttentionRule(wide.scale))
    wide = replace(wide, D=(out[0] * wide.o).sum(-1))
    call = replace(edge_call(q, k, v, o, interval), D=wide.D.float())
    rows = torch.arange(0, tokens, 3, device=device)
    exact, plain = edges.edge_sums(wide, rows), edges.edge_sums(call, rows)
    ours = edges.edge_sums(call, rows, backend="triton")
    yield compare("edges, dense", dtype, ours, plain, exact)
    mass = edges.edge_histogram(call, rows, backend="triton").mass.sum()[None]
    yield compare("edges, histogram", dtype, mass, plain.double().abs().sum()[None], exact.abs().sum()[None])
    listed = edges.edge_list(call, rows, at_least=0.01, backend="triton")
    sparse = torch.zeros_like(exact)
    sparse[torch.searchsorted(rows, listed.target), listed.source] = listed.weight.double()
    kept = ours.abs() >= 0.01
    yield compare("edges, list", dtype, sparse, torch.where(kept, plain, 0.0), torch.where(kept, exact, 0.0))
    totals, _ = edges.edge_totals(call, rows, backend="triton")
    yield compare("edges, row and column sums", dtype, totals, plain.double().sum(1), exact.sum(1))
    target, source = listed.target[:50], listed.source[:50]
    parts = [edges.edge_parts(c, target, source, backend=b) for c, b in ((call, "triton"), (call, "reference"))]  # type: ignore[arg-type]
    yield compare("edges, parts", dtype, parts[0].key, parts[1].key, edges.edge_parts(wide, target, source).key)


def model_checks(dtype: torch.dtype, device: str) -> Iterator[Check]:
    """A small model explained end to end by the kernels: the attention rule, the graph pruned in the kernels."""
    plain, exact = explained(dtype, device, "reference"), explained(torch.float64, device, "reference")
    names = ("a model, relevance", "a model, edges")
    for name, *found in zip(names, explained(dtype, device, "triton"), plain, exact, strict=True):
        yield compare(name, dtype, *found)


def explained(dtype: torch.dtype, device: str, backend: Backend) -> tuple[Tensor, Tensor]:
    """Relevance [L+1, T] and all edges [L, T, T] of a random model of two layers; ``backend`` is put back after it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from lrp_hooks import LogitDiff, instrument
    from lrp_hooks.ops.backend import requested, set_backend

    config = AutoConfig.for_model(
        "llama", hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=64, max_position_embeddings=64, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).to(device, dtype).eval()
    ids = torch.arange(3, 22, device=device)[None]
    before = requested()
    set_backend(backend)
    try:
        with instrument(model) as lrp:
            trace, target = lrp.trace(input_ids=ids), LogitDiff(5, 7)
            relevance = trace.attribute(target).layers[0]
            graph = trace.graph(target, node_threshold=0.0, top_p=1.0, connected=False)
    finally:
        set_backend(before)
    dense = relevance.new_zeros(2, ids.shape[1], ids.shape[1])
    dense[graph.below, graph.target, graph.source] = graph.weight.to(dense)
    return relevance, dense


def element_checks(dtype: torch.dtype, device: str) -> Iterator[Check]:
    x, grad = (normal(77, 1000, dtype=dtype, device=device, seed=i) for i in (0, 1))
    weight, spec = normal(1000, dtype=dtype, device=device), norm.NormSpec("module", True, 1e-6)
    f = gated.ACTIVATIONS["silu"]

    def normed(dtype: torch.dtype, backend: Backend) -> Tensor:
        leaf = x.detach().to(dtype).requires_grad_()
        norm.detached_norm(leaf, weight.to(dtype), None, spec, leaf.detach(), backend=backend).backward(grad.to(dtype))
        assert leaf.grad is not None
        return leaf.grad

    def shared(dtype: torch.dtype, backend: Backend) -> Tensor:
        gate, up = (t.detach().to(dtype).requires_grad_() for t in (x, x.flip(0)))
        gated.gated_product(gate, up, f.value, f, (0.5, 0.5), backend=backend).backward(grad.to(dtype))
        assert gate.grad is not None
        assert up.grad is not None
        return torch.cat((gate.grad, up.grad))

    for name, make in (("norm, backward", normed), ("gated product, backward", shared)):
        yield compare(name, dtype, make(dtype, "triton"), make(dtype, "reference"), make(torch.float64, "reference"))
    ours, plain = relevance.relevance_sum(x, grad, backend="triton"), relevance.relevance_sum(x, grad)
    yield compare("relevance", dtype, ours, plain, relevance.relevance_sum(x.double(), grad.double()))


def edge_call(q: Tensor, k: Tensor, v: Tensor, o: Tensor, interval: Interval) -> edges.AttentionCall:
    D = torch.zeros(q.shape[:2], device=q.device)
    return edges.AttentionCall(
        q, k, v, o, D, k, v, None, q.shape[-1] ** -0.5, None, True, None, 0.5, 0.25, interval=interval
    )


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


def steps(model: Shape, tokens: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each kernel on one layer of a model, bf16, all rows active; named as in the roofline."""
    from lrp_kernels.attention import triton as attention_kernels
    from lrp_kernels.edges import triton as edge_kernels
    from lrp_kernels.norm import triton as norm_kernels

    dtype = torch.bfloat16
    q, o = (normal(1, model.heads, tokens, model.head, dtype=dtype) for _ in range(2))
    k, v = (normal(1, model.groups, tokens, model.head, dtype=dtype) for _ in range(2))
    interval, rule = Interval.causal(tokens, device="cuda"), AttentionRule(model.head**-0.5)
    out, lse = attention_kernels.attention_forward(q, k, v, None, interval, rule)
    D = relevance.relevance_sum(o, out, backend="triton")
    yield "attention, forward", lambda: attention_kernels.attention_forward(q, k, v, None, interval, rule)
    only = replace(rule, query=0.0)
    yield "attention, dk and dv", lambda: attention_kernels.attention_backward(o, q, k, v, D, lse, interval, only)
    yield "attention, backward", lambda: attention_kernels.attention_backward(o, q, k, v, D, lse, interval, rule)
    call = replace(edge_call(q[0], k[0], v[0], o[0], interval), D=D[0], lse=lse[0])
    rows = torch.arange(tokens, device="cuda")
    if tokens <= DENSE_LIMIT:
        yield "edges, dense", lambda: edge_kernels.edge_sums(call, rows)
    yield "edges, histogram", lambda: edge_kernels.edge_histogram(call, rows)
    yield "edges, list", lambda: edge_kernels.edge_list(call, rows, at_least=0.5)
    yield "edges, row and column sums", lambda: edge_kernels.edge_totals(call, rows)
    x, grad, weight = (normal(*s, dtype=dtype) for s in ((tokens, model.width), (tokens, model.width), (model.width,)))
    spec = norm.NormSpec("rms", False, 1e-6)
    scale = norm_kernels.norm_scale(x, spec)
    yield "norm, backward", lambda: norm_kernels.norm_backward(grad, weight, scale, spec)
    gate, up, above = (normal(tokens, model.inner, dtype=dtype) for _ in range(3))
    from lrp_kernels.gated import triton as gated_kernels

    yield "gated product, backward", lambda: gated_kernels.gated_backward(above, gate, up, "silu", 0.0, 0.5, 0.5)
    yield "relevance", lambda: relevance.relevance_sum(x, grad, backend="triton")


def timings(lengths: list[int], repeats: int) -> Iterator[Timing]:
    for model in MODELS:
        for tokens in lengths:
            floors = {cost.kernel: cost.seconds for cost in costs(model, tokens)}
            floors["attention, backward"] = floors["attention, dk and dv"] + floors["attention, dq"]
            for name, step in steps(model, tokens):
                seconds, peak = timed(step, repeats if tokens < 100_000 else 3)
                yield Timing(name, model.name, tokens, seconds, floors[name], seconds / floors[name], peak)
            torch.cuda.empty_cache()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, action="append", help=f"lengths to time (default {LENGTHS})")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--checks-only", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(
            f"there is no GPU here: torch {torch.__version__} sees no CUDA or HIP device. "
            "do: run this where `torch.cuda.is_available()` is true; without a GPU `python -m benchmarks.kernels` "
            "compiles every kernel and `pytest tests/lrp_kernels` interprets it",
            file=sys.stderr,
        )
        return 2
    found = []
    print("| kernel | dtype | width | error | limit | |\n|---|---|---|---|---|---|")
    for width in (64, 80, 128):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            for check in checks(width, dtype):
                found.append(check)
                verdict = "ok" if check.passed else "FAILED"
                print(
                    f"| {check.kernel} | {check.dtype} | {width} | {check.error:.2e} | {check.limit:.2e} | {verdict} |"
                )
    if not all(check.passed for check in found):
        print("a check failed: nothing is timed", file=sys.stderr)
        return 1
    if options.checks_only:
        return 0
    print("\n| kernel | model | tokens | ms | measured / floor | peak MB |\n|---|---|---|---|---|---|")
    measured = []
    for row in timings(options.tokens or list(LENGTHS), options.repeats):
        measured.append(row)
        numbers = f"{row.seconds * 1e3:.3f} | {row.times_floor:.2f} | {row.peak_megabytes:.0f}"
        print(f"| {row.kernel} | {row.model} | {row.tokens:,} | {numbers} |", flush=True)
    RESULT.write_text(json.dumps({**environment(), "rows": [asdict(row) for row in measured]}, indent=1) + "\n")
    return 0


def environment() -> dict[str, str]:
    import triton

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "device": torch.cuda.get_device_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "commit": commit.stdout.strip(),
        "command": "python -m benchmarks.gpu",
        "gate": "the checks of the same command",
    }


if __name__ == "__main__":
    sys.exit(main())
