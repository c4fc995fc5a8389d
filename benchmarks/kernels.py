"""Every triton kernel compiled for the GPUs it is meant for, without one, and what the compilers report.

    python -m benchmarks.kernels               # compiles what the committed table lacks or what changed since
    python -m benchmarks.kernels --all         # compiles everything again
    python -m benchmarks.kernels --check 12    # compiles a sample and compares it with the committed table

Written are results/kernels.json and docs/kernels.md. Each row carries a fingerprint of what was compiled: an edited
kernel, another block size or another argument makes the row outdated, which a test notices without compiling.
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
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from lrp_kernels.launch import Call

from benchmarks.fingerprint import fingerprint, specialised
from benchmarks.launches import TARGETS, Case, cases, launches

RESULT = Path(__file__).parent / "results" / "kernels.json"
PAGE = Path(__file__).parent.parent / "docs" / "kernels.md"
PRODUCT = {"sm_80": "mma.sync", "sm_90": "wgmma.mma_async", "gfx942": "v_mfma"}
"""The instruction in which a matrix product must end in bf16 and fp16."""
MATRIX_KERNELS = frozenset({
    "edge_tiles_kernel", "row_lse_kernel", "attention_forward_kernel", "attention_columns_kernel",
    "attention_rows_kernel",
})  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One launch and what the compiler made of it. Sizes in bytes, registers per thread."""

    kernel: str
    variant: str
    target: str
    dtype: str
    width: int
    value_width: int
    blocks: str
    warps: int
    stages: int
    fingerprint: str
    registers: int = -1
    spilled: int = -1
    shared: int = -1
    products: int = -1

    @property
    def name(self) -> str:
        widths = f"{self.width}" if self.width == self.value_width else f"{self.width}/{self.value_width}"
        return " ".join(filter(None, (self.kernel, self.variant, self.target, self.dtype, widths)))

    @property
    def launch(self) -> Row:
        """The row before its compilation."""
        return replace(self, registers=-1, spilled=-1, shared=-1, products=-1)

    def with_results_of(self, other: Row) -> Row:
        """What the compiler made of another launch with the same fingerprint."""
        return replace(
            self, registers=other.registers, spilled=other.spilled, shared=other.shared, products=other.products
        )

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


def launched(case: Case) -> dict[Row, Call]:
    """The rows of a case as its launchers start them today, not compiled."""
    return {
        Row(
            call.kernel.__name__, variant, case.target, case.dtype, case.width, case.value_width,
            " ".join(f"{name[6:]}={size}" for name, size in call.launch.blocks.items()),
            call.launch.warps, call.launch.stages, fingerprint(call, case.target),
        ): call
        for variant, call in launches(case)
    }  # fmt: skip


def compiled(call: Call, target: str) -> Any:
    """The launch compiled as triton would on that GPU."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    types, constants, divisors = specialised(call)
    at = {parameter.name: number for number, parameter in enumerate(call.kernel.params)}
    attributes = {(at[name],): [["tt.divisibility", divisor]] for name, divisor in divisors.items()}
    where = TARGETS[target]
    gpu = GPUTarget(where.backend, where.arch, 64 if where.backend == "hip" else 32)
    return triton.compile(
        ASTSource(call.kernel, types, constants, attributes), target=gpu, options=dict(call.launch.options)
    )


def rows(case: Case, wanted: Iterable[str] | None = None) -> list[Row]:
    """Compile one case, or the rows of these names."""
    made = []
    for row, call in launched(case).items():
        if wanted is None or row.name in wanted:
            registers, spilled, shared, products = _resources(compiled(call, case.target), case.target)
            made.append(replace(row, registers=registers, spilled=spilled, shared=shared, products=products))
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


def committed() -> dict[str, Row]:
    """The committed table by name."""
    return {row.name: row for row in (Row(*values) for values in json.loads(RESULT.read_text())["rows"])}


def environment() -> dict[str, str]:
    """What the committed table was made with."""
    found: dict[str, str] = json.loads(RESULT.read_text())["environment"]
    return found


def outdated(known: Mapping[str, Row]) -> list[str]:
    """Names that a table lacks, holds from another source, block size or argument, or holds with nothing to start."""
    today = {row.name: row for case in cases() for row in launched(case)}
    changed = [name for name, row in today.items() if name not in known or known[name].launch != row]
    return changed + [name for name in known if name not in today]


def missing(made: Iterable[str], chosen: Iterable[Case]) -> dict[Case, list[str]]:
    """Names of rows to compile, by case: one of each fingerprint that is not there."""
    seen, found = set(made), dict[Case, list[str]]()
    for case in chosen:
        for row in launched(case):
            if row.fingerprint not in seen:
                seen.add(row.fingerprint)
                found.setdefault(case, []).append(row.name)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--all", action="store_true", help="compile what is recorded too")
    parser.add_argument("--check", type=int, metavar="N", help="compile N rows and compare with the committed table")
    parser.add_argument("--only", default="", help="operator to compile (nothing is written)")
    parser.add_argument("--width", type=int, action="append", help="head dimensions to compile (nothing is written)")
    parser.add_argument("--target", default="", help="target to compile for (nothing is written)")
    parser.add_argument("--dtype", default="", help="dtype to compile (nothing is written)")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) - 1))
    options = parser.parse_args()
    everything = cases()
    chosen = [
        c
        for c in everything
        if options.only in ("", c.operator)
        and options.target in ("", c.target)
        and options.dtype in ("", c.dtype)
        and c.width in (options.width or {c.width})
    ]
    known = committed()
    if options.check:
        return _check(known, chosen, options.check)
    import triton

    fresh = options.all or environment()["triton"] != triton.__version__
    made = {} if fresh else {row.fingerprint: row for row in known.values()}
    todo = missing(made, chosen)
    with ProcessPoolExecutor(options.jobs) as pool:
        for part in pool.map(rows, todo, todo.values()):
            made |= {row.fingerprint: row for row in part}
            _report(part)
            if len(chosen) == len(everything):  # kept at once: an interrupted run goes on where it was
                _save(made.values())
    table = [row.with_results_of(made[row.fingerprint]) for case in chosen for row in launched(case)]
    if len(chosen) == len(everything):
        write(table)
    return 1 if any(row.faults() for row in table) else 0


def _report(made: Iterable[Row]) -> None:
    for row in made:
        used = f"{row.warps}w {row.stages}s {row.registers}r {row.spilled}sp {row.shared}B {row.products}p"
        print(row.name, row.blocks, used, *("FAULT " + fault for fault in row.faults()), flush=True)


def _check(known: Mapping[str, Row], chosen: list[Case], count: int) -> int:
    """Compile some rows; what differs from the table is said."""
    names = [(case, row.name) for case in chosen for row in launched(case)]
    wrong = []
    for case, name in random.Random(0).sample(names, min(count, len(names))):
        made = rows(case, [name])
        _report(made)
        wrong += [row.name for row in made if known.get(row.name) != row]
    for name in wrong:
        print(f"differs from {RESULT.name}: {name}; do: make kernels", file=sys.stderr)
    return 1 if wrong else 0


def _save(made: Iterable[Row]) -> dict[str, str]:
    """The committed table: a row of numbers each, in the order of their names. Returns what it was made with."""
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "command": "python -m benchmarks.kernels"}
    columns = json.dumps([field.name for field in fields(Row)])
    lines = ",\n  ".join(json.dumps(astuple(row)) for row in made)
    head = f'"environment": {json.dumps(versions)},\n "columns": {columns}'
    RESULT.write_text(f'{{{head},\n "rows": [\n  {lines}\n ]}}\n')
    return versions


def write(made: list[Row]) -> None:
    """The committed table, and the page made from it."""
    from benchmarks.kernel_page import page

    PAGE.write_text(page(made, _save(made)))


if __name__ == "__main__":
    sys.exit(main())
