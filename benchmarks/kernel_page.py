"""docs/kernels.md, made from the table of compiled kernels and the roofline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks import launches
from benchmarks.kernels import PRODUCT, Row
from benchmarks.launches import TARGETS
from benchmarks.roofline import table as roofline_table


def page(made: Sequence[Row], versions: Mapping[str, str]) -> str:
    """Per kernel, target and dtype the extremes over variants and widths; then the roofline."""
    return PAGE_TEXT.format(
        count=len(made), widths=_listed(launches.WIDTHS), fewer=_listed(launches.FEWER_WIDTHS),
        edges=_listed(sorted({*launches.FEWER_WIDTHS, *launches.LISTED_WIDTHS, launches.BEYOND})),
        pairs=_pairs(launches.PAIRS), edge_pairs=_pairs(launches.EDGE_PAIRS), norms=_listed(launches.MODEL_WIDTHS),
        table=compiled_table(made),
        roofline=roofline_table(), **versions,
    )  # fmt: skip


def compiled_table(made: Sequence[Row]) -> str:
    """Markdown: a row per kernel, target and dtype."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in made:
        groups.setdefault((row.kernel, row.target, row.dtype), []).append(row)
    lines = [
        "| kernel | target | dtype | compiled | registers | spilled | shared, KB | of | matrix instructions |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (kernel, target, dtype), rows in groups.items():
        registers, shared, products = ([getattr(r, n) for r in rows] for n in ("registers", "shared", "products"))
        limit = TARGETS[target].shared_bytes // 1024
        spilled = max(row.spilled for row in rows)
        found = f"{min(products)}-{max(products)} `{PRODUCT[target]}`" if max(products) else "-"
        lines.append(
            f"| {kernel} | {target} | {dtype} | {len(rows)} | {min(registers)}-{max(registers)} | {spilled} "
            f"| {max(shared) / 1024:.0f} | {limit} | {found} |"
        )
    return "\n".join(lines)


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _pairs(values: Iterable[tuple[int, int]]) -> str:
    return _listed(f"{width}/{value_width}" for width, value_width in values)


PAGE_TEXT = """# Kernels

What `lrp_kernels` runs on a GPU, as the compilers see it. This page is written by `{command}` (`make kernels`),
which compiles what is new or was edited. `tests/benchmarks/test_kernels.py` compares every launch with what is recorded
(source of the kernel, blocks, warps, stages, types and constants of the arguments), and compiles a sample again.

## Where they run

One decision per call (`lrp_hooks.ops.backend`, shown by `lrp-hooks doctor`): `auto` takes the kernels for tensors on a
CUDA or HIP device and plain PyTorch elsewhere; what a kernel does not take goes to plain PyTorch, and the reason is
logged once. `LRP_HOOKS_BACKEND=triton` and `set_backend("triton")` never fall back: they raise `BackendError` with the
reason.

- **Attention.** Where the model runs `sdpa` or `eager` and its mask is one interval of tokens per token (causal,
  sliding windows, padding on either side, packed sequences), the rule calls the attention kernels in place of the
  model's own function, forward and backward; the log-sum-exp is kept for the edges. Values are then the kernel's: equal
  to the model's within the noise of its dtype, not bit for bit (`doctor` prints the difference of the logits). A
  family's own eager function is compared with the kernel once, and left alone when it computes something else. Without
  gradients (`generate`), with other implementations, with position biases, and for float32 heads wider than 128 the
  model's own function runs, values bit for bit.
- **Edges.** A transition is pruned by the kernels: a histogram of |A|, then a list of the edges above the boundary, so
  that nothing of the size T · T leaves them; paths and heads of what is kept (`detail=True`) come from the kernel over
  listed edges. Edges per head and per path (`edge_matrices(by=...)`, for small inputs) are plain PyTorch everywhere.
- **Norm, gated product, relevance**: wherever their rules run. A norm's values are the module's own, bit for bit: each
  family rounds at other places, and a kernel that rounded elsewhere would change the model that is to be explained. Its
  kernels make what the rule adds: the scale that the backward pass holds constant (which the module does not hand out)
  and the gradient. The gated product is the module's own activation times up, likewise; its kernel makes the gradient
  of gate and up from these two alone, so that act(gate) is not kept. A forward kernel would save one pass over memory
  of what the model spends anyway, and cost the equality.

The tests run all of this in triton's interpreter, kernels one by one and models end to end
(`tests/lrp_kernels/interpreted`).

## Compiled ahead of time

{count} launches with triton {triton}, with the blocks, warps and stages that the launchers would use there. In bf16,
head dimensions {widths}, for edges {edges};
queries/values {pairs}, for edges {edge_pairs}; in fp16 and fp32 {fewer} (attention in fp32 up
to 128). Heads of other dimensions are padded to a multiple of 16, and blocks to a power of two. Softcap, sinks, masks,
carried parts and CP-LRP at 64, 128 and 256; a length that nothing divides and the softcap's derivative at 256. Norms
over {norms} numbers.

Registers per thread; spilled bytes per thread; in fp32 the products are three tf32 products on NVIDIA and float32
instructions on AMD, where small tiles on sm_90 use `mma.sync`, not the counted `wgmma`.

{table}

## Roofline

The least time on an H100 SXM (989 TFLOP/s bf16, 3.35 TB/s), from shapes alone: every tensor read once, every result
written once, causal halves skipped, all rows active. What was measured on a GPU, beside these floors: [gpu.md](gpu.md).

{roofline}
"""
