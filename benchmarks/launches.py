"""Every launch of a triton kernel that must compile: operators, targets, dtypes, widths and variants.

The launchers themselves run, on tensors without memory, and their launches are recorded: what is listed is what would
be started there, blocks, warps, stages and argument specialisation included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from lrp_kernels.attention import AttentionRule, Interval
from lrp_kernels.edges import AttentionCall
from lrp_kernels.launch import MAX_NORM, MAX_WIDTH, Call, Target, recorded
from torch import Tensor

TARGETS = {"sm_80": Target("cuda", 80), "sm_90": Target("cuda", 90), "gfx942": Target("hip", "gfx942")}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
HEADS, GROUPS, TOKENS, ODD = 16, 8, 4096, 4099
"""Query heads, key heads and length; the length that nothing divides."""

WIDTHS = (16, 32, 48, 64, 72, 80, 96, 112, 128, 160, 192, 256)
"""Head dimensions of attention in bfloat16: each power of two that they are padded to, and those of known models; 72 is
padded to 80, 40 to 48."""
FEWER_WIDTHS = (16, 32, 64, 80, 96, 128, 256)
"""In float32, in float16, which compiles to what bfloat16 does but for the instruction's type, and of edges."""
LISTED_WIDTHS, FEWER_LISTED_WIDTHS = (64, 128, 192, 256), (64, 128, 256)
"""Of lists of edges: in bfloat16, else."""
PAIRS, EDGE_PAIRS = ((192, 128), (256, 16)), ((192, 128),)
"""Dimensions of queries and values where they differ: multi-head latent attention, and the extremes."""
BEYOND = 512
"""A head dimension that the attention kernels refuse and the edge kernels take."""
OPTION_WIDTHS, WIDEST = (64, 128, 256), 256
"""Where masks, softcaps, sinks, carried parts and CP-LRP are compiled too; lists beside carried parts and a length that
nothing divides at the widest, in bfloat16."""
MODEL_WIDTHS, FEWER_MODEL_WIDTHS = (16, 128, 1000, 1024, 2560, 8192, 16384, MAX_NORM), (1024, 2560, MAX_NORM)
"""Of norms: heads (query and key norms), hidden states, one that 16 does not divide, the widest."""
STREAMED = (1000, 1024, 2560)
"""Of what streams over its width: the gated product, and relevance beside the small ones."""


@dataclass(frozen=True)
class Case:
    """One operator on one target; ``value_width`` differs from ``width`` in attention and edges only."""

    operator: str
    target: str
    dtype: str
    width: int
    value_width: int

    @property
    def torch_dtype(self) -> torch.dtype:
        return DTYPES[self.dtype]

    @property
    def paired(self) -> bool:
        return self.width != self.value_width

    @property
    def with_options(self) -> bool:
        as_in_bfloat16 = (self.operator, self.dtype, self.width) == ("attention", "fp16", WIDEST)
        return not self.paired and self.width in OPTION_WIDTHS and not as_in_bfloat16

    @property
    def with_extras(self) -> bool:
        return not self.paired and self.width == WIDEST and self.dtype == "bf16"


Variant = tuple[str, Call]


def cases() -> list[Case]:
    """All that is supported."""
    return [
        Case(operator, target, dtype, *widths)
        for operator in OPERATORS
        for target in TARGETS
        for dtype in DTYPES
        for widths in _widths(operator, dtype)
    ]


def _widths(operator: str, dtype: str) -> Iterator[tuple[int, int]]:
    if operator == "element":
        yield from ((width, width) for width in (MODEL_WIDTHS if dtype == "bf16" else FEWER_MODEL_WIDTHS))
        return
    whole = dtype == "bf16"
    if operator != "attention":
        listed = LISTED_WIDTHS if operator == "edges" and whole else ()
        beyond = (BEYOND,) if operator == "edges" and whole else ()
        yield from ((width, width) for width in sorted({*FEWER_WIDTHS, *listed, *beyond}))
        yield from EDGE_PAIRS if beyond else ()
        return
    widest = MAX_WIDTH // 2 if dtype == "fp32" else MAX_WIDTH
    yield from ((width, width) for width in (WIDTHS if whole else FEWER_WIDTHS) if width <= widest)
    yield from PAIRS if whole else ()


def launches(case: Case) -> list[Variant]:
    """(variant, launch) of what an operator starts."""
    with recorded(TARGETS[case.target]) as calls:
        return list(OPERATORS[case.operator](case, calls))


def _empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device="meta")


def _call(case: Case, tokens: int = TOKENS) -> AttentionCall:
    dtype, (d, e) = case.torch_dtype, (case.width, case.value_width)
    q, o = _empty(HEADS, tokens, d, dtype=dtype), _empty(HEADS, tokens, e, dtype=dtype)
    k, v = _empty(GROUPS, tokens, d, dtype=dtype), _empty(GROUPS, tokens, e, dtype=dtype)
    D, interval = _empty(HEADS, tokens), Interval.causal(tokens, device="meta")
    return AttentionCall(q, k, v, o, D, k, v, None, 0.1, None, True, None, 0.5, 0.25, None, interval)


def _with_everything(call: AttentionCall) -> AttentionCall:
    """Carried parts, softcap and a mask of n x n."""
    mask = _empty(1, call.length, call.length, dtype=torch.bool)
    k_carry, v_carry = torch.empty_like(call.k), torch.empty_like(call.v)
    return replace(call, k_carry=k_carry, v_carry=v_carry, softcap=30.0, mask=mask, interval=None)


def _edges(case: Case, calls: list[Call]) -> Iterator[Variant]:
    from lrp_kernels.edges import triton as kernels

    def rows(call: AttentionCall) -> Tensor:
        return _empty(call.length // 2, dtype=torch.long)

    def listed(call: AttentionCall) -> None:  # `edge_list` reads how many it found
        at, number = rows(call), _empty(1024, dtype=torch.int32)
        found = {"FOUND": at, "TARGET": number, "SOURCE": number, "WEIGHT": call.D[0], "capacity": 1024}
        kernels._Tiles(call, at).make(call.length, call.D[0], **found)

    modes: dict[str, Callable[[AttentionCall], object]] = {
        "dense": lambda call: kernels.edge_dense(call, rows(call), call.length, call.D[0]),
        "histogram": lambda call: kernels.edge_histogram(call, rows(call), call.D[0]),
        "sums": lambda call: kernels.edge_totals(call, rows(call), call.D[0]),
        "list": listed,
    }

    def made(mode: str, of: AttentionCall, what: str = "") -> Variant:
        modes[mode](of)
        return mode + what, calls[-1]

    call = _call(case)
    rich = _with_everything(call)
    if case.paired:
        yield from (made("dense", call), made("list", rich, ", carries, softcap, mask"))
        return
    listed = case.width in (LISTED_WIDTHS if case.dtype == "bf16" else FEWER_LISTED_WIDTHS)
    usual = [m for m in modes if (listed if m == "list" else case.width in FEWER_WIDTHS) or case.width == BEYOND]
    yield from (made(mode, call) for mode in usual)
    yield "", calls[-2]  # the log-sum-exp, made before each
    if case.with_options:
        yield made("dense", rich, ", carries, softcap, mask")
        yield "softcap, mask", calls[-2]
        yield made("dense", replace(call, key=0.0), ", cp-lrp")
    if case.with_extras:
        yield made("list", rich, ", carries, softcap, mask")
        yield made("list", replace(call, softcap=30.0), ", softcap")
        yield made("list", _call(case, ODD), ", odd length")


def _edge_parts(case: Case, calls: list[Call]) -> Iterator[Variant]:
    from lrp_kernels.edges import triton as kernels

    call, edges = _call(case), _empty(1000, dtype=torch.long)
    call = replace(call, lse=call.D)
    kernels.listed_parts(call, edges, edges, edges, edges)
    yield "", calls[-1]


def _attention(case: Case, calls: list[Call]) -> Iterator[Variant]:
    sinks, cap = _empty(HEADS), 30.0
    yield from _attended(case, calls, "", AttentionRule(0.1))
    if case.with_options:
        yield from _attended(case, calls, "softcap, sinks", AttentionRule(0.1, cap), sinks)
        found = _attended(case, calls, "cp-lrp", AttentionRule(0.1, None, True, 0.0, 0.0, 1.0))
        yield from (row for row in found if row[1].kernel.__name__ == "attention_columns_kernel")  # no dq; its own dv
    if case.with_extras:
        found = _attended(case, calls, "derivative of softcap", AttentionRule(0.1, cap, False))
        yield from (row for row in found if row[1].kernel.__name__ != "attention_forward_kernel")
        yield from _attended(case, calls, "odd length", AttentionRule(0.1), tokens=ODD)


def _attended(
    case: Case, calls: list[Call], variant: str, rule: AttentionRule, sinks: Tensor | None = None, tokens: int = TOKENS
) -> Iterator[Variant]:
    from lrp_kernels.attention import triton as kernels

    call, before = _call(case, tokens), len(calls)
    q, k, v, o, D = (x[None] for x in (call.q, call.k, call.v, call.o, call.D))
    assert call.interval is not None
    kernels.attention_forward(q, k, v, sinks, call.interval, rule)
    kernels.attention_backward(o, q, k, v, D, D, call.interval, rule)
    for launch in calls[before:]:
        alone = [name for name in ("D_K", "D_V") if launch.arguments.get(name) is not None]
        apart = f"{alone[0].lower().replace('_', '')} alone" if len(alone) == 1 else ""
        yield ", ".join(filter(None, (variant, apart))), launch


def _element(case: Case, calls: list[Call]) -> Iterator[Variant]:
    """Everything that streams: the width of a model, not of a head."""
    from lrp_kernels.gated import triton as gated
    from lrp_kernels.norm import NormSpec
    from lrp_kernels.norm import triton as norm
    from lrp_kernels.relevance import triton as relevance

    x = _empty(1, TOKENS, case.width, dtype=case.torch_dtype)
    if case.width <= max(STREAMED):
        relevance.relevance_sum(x, x)
        yield "", calls[-1]
    for centred in (False, True):
        spec = NormSpec("module", centred, 1e-6)
        scale = norm.norm_scale(x, spec)
        yield "centred" if centred else "", calls[-1]
        norm.norm_backward(x, x[0, 0], scale, spec)
        yield "centred" if centred else "", calls[-1]
    if case.width in STREAMED:
        for name in gated.SLOPES if case.width == 1024 else ("silu",):
            gated.gated_backward(x, x, x, name, 0.0, 0.5, 0.5, with_product=name == "silu")
            yield name, calls[-1]


OPERATORS: dict[str, Callable[[Case, list[Call]], Iterator[Variant]]] = {
    "edges": _edges,
    "edge parts": _edge_parts,
    "attention": _attention,
    "element": _element,
}
