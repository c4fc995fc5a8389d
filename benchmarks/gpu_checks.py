"""Every triton kernel against float64 arithmetic on the same inputs: what must hold before anything is timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from lrp_kernels import attention, edges, gated, norm, relevance
from lrp_kernels.attention import AttentionRule, Interval
from torch import Tensor

Backend = Literal["reference", "triton"]
TIMES = 3.0
"""A kernel's error may be this many times that of plain PyTorch and of one rounding to the dtype together."""
HEADS, GROUPS, CAP = 4, 2, 5.0
AT_LEAST, PARTS = 0.01, 50
"""Edges that are listed, and how many of them are taken apart."""


@dataclass(frozen=True)
class Setting:
    """One call of attention: head dimensions of queries and values, which columns a row sees, softcap, sinks."""

    width: int
    value_width: int
    mask: Literal["window", "padding", "packed"] = "window"
    softcap: bool = False
    sinks: bool = False

    def __str__(self) -> str:
        options = [name for name in ("softcap", "sinks") if getattr(self, name)]
        return f"{self.width}/{self.value_width} {', '.join([self.mask, *options])}"

    def interval(self, tokens: int, device: str) -> Interval:
        """[2, T]: of two sequences; the second is padded on the left, or is two sequences that know nothing of each
        other."""
        row = torch.arange(tokens, device=device)
        start, stop = torch.zeros(2, tokens, device=device).long(), torch.full((2, tokens), tokens, device=device)
        if self.mask == "padding":
            start[1] = tokens // 3
        if self.mask == "packed":
            start[1] = torch.where(row < tokens // 3, 0, tokens // 3)
            stop[1] = torch.where(row < tokens // 3, tokens // 3, tokens)
        window = tokens // 2 if self.mask == "window" else None
        return Interval.causal(tokens, window=window, device=device).within(start, stop)


SETTINGS = (
    Setting(16, 16, "padding", sinks=True),
    Setting(64, 64, "window"),
    Setting(72, 72, "packed", softcap=True),
    Setting(80, 80, "packed", sinks=True),
    Setting(128, 128, "padding", softcap=True, sinks=True),
    Setting(192, 128, "window"),
    Setting(256, 256, "window", softcap=True),
)
"""The least and the greatest head dimension, ones that are padded, and values narrower than queries."""


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


def normal(*shape: int, dtype: torch.dtype, device: str = "cuda", seed: int = 0) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed + sum(shape))
    return torch.randn(*shape, generator=generator, device=device).to(dtype)


def compare(kernel: str, dtype: torch.dtype, ours: Tensor, plain: Tensor, exact: Tensor) -> Check:
    size = exact.abs().max()
    error, other = (((x.double() - exact).abs().max() / size).item() for x in (ours, plain))
    return Check(kernel, str(dtype).removeprefix("torch."), error, other)


def supported(setting: Setting, dtype: torch.dtype) -> bool:
    """Whether the attention kernels take it; the edge kernels take every head dimension."""
    from lrp_kernels.launch import MAX_WIDTH

    return max(setting.width, setting.value_width) <= (MAX_WIDTH // 2 if dtype == torch.float32 else MAX_WIDTH)


def checks(setting: Setting, dtype: torch.dtype, tokens: int = 517, device: str = "cuda") -> Iterator[Check]:
    """Attention and edges against plain PyTorch in float64, at a length that no block size divides."""
    if supported(setting, dtype):
        yield from attention_checks(setting, dtype, tokens, device)
    yield from edge_checks(setting, dtype, tokens, device)


def attention_checks(setting: Setting, dtype: torch.dtype, tokens: int, device: str) -> Iterator[Check]:
    q, k, v, o = _tensors(setting, dtype, tokens, device)
    interval, rule, sinks = setting.interval(tokens, device), _rule(setting), _sinks(setting, device)

    def gradients(dtype: torch.dtype, backend: Backend) -> list[Tensor]:
        leaves = [x.detach().to(dtype).requires_grad_() for x in (q, k, v)]
        out, lse = attention.attention(*leaves, interval, rule, sinks, backend=backend)
        out.backward(o.to(dtype))
        return [out.detach(), lse, *(x.grad for x in leaves if x.grad is not None)]

    ours, plain = gradients(dtype, "triton"), gradients(dtype, "reference")
    exact = gradients(torch.float64, "reference")
    for made in (ours, plain, exact):
        made[1] = _reached(made[1], exact[1])
    for name, *found in zip(("out", "lse", "dq", "dk", "dv"), ours, plain, exact, strict=True):
        yield compare(f"attention, {name}", dtype, *found)


def edge_checks(setting: Setting, dtype: torch.dtype, tokens: int, device: str) -> Iterator[Check]:
    from lrp_kernels.edges import triton as kernels

    call, wide = _edge_calls(setting, dtype, tokens, device)
    rows = torch.arange(0, tokens, 3, device=device)
    assert wide.lse is not None
    lse = [x.lse[:, rows] for x in (call, wide) if x.lse is not None]
    ours, plain, exact = (_reached(x, lse[1]) for x in (kernels.row_lse(call, rows), *lse))
    yield compare("edges, log-sum-exp", dtype, ours, plain, exact)
    call = replace(call, lse=None)
    exact, plain = edges.edge_sums(wide, rows), edges.edge_sums(call, rows)
    ours = edges.edge_sums(call, rows, backend="triton")
    yield compare("edges, dense", dtype, ours, plain, exact)
    mass = edges.edge_histogram(call, rows, backend="triton").mass.sum()[None]
    yield compare("edges, histogram", dtype, mass, plain.double().abs().sum()[None], exact.abs().sum()[None])
    listed = edges.edge_list(call, rows, at_least=AT_LEAST, backend="triton")
    sparse = torch.zeros_like(exact)
    sparse[torch.searchsorted(rows, listed.target), listed.source] = listed.weight.double()
    kept = ours.abs() >= AT_LEAST
    yield compare("edges, list", dtype, sparse, torch.where(kept, plain, 0.0), torch.where(kept, exact, 0.0))
    totals, _ = edges.edge_totals(call, rows, backend="triton")
    yield compare("edges, row and column sums", dtype, totals, plain.double().sum(1), exact.sum(1))
    at = listed.target[:PARTS], listed.source[:PARTS]
    parts = [edges.edge_parts(call, *at, backend=backend) for backend in ("triton", "reference")]  # type: ignore[arg-type]
    yield compare("edges, parts", dtype, parts[0].key, parts[1].key, edges.edge_parts(wide, *at).key)


def _tensors(setting: Setting, dtype: torch.dtype, tokens: int, device: str) -> list[Tensor]:
    """q, k, v and the gradient at the output, of two sequences."""
    shapes = ((HEADS, setting.width), (GROUPS, setting.width), (GROUPS, setting.value_width))
    return [
        normal(2, heads, tokens, width, dtype=dtype, device=device, seed=seed)
        for seed, (heads, width) in enumerate((*shapes, (HEADS, setting.value_width)))
    ]


def _rule(setting: Setting) -> AttentionRule:
    return AttentionRule(setting.width**-0.5, CAP if setting.softcap else None)


def _sinks(setting: Setting, device: str) -> Tensor | None:
    return normal(HEADS, dtype=torch.float32, device=device, seed=9) if setting.sinks else None


def _edge_calls(
    setting: Setting, dtype: torch.dtype, tokens: int, device: str
) -> tuple[edges.AttentionCall, edges.AttentionCall]:
    """The second sequence's call in the dtype and in float64, each with its log-sum-exp; D is the exact one."""
    interval, sinks = setting.interval(tokens, device).row(1), _sinks(setting, device)
    low = [x[1] for x in _tensors(setting, dtype, tokens, device)]
    wide = [x.double() for x in low]
    (_, lse), (out, exact) = (
        attention.attention(*(x[None] for x in of[:3]), interval, _rule(setting), sinks) for of in (low, wide)
    )
    D = (out[0] * wide[3]).sum(-1)
    calls = (
        replace(edge_call(*of, interval), softcap=_rule(setting).softcap, sinks=sinks, D=D.to(lse.dtype), lse=lse[0])
        for of, lse in ((low, lse), (wide, exact))
    )
    return next(calls), next(calls)


def _reached(lse: Tensor, exact: Tensor) -> Tensor:
    """Zeros where a row sees nothing, which both must say."""
    nothing = exact == -torch.inf
    return torch.where(nothing, torch.where(lse == -torch.inf, 0.0, torch.nan).to(lse.dtype), lse)


def edge_call(q: Tensor, k: Tensor, v: Tensor, o: Tensor, interval: Interval) -> edges.AttentionCall:
    D = torch.zeros(q.shape[:2], device=q.device)
    return edges.AttentionCall(
        q, k, v, o, D, k, v, None, q.shape[-1] ** -0.5, None, True, None, 0.5, 0.25, interval=interval
    )


def element_checks(dtype: torch.dtype, device: str = "cuda") -> Iterator[Check]:
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

    from lrp_kernels.norm import triton as norm_kernels

    scales = (norm_kernels.norm_scale(x, spec), norm.norm_scale(x, spec), norm.norm_scale(x.double(), spec))
    yield compare("norm, scale", dtype, *scales)
    for name, make in (("norm, backward", normed), ("gated product, backward", shared)):
        yield compare(name, dtype, make(dtype, "triton"), make(dtype, "reference"), make(torch.float64, "reference"))
    ours, plain = relevance.relevance_sum(x, grad, backend="triton"), relevance.relevance_sum(x, grad)
    yield compare("relevance", dtype, ours, plain, relevance.relevance_sum(x.double(), grad.double()))


def model_checks(dtype: torch.dtype, device: str = "cuda") -> Iterator[Check]:
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
