"""Every triton kernel compiled for the GPUs it is meant for, without one, and what the compilers report.

The launchers themselves run, on tensors without memory, and their launches are recorded: what is compiled is what
would be started there, blocks, warps, stages and argument specialisation included.

    python -m benchmarks.kernels               # compiles everything, writes results/kernels.json and docs/kernels.md
    python -m benchmarks.kernels --check 12    # compiles a sample and compares it with the committed table
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lrp_kernels.attention import AttentionRule, Interval
from lrp_kernels.edges import AttentionCall
from lrp_kernels.launch import Call, Target, recorded

RESULT = Path(__file__).parent / "results" / "kernels.json"
PAGE = Path(__file__).parent.parent / "docs" / "kernels.md"
TARGETS = {"sm_80": Target("cuda", 80), "sm_90": Target("cuda", 90), "gfx942": Target("hip", "gfx942")}
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
WIDTHS = (16, 32, 64, 80, 96, 128, 256)
PRODUCT = {"sm_80": "mma.sync", "sm_90": "wgmma.mma_async", "gfx942": "v_mfma"}
"""The instruction in which a matrix product must end in bf16 and fp16."""
MATRIX_KERNELS = frozenset({
    "edge_tiles_kernel", "row_lse_kernel", "attention_forward_kernel", "attention_columns_kernel",
    "attention_rows_kernel",
})  # fmt: skip
TENSORS, HEADS, GROUPS = 4096, 16, 8


@dataclass(frozen=True)
class Case:
    """One variant of one operator on one target."""

    operator: str
    target: str
    dtype: str
    width: int


@dataclass(frozen=True)
class Row:
    """What the compiler made of one launch. Sizes in bytes, registers per thread."""

    kernel: str
    variant: str
    target: str
    dtype: str
    width: int
    blocks: str
    warps: int
    stages: int
    registers: int
    spilled: int
    shared: int
    products: int

    @property
    def name(self) -> str:
        return f"{self.kernel} {self.variant} {self.target} {self.dtype} {self.width}"

    def faults(self) -> list[str]:
        """What makes this kernel unfit for its target."""
        found = []
        if self.spilled:
            found.append(f"spills {self.spilled} bytes")
        if self.shared > TARGETS[self.target].shared_bytes:
            found.append(f"{self.shared} bytes of shared memory, {TARGETS[self.target].shared_bytes} there")
        if self.kernel in MATRIX_KERNELS and self.dtype != "fp32" and not self.products:
            found.append(f"no {PRODUCT[self.target]}")
        return found


def launches(case: Case) -> list[tuple[str, Call]]:
    """(variant, launch) of what an operator starts."""
    with recorded(TARGETS[case.target]) as calls:
        variants = list(OPERATORS[case.operator](DTYPES[case.dtype], case.width, calls))
    return variants


def _edges(dtype: torch.dtype, width: int, calls: list[Call]) -> Iterator[tuple[str, Call]]:
    from lrp_kernels.edges import triton as kernels

    q, o = (torch.empty(HEADS, TENSORS, width, dtype=dtype, device="meta") for _ in range(2))
    k, v, k_carry, v_carry = (torch.empty(GROUPS, TENSORS, width, dtype=dtype, device="meta") for _ in range(4))
    D = torch.empty(HEADS, TENSORS, device="meta")
    rows = torch.empty(TENSORS // 2, dtype=torch.long, device="meta")
    interval = Interval.causal(TENSORS, device="meta")
    call = AttentionCall(q, k, v, o, D, k, v, None, 0.1, None, True, None, 0.5, 0.25, None, interval)
    kernels.edge_dense(call, rows, TENSORS, D[0])
    yield "", calls[-2]
    yield "dense", calls[-1]
    kernels.edge_histogram(call, rows, D[0])
    yield "histogram", calls[-1]
    kernels.edge_totals(call, rows, D[0])
    yield "sums", calls[-1]
    if width in (64, 128, 256):  # what differs besides
        tiles = kernels._Tiles(call, rows)
        found = {"FOUND": rows, "TARGET": rows.int(), "SOURCE": rows.int(), "WEIGHT": D[0]}
        tiles.make(TENSORS, D[0], **found, capacity=1024)
        yield "list", calls[-1]
        mask = torch.empty(1, TENSORS, TENSORS, dtype=torch.bool, device="meta")
        rich = replace(call, k_carry=k_carry, v_carry=v_carry, softcap=30.0, mask=mask, interval=None)
        kernels.edge_dense(rich, rows, TENSORS, D[0])
        yield "softcap, mask", calls[-2]
        yield "dense, carries, softcap, mask", calls[-1]
        kernels.edge_dense(replace(call, key=0.0), rows, TENSORS, D[0])
        yield "dense, cp-lrp", calls[-1]


def _edge_parts(dtype: torch.dtype, width: int, calls: list[Call]) -> Iterator[tuple[str, Call]]:
    from lrp_kernels.edges import triton as kernels

    q, o = (torch.empty(HEADS, TENSORS, width, dtype=dtype, device="meta") for _ in range(2))
    k, v = (torch.empty(GROUPS, TENSORS, width, dtype=dtype, device="meta") for _ in range(2))
    D = torch.empty(HEADS, TENSORS, device="meta")
    interval = Interval.causal(TENSORS, device="meta")
    call = AttentionCall(q, k, v, o, D, k, v, None, 0.1, None, True, None, 0.5, 0.25, D, interval)
    edges = torch.empty(1000, dtype=torch.long, device="meta")
    kernels.listed_parts(call, edges, edges, edges, edges)
    yield "", calls[-1]


def _attention(dtype: torch.dtype, width: int, calls: list[Call]) -> Iterator[tuple[str, Call]]:
    from lrp_kernels.attention import triton as kernels

    q, k, v = (torch.empty(1, n, TENSORS, width, dtype=dtype, device="meta") for n in (HEADS, GROUPS, GROUPS))
    D, sinks = torch.empty(1, HEADS, TENSORS, device="meta"), torch.empty(HEADS, device="meta")
    interval = Interval.causal(TENSORS, device="meta")
    for variant, rule, extra in (
        ("", AttentionRule(0.1), None),
        ("softcap, sinks", AttentionRule(0.1, 30.0), sinks),
        ("cp-lrp", AttentionRule(0.1, None, True, 0.0, 0.0, 1.0), None),
    ):
        if variant and width not in (64, 128):
            continue
        before = len(calls)
        kernels.attention_forward(q, k, v, extra, interval, rule)
        kernels.attention_backward(q, q, k, v, D, D, interval, rule)
        for call in calls[before + (variant == "cp-lrp") :]:
            apart = ""
            if "D_V" in call.arguments and (
                call.arguments["D_V"] is None or (rule.key and call.arguments["D_K"] is None)
            ):
                apart = "dk alone" if call.arguments["D_V"] is None else "dv alone"
            yield variant + apart, call


def _element(dtype: torch.dtype, width: int, calls: list[Call]) -> Iterator[tuple[str, Call]]:
    """Everything that streams: the width of a model, not of a head."""
    from lrp_kernels.gated import triton as gated
    from lrp_kernels.norm import NormSpec
    from lrp_kernels.norm import triton as norm
    from lrp_kernels.relevance import triton as relevance

    x = torch.empty(1, TENSORS, width, dtype=dtype, device="meta")
    relevance.relevance_sum(x, x)
    yield "", calls[-1]
    for centred in (False, True):
        spec = NormSpec("module", centred, 1e-6)
        scale = norm.norm_scale(x, spec)
        yield "centred" if centred else "", calls[-1]
        norm.norm_backward(x, x[0, 0], scale, spec)
        yield "centred" if centred else "", calls[-1]
    for name in gated.SLOPES if width == MODEL_WIDTHS[0] else ("silu",):
        gated.gated_backward(x, x, x, name, 0.0, 0.5, 0.5, with_product=name == "silu")
        yield name, calls[-1]


OPERATORS = {"edges": _edges, "edge parts": _edge_parts, "attention": _attention, "element": _element}
MODEL_WIDTHS = (1024, 2560)


def cases() -> list[Case]:
    """All that is supported: operators, targets, dtypes and widths."""
    return [
        Case(operator, target, dtype, width)
        for operator in OPERATORS
        for target in TARGETS
        for dtype in DTYPES
        for width in (MODEL_WIDTHS if operator == "element" else WIDTHS)
        if (operator, dtype, width) != ("attention", "fp32", 256)  # refused: `launch.MAX_WIDTH`
    ]


def compiled(call: Call, target: str) -> Any:
    """The launch compiled as triton would on that GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = {}, {}, {}
    given = {**call.arguments, **call.launch.blocks}
    for position, parameter in enumerate(call.kernel.params):
        value = given[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[parameter.name], constants[parameter.name] = "constexpr", value
            continue
        signature[parameter.name] = triton.runtime.jit.mangle_type(value, False)
        aligned = isinstance(value, torch.Tensor) or (type(value) is int and value % 16 == 0)
        if aligned:
            attributes[(position,)] = [["tt.divisibility", 16]]
    where = TARGETS[target]
    gpu = GPUTarget(where.backend, where.arch, 64 if where.backend == "hip" else 32)
    source = ASTSource(call.kernel, signature, constants, attributes)
    return triton.compile(source, target=gpu, options=dict(call.launch.options))


def rows(case: Case) -> list[Row]:
    """Compile one case."""
    made = []
    for variant, call in launches(case):
        kernel = compiled(call, case.target)
        registers, spilled, shared, products = _resources(kernel, case.target)
        made.append(Row(
            call.kernel.__name__, variant, case.target, case.dtype, case.width,
            " ".join(f"{name[6:]}={size}" for name, size in call.launch.blocks.items()),
            call.launch.warps, call.launch.stages, registers, spilled, shared, products,
        ))  # fmt: skip
    return made


def _resources(kernel: Any, target: str) -> tuple[int, int, int, int]:
    """Registers per thread, bytes spilled per thread, shared bytes, matrix instructions."""
    if target == "gfx942":
        text = kernel.asm["amdgcn"]

        def noted(name: str) -> int:
            return int(re.search(rf"\.{name}:\s+(\d+)", text).group(1))  # type: ignore[union-attr]

        # spilled scalar registers stay in lanes of vector registers; what reaches memory is the private segment
        spilled = max(4 * noted("vgpr_spill_count"), noted("private_segment_fixed_size"))
        return noted("vgpr_count"), spilled, kernel.metadata.shared, text.count(PRODUCT[target])
    from triton.knobs import nvidia

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [nvidia.cuobjdump.path, "-res-usage", file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", said))
    return (
        int(found["REG"]),
        max(int(found["STACK"]), int(found["LOCAL"])),
        kernel.metadata.shared,
        kernel.asm["ptx"].count(PRODUCT[target]),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", type=int, metavar="N", help="compile N cases and compare with the committed table")
    parser.add_argument("--only", default="", help="operator to compile (nothing is written)")
    parser.add_argument("--width", type=int, action="append", help="head dimensions to compile (nothing is written)")
    parser.add_argument("--target", default="", help="target to compile for (nothing is written)")
    parser.add_argument("--dtype", default="", help="dtype to compile (nothing is written)")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    options = parser.parse_args()
    chosen = [
        c
        for c in cases()
        if options.only in ("", c.operator)
        and options.target in ("", c.target)
        and options.dtype in ("", c.dtype)
        and c.width in (options.width or {c.width})
    ]
    if options.check:
        chosen = random.Random(0).sample(chosen, options.check)
    made: list[Row] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for part in pool.map(rows, chosen):
            for row in part:
                used = f"{row.warps}w {row.stages}s {row.registers}r {row.spilled}sp {row.shared}B {row.products}p"
                print(row.name, row.blocks, used, *("FAULT " + fault for fault in row.faults()), flush=True)
            made += part
    if options.check:
        return _compare(made)
    if len(chosen) == len(cases()):
        write(made)
    return 1 if any(row.faults() for row in made) else 0


def committed() -> dict[str, Row]:
    """The committed table by name."""
    return {row.name: row for row in (Row(**r) for r in json.loads(RESULT.read_text())["rows"])}


def environment() -> dict[str, str]:
    """What the committed table was made with."""
    found: dict[str, str] = json.loads(RESULT.read_text())["environment"]
    return found


def committed_version() -> str:
    return environment()["triton"]


def _compare(made: list[Row]) -> int:
    known = committed()
    wrong = [row.name for row in made if known.get(row.name) != row]
    for name in wrong:
        print(f"differs from {RESULT.name}: {name}; run: make kernels", file=sys.stderr)
    return 1 if wrong else 0


def write(made: list[Row]) -> None:
    """The committed table, and the page made from it."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "command": "python -m benchmarks.kernels"}
    lines = ",\n  ".join(json.dumps(asdict(row)) for row in made)
    RESULT.write_text(f'{{"environment": {json.dumps(versions)},\n "rows": [\n  {lines}\n ]}}\n')
    PAGE.write_text(page(made, versions))


def page(made: list[Row], versions: dict[str, str]) -> str:
    """docs/kernels.md: per kernel and target the extremes over its variants and widths, then the roofline."""
    from benchmarks.roofline import table

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
    compiled = "\n".join(lines)
    return PAGE_TEXT.format(count=len(made), table=compiled, roofline=table(), **versions)


PAGE_TEXT = """# Kernels

What `lrp_kernels` runs on a GPU, as the compilers see it. This page is written by `{command}` (`make kernels`);
the test `tests/benchmarks/test_kernels.py` compiles a sample again and compares.

## Where they run

One decision per call (`lrp_hooks.ops.backend`, shown by `lrp-hooks doctor`): `auto` takes the kernels for tensors on a CUDA
or HIP device and plain PyTorch elsewhere; what a kernel does not take goes to plain PyTorch, and the reason is logged
once. `LRP_HOOKS_BACKEND=triton` and `set_backend("triton")` never fall back: they raise `BackendError` with the reason.

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
- **Norm, gated product, relevance**: wherever their rules run.

The tests run all of this in triton's interpreter, kernels one by one and models end to end
(`tests/lrp_kernels/interpreted`).

## Compiled ahead of time

{count} launches with triton {triton}: head dimensions 16, 32, 64, 80, 96, 128, 256 (attention in float32 up to 128), in
bf16, fp16 and fp32, with the blocks, warps and stages that the launchers would use there. Registers per thread; spilled
bytes per thread; in fp32 the products are three tf32 products on NVIDIA and float32 instructions on AMD, where small
tiles on sm_90 use `mma.sync`, not the counted `wgmma`.

{table}

## Roofline

The least time on an H100 SXM (989 TFLOP/s bf16, 3.35 TB/s), from shapes alone: every tensor read once, every result
written once, causal halves skipped, all rows active. `python -m benchmarks.gpu` measures on a GPU and prints measured
divided by floor; nothing on this page was measured on one.

{roofline}
"""


if __name__ == "__main__":
    sys.exit(main())
