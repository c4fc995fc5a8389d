"""Edges of one attention call, tile by tile; heads are summed in registers, so nothing larger than a tile exists.

    A[j,i] = sum_h P_ji (c_v <o_j, v~_i> + c_k lambda_ji (<o_j, v_i> - D_j) scale <q_j, k~_i>)  + [i = j] diagonal_j

The same tile is stored densely, counted into a histogram, listed above a threshold or summed over rows and columns, as
asked: see `reference.py`, `summed.py` and `streamed.py` for what each means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrp_kernels.attention.interval import Interval
from lrp_kernels.edges.call import AttentionCall
from lrp_kernels.edges.results import BINS, EdgeHistogram, EdgeList, EdgeParts
from lrp_kernels.launch import (
    Launch,
    Sizes,
    Target,
    UnsupportedInput,
    aligned,
    blocks,
    check_dtype,
    chunk,
    power_of_two,
    rows_dense,
    run,
    sizes_for,
    target_of,
)
from lrp_kernels.tile import LOG2E, exponent, masked, product, scored

GROUP = tl.constexpr(16)
"""Row blocks that share columns while these are in the cache."""
BINS_ = tl.constexpr(BINS)
LOW_BITS = tl.constexpr(40)
"""A histogram's entry holds the number of edges above these bits, and in them the sum of what the bin leaves out of
each edge, 16 bits: one atomic addition an edge. Neither overflows up to ``COUNTED`` edges."""
COUNTED = (1 << 23) - 1
COPIES = 64
"""Of the histogram at most: tiles add to different ones, so that they seldom wait for one another."""


@triton.jit
def edge_tiles_kernel(
    Q, K, V, O_GRAD, K_CARRY, V_CARRY, LSE, D, UNIT, ROWS, FIRST, END, MASK, DIAGONAL,
    DENSE, COUNT, FOUND, TARGET, SOURCE, WEIGHT, ROW_SUM, COLUMN_SUM,
    q_head, q_row, k_head, k_row, v_head, v_row, o_grad_head, o_grad_row,
    k_carry_head, k_carry_row, v_carry_head, v_carry_row, mask_head, mask_row,
    n_rows, n_columns, row_blocks, column_blocks, first_tile, copies, heads, per_group, capacity,
    scale, softcap, value, key, at_least,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, CHUNK: tl.constexpr, VALUE_CHUNK: tl.constexpr,
    CAP: tl.constexpr, KEY: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    number = first_tile + tl.program_id(0).to(tl.int64)
    band = number // (GROUP * column_blocks)
    size = tl.minimum(row_blocks - band * GROUP, GROUP)
    row_block = band * GROUP + number % (GROUP * column_blocks) % size
    column_block = number % (GROUP * column_blocks) // size
    position = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    column = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    in_rows, in_columns = position < n_rows, column < n_columns
    row = tl.load(ROWS + position, mask=in_rows, other=0)
    first = tl.load(FIRST + row, mask=in_rows, other=n_columns)
    end = tl.load(END + row, mask=in_rows, other=0)
    touched = (column_block * BLOCK_N < tl.max(end)) & (column_block * BLOCK_N + BLOCK_N > tl.min(first))
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for index in range(0, tl.where(touched, heads, 0)):
        head = tl.cast(index, tl.int64)
        group = head // per_group
        line = head * n_rows + position
        q_at, o_at = Q + head * q_head, O_GRAD + head * o_grad_head
        raw = product(
            q_at, row * q_row, in_rows, K + group * k_head, column * k_row, in_columns, WIDTH, CHUNK, PRECISION
        )
        scores, slope = scored(raw, scale, softcap, CAP)
        if MASK is not None:
            mask_at = head * mask_head + row[:, None] * mask_row + column[None, :]
            scores = masked(scores, MASK, mask_at, in_rows[:, None] & in_columns[None, :])
        weight = tl.exp2(scores - exponent(tl.load(LSE + line, mask=in_rows, other=0.0))[:, None])
        toward = product(
            o_at,
            row * o_grad_row,
            in_rows,
            V + group * v_head,
            column * v_row,
            in_columns,
            VALUE_WIDTH,
            VALUE_CHUNK,
            PRECISION,
        )
        if V_CARRY is not None:
            flow = value * product(
                o_at, row * o_grad_row, in_rows, V_CARRY + group * v_carry_head, column * v_carry_row, in_columns,
                VALUE_WIDTH, VALUE_CHUNK, PRECISION,
            )  # fmt: skip
        else:
            flow = value * toward
        if KEY:
            if K_CARRY is not None:
                raw = product(
                    q_at, row * q_row, in_rows, K_CARRY + group * k_carry_head, column * k_carry_row, in_columns,
                    WIDTH, CHUNK, PRECISION,
                )  # fmt: skip
            kept = tl.load(D + line, mask=in_rows, other=0.0)
            flow += slope * (toward - kept[:, None]) * raw * (scale * key)
        total += weight * flow
    # outside the intervals the weights above may be anything: they are dropped once, not head by head
    here = column.to(tl.int32)[None, :]
    total = tl.where((here >= first[:, None]) & (here < end[:, None]), total * tl.load(UNIT), 0.0)
    inside = in_rows[:, None] & in_columns[None, :]
    if DIAGONAL is not None:
        diagonal = tl.load(DIAGONAL + row, mask=in_rows, other=0.0)
        total += tl.where(row[:, None] == column[None, :], diagonal[:, None], 0.0)
    if DENSE is not None:
        tl.store(DENSE + position[:, None] * n_columns + column[None, :], total, mask=inside)
    if COUNT is not None:
        bits = total.to(tl.int32, bitcast=True) & 0x7FFFFFFF
        copy = COUNT + (tl.program_id(0) % copies) * BINS_
        added = (bits & 0xFFFF).to(tl.int64) + (tl.full((1, 1), 1, tl.int64) << LOW_BITS)
        tl.atomic_add(copy + (bits >> 16), added, mask=inside & (bits != 0), sem="relaxed")
    if FOUND is not None:
        keep = (inside & (total != 0.0) & (tl.abs(total) >= at_least)).to(tl.int32)
        in_row = tl.sum(keep, 1)
        count = tl.sum(in_row)
        if count > 0:
            start = tl.atomic_add(FOUND, count.to(tl.int64), sem="relaxed")
            before = tl.cumsum(in_row, 0) - in_row
            place = before[:, None] + tl.cumsum(keep, 1) - keep
            stored = (keep != 0) & (place < capacity - start)
            nothing = tl.zeros((BLOCK_M, BLOCK_N), tl.int32)
            tl.store(TARGET + start + place, nothing + row.to(tl.int32)[:, None], mask=stored)
            tl.store(SOURCE + start + place, nothing + column.to(tl.int32)[None, :], mask=stored)
            tl.store(WEIGHT + start + place, total, mask=stored)
    if ROW_SUM is not None:
        here = tl.where(inside, total, 0.0)
        tl.atomic_add(ROW_SUM + position, tl.sum(here, 1).to(tl.float64), mask=in_rows, sem="relaxed")
        tl.atomic_add(COLUMN_SUM + column, tl.sum(here, 0).to(tl.float64), mask=in_columns, sem="relaxed")


@triton.jit
def row_lse_kernel(
    Q, K, SINKS, ROWS, FIRST, END, MASK, LSE,
    q_head, q_row, k_head, k_row, mask_head, mask_row,
    n_rows, n_columns, per_group, scale, softcap,
    WIDTH: tl.constexpr, CHUNK: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of the scores of some rows of one head."""
    head = tl.program_id(1).to(tl.int64)
    position = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    in_rows = position < n_rows
    row = tl.load(ROWS + position, mask=in_rows, other=0)
    first = tl.load(FIRST + row, mask=in_rows, other=n_columns)
    end = tl.load(END + row, mask=in_rows, other=0)
    if SINKS is not None:
        highest = tl.full((BLOCK_M,), 0.0, tl.float32) + tl.load(SINKS + head).to(tl.float32) * LOG2E
        total = tl.full((BLOCK_M,), 1.0, tl.float32)
    else:
        highest = tl.full((BLOCK_M,), -float("inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(tl.min(first) // BLOCK_N * BLOCK_N, tl.max(end), BLOCK_N):
        column = tl.cast(start, tl.int64) + tl.arange(0, BLOCK_N)
        in_columns = column < n_columns
        raw = product(
            Q + head * q_head, row * q_row, in_rows, K + (head // per_group) * k_head, column * k_row, in_columns,
            WIDTH, CHUNK, PRECISION,
        )  # fmt: skip
        scores, _ = scored(raw, scale, softcap, CAP)
        here = column.to(tl.int32)[None, :]
        inside = (here >= first[:, None]) & (here < end[:, None])
        scores = masked(scores, MASK, head * mask_head + row[:, None] * mask_row + column[None, :], inside)
        new = tl.maximum(highest, tl.max(scores, 1))
        shift = tl.where(new == -float("inf"), 0.0, new)
        total = total * tl.exp2(highest - shift) + tl.sum(tl.exp2(scores - shift[:, None]), 1)
        highest = new
    lse = (highest + tl.log2(tl.where(total == 0.0, 1.0, total))) / LOG2E
    tl.store(LSE + head * n_rows + position, lse, mask=in_rows)


@triton.jit
def edge_parts_kernel(
    Q, K, V, O_GRAD, K_CARRY, V_CARRY, LSE, D, UNIT, TARGET, SOURCE, POSITION, FIRST, END, MASK,
    VALUE, KEY_PART, HEAD, HEAD_WEIGHT,
    q_head, q_row, k_head, k_row, v_head, v_row, o_grad_head, o_grad_row,
    k_carry_head, k_carry_row, v_carry_head, v_carry_row, mask_head, mask_row,
    n_edges, n_rows, heads, per_group, scale, softcap, value, key,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, CAP: tl.constexpr, KEY: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """Value and key path, the strongest head and its share, of listed edges: four rows gathered per edge and head."""
    number = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    listed = number < n_edges
    row = tl.load(TARGET + number, mask=listed, other=0)
    column = tl.load(SOURCE + number, mask=listed, other=0)
    position = tl.load(POSITION + number, mask=listed, other=0)
    first, end = tl.load(FIRST + row, mask=listed, other=1), tl.load(END + row, mask=listed, other=0)
    inside = listed & (column >= first) & (column < end)
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
    in_d, in_e = inside[:, None] & (d < WIDTH)[None, :], inside[:, None] & (e < VALUE_WIDTH)[None, :]
    value_part = tl.zeros((BLOCK_M,), tl.float32)
    key_part = tl.zeros((BLOCK_M,), tl.float32)
    best = tl.zeros((BLOCK_M,), tl.float32)
    best_head = tl.zeros((BLOCK_M,), tl.int32)
    for index in range(0, heads):
        head = tl.cast(index, tl.int64)
        group = head // per_group
        q = tl.load(Q + head * q_head + row[:, None] * q_row + d[None, :], mask=in_d, other=0.0).to(tl.float32)
        k = tl.load(K + group * k_head + column[:, None] * k_row + d[None, :], mask=in_d, other=0.0).to(tl.float32)
        raw = tl.sum(q * k, 1)
        scores, slope = scored(raw, scale, softcap, CAP)
        scores = masked(scores, MASK, head * mask_head + row * mask_row + column, inside)
        weight = tl.exp2(scores - exponent(tl.load(LSE + head * n_rows + position, mask=listed, other=0.0)))
        o = tl.load(O_GRAD + head * o_grad_head + row[:, None] * o_grad_row + e[None, :], mask=in_e, other=0.0).to(
            tl.float32
        )
        v = tl.load(V + group * v_head + column[:, None] * v_row + e[None, :], mask=in_e, other=0.0).to(tl.float32)
        toward = tl.sum(o * v, 1)
        carried = toward
        if V_CARRY is not None:
            at = V_CARRY + group * v_carry_head + column[:, None] * v_carry_row + e[None, :]
            carried = tl.sum(o * tl.load(at, mask=in_e, other=0.0).to(tl.float32), 1)
        to_value = weight * carried * value
        to_key = tl.zeros((BLOCK_M,), tl.float32)
        if KEY:
            if K_CARRY is not None:
                at = K_CARRY + group * k_carry_head + column[:, None] * k_carry_row + d[None, :]
                raw = tl.sum(q * tl.load(at, mask=in_d, other=0.0).to(tl.float32), 1)
            kept = tl.load(D + head * n_rows + position, mask=listed, other=0.0)
            to_key = weight * slope * (toward - kept) * raw * (scale * key)
        value_part += to_value
        key_part += to_key
        stronger = tl.abs(to_value + to_key) > tl.abs(best)
        best = tl.where(stronger, to_value + to_key, best)
        best_head = tl.where(stronger, index, best_head)
    unit = tl.load(UNIT)
    tl.store(VALUE + number, value_part * unit, mask=listed)
    tl.store(KEY_PART + number, key_part * unit, mask=listed)
    tl.store(HEAD + number, best_head, mask=listed)
    tl.store(HEAD_WEIGHT + number, best * unit, mask=listed)


def edge_sums(call: AttentionCall, rows: Tensor) -> Tensor:
    """[R, C] float32 edges into the query rows [R] (ascending), summed over heads; columns beyond C have none."""
    dense = call.D.new_empty(len(rows), call.columns(rows), dtype=torch.float32)
    _Tiles(call, rows).make(dense.shape[1], DENSE=dense)
    return dense


def edge_dense(call: AttentionCall, rows: Tensor, columns: int, diagonal: Tensor | None = None) -> Tensor:
    """[R, columns] float32 edges with the diagonal."""
    dense = call.D.new_empty(len(rows), columns, dtype=torch.float32)
    _Tiles(call, rows).make(columns, diagonal, DENSE=dense)
    return dense


def edge_histogram(call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None) -> EdgeHistogram:
    """Count and mass over the bins, exact and independent of the order of summation.

    What the kernel adds up are integers: edges per bin, and the 16 bits that the bin leaves out. With the bin's own
    leading bits they give the sum of |A| exactly.
    """
    count, low = _Tiles(call, rows).counted(call.k.shape[1], diagonal)
    return EdgeHistogram(count, mass_of_bins(count, low))


def mass_of_bins(count: Tensor, low: Tensor) -> Tensor:
    """[BINS] float64 sum of |A| from the count and the summed low 16 bits of each bin's float32 numbers."""
    leading, ulp = _bins(count.device)
    return (count.double() * leading + low.double()) * ulp


@cache
def _bins(device: torch.device) -> tuple[Tensor, Tensor]:
    """[BINS] float64 each: the leading bits of a bin's numbers, in units of their last place, and that unit."""
    bins = torch.arange(BINS, dtype=torch.int64, device=device)
    exponent, leading = bins >> 7, (bins & 127) << 16
    leading = leading + (exponent > 0).long() * (1 << 23)  # the implicit bit of normal numbers
    return leading.double(), torch.ldexp(
        torch.ones(BINS, dtype=torch.float64, device=device), exponent.clamp(min=1) - 150
    )


def edge_list(
    call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None, *, at_least: float = 0.0, expected: int = 1 << 16
) -> EdgeList:
    """Non-zero edges with |A| >= ``at_least``, ordered by row and column.

    ``expected``: how many are reckoned with (a histogram knows); more are found by a second run.
    """
    tiles = _Tiles(call, rows)
    while True:
        found = call.D.new_zeros(1, dtype=torch.int64)
        target, source = call.D.new_empty(2, max(expected, 1), dtype=torch.int32)
        weight = call.D.new_empty(max(expected, 1), dtype=torch.float32)
        tiles.make(
            call.k.shape[1], diagonal, FOUND=found, TARGET=target, SOURCE=source, WEIGHT=weight,
            capacity=expected, at_least=at_least,
        )  # fmt: skip
        count = int(found)
        if count <= expected:
            break
        expected = count
    target, source, weight = target[:count].long(), source[:count].long(), weight[:count]
    order = (target * call.k.shape[1] + source).argsort()
    return EdgeList(target[order], source[order], weight[order])


def edge_totals(call: AttentionCall, rows: Tensor, diagonal: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(sum over columns [R], sum over the given rows [T]) of the edges; tiles in float32, between tiles float64."""
    row_sum = call.D.new_zeros(len(rows), dtype=torch.float64)
    column_sum = call.D.new_zeros(call.k.shape[1], dtype=torch.float64)
    _Tiles(call, rows).make(call.k.shape[1], diagonal, ROW_SUM=row_sum, COLUMN_SUM=column_sum)
    return row_sum, column_sum


def row_lse(call: AttentionCall, rows: Tensor) -> Tensor:
    """[H, R] float32 log-sum-exp of the scores of the query rows [R], whatever the forward pass kept."""
    return _Tiles(replace(call, lse=None), rows).lse


def edge_parts(call: AttentionCall, target: Tensor, source: Tensor) -> EdgeParts:
    """Value and key path, strongest head and its signed share of the edges target[E] <- source[E]."""
    rows, position = torch.unique(target, return_inverse=True)
    return listed_parts(call, rows, position, target, source)


def listed_parts(call: AttentionCall, rows: Tensor, position: Tensor, target: Tensor, source: Tensor) -> EdgeParts:
    """The same, given the rows that occur and where each target is among them."""
    tiles, count = _Tiles(call, rows), len(target)
    value, key, head_weight = call.D.new_empty(3, count, dtype=torch.float32)
    head = call.D.new_empty(count, dtype=torch.int32)
    arguments = tiles.arguments()
    launch = parts_launch(call.q.shape[2], call.v.shape[2])
    names = ("ROWS", "CHUNK", "VALUE_CHUNK", "PRECISION")
    run(
        edge_parts_kernel,
        (blocks(count, launch.blocks["BLOCK_M"]),),
        launch,
        **{name: x for name, x in arguments.items() if name not in names},
        TARGET=target.contiguous(), SOURCE=source.contiguous(), POSITION=position,
        VALUE=value, KEY_PART=key, HEAD=head, HEAD_WEIGHT=head_weight, n_edges=count,
    )  # fmt: skip
    return EdgeParts(value, key, head.long(), head_weight)


class _Tiles:
    """One call and some of its rows, ready for kernels: checked, with log-sum-exp and D of the rows."""

    def __init__(self, call: AttentionCall, rows: Tensor) -> None:
        check_dtype("queries, keys and values", call.q, call.k, call.v)
        if call.heads % call.k.shape[0]:
            raise UnsupportedInput(f"{call.heads} query heads are no multiple of {call.k.shape[0]} key heads")
        self.call, self.rows, self.target = call, rows.contiguous(), target_of(call.q)
        self.q, self.k, self.v = aligned(call.q), aligned(call.k), aligned(call.v)
        dtype = call.q.dtype
        self.k_carry = None if call.k_carry is call.k else aligned(call.k_carry.to(dtype))
        self.v_carry = None if call.v_carry is call.v else aligned(call.v_carry.to(dtype))
        self.interval = _interval(call)
        self.mask = None if call.mask is None else rows_dense(call.mask)
        if self.mask is not None and self.mask.dtype == torch.bool:
            self.mask = self.mask.view(torch.uint8)
        unit = _unit(call.o, dtype)
        self.o = aligned((call.o * unit).to(dtype) if dtype == torch.float16 else call.o.to(dtype))
        self.unit = 1.0 / unit
        self.D = (call.D[:, self.rows].float() * unit).contiguous()
        self.lse = self._lse() if call.lse is None else call.lse[:, self.rows].float().contiguous()

    def make(self, columns: int, diagonal: Tensor | None = None, **outputs: Any) -> None:
        """Run over all tiles of [rows, columns]; ``outputs`` say what is made of them."""
        launch = self._launch("FOUND" in outputs)
        rows, size = self._tiles(launch, columns)
        self._run(launch, range(rows * size), columns, diagonal, outputs)

    def counted(self, columns: int, diagonal: Tensor | None) -> tuple[Tensor, Tensor]:
        """[BINS] int64 each: non-zero edges, and the sum of the low 16 bits of their float32 numbers.

        Tiles are counted a part at a time, as many as the copies of the histogram hold without overflow.
        """
        launch = self._launch(False)
        rows, size = self._tiles(launch, columns)
        number, a_copy = rows * size, COUNTED // (launch.blocks["BLOCK_M"] * launch.blocks["BLOCK_N"])
        copies = max(1, min(COPIES, number))
        count, low = self.D.new_zeros(2, BINS, dtype=torch.int64)
        for first in range(0, number, copies * a_copy):
            made = self.D.new_zeros(copies, BINS, dtype=torch.int64)
            part = range(first, min(number, first + copies * a_copy))
            self._run(launch, part, columns, diagonal, {"COUNT": made, "copies": copies})
            count += (made >> LOW_BITS.value).sum(0)
            low += (made & ((1 << LOW_BITS.value) - 1)).sum(0)
        return count, low

    def _tiles(self, launch: Launch, columns: int) -> tuple[int, int]:
        return blocks(len(self.rows), launch.blocks["BLOCK_M"]), blocks(columns, launch.blocks["BLOCK_N"])

    def _run(
        self, launch: Launch, tiles: range, columns: int, diagonal: Tensor | None, outputs: Mapping[str, Any]
    ) -> None:
        """Run over some tiles, numbered as the kernel does."""
        names = ("DENSE", "COUNT", "FOUND", "TARGET", "SOURCE", "WEIGHT", "ROW_SUM", "COLUMN_SUM")
        rows, size = self._tiles(launch, columns)
        run(
            edge_tiles_kernel,
            (len(tiles),),
            launch,
            **self.arguments(), **{name: outputs.get(name) for name in names},
            DIAGONAL=None if diagonal is None else diagonal.float().contiguous(),
            n_columns=columns, row_blocks=rows, column_blocks=size, first_tile=tiles.start,
            copies=outputs.get("copies", 1), capacity=outputs.get("capacity", 0),
            at_least=float(outputs.get("at_least", 0.0)),
        )  # fmt: skip

    def arguments(self) -> dict[str, Any]:
        """What every kernel over edges takes."""
        call = self.call
        at: dict[str, Any] = {"UNIT": self.unit, "LSE": self.lse, "D": self.D, "ROWS": self.rows}
        at |= {"FIRST": self.interval.first, "END": self.interval.end}
        tensors = {"q": self.q, "k": self.k, "v": self.v, "o_grad": self.o, "mask": self.mask}
        tensors |= {"k_carry": self.k_carry, "v_carry": self.v_carry}
        for name, x in tensors.items():
            at |= {name.upper(): x, f"{name}_head": 0, f"{name}_row": 0}
            if x is not None:  # one mask serves all heads
                at |= {f"{name}_head": x.stride(0) if x.shape[0] > 1 else 0, f"{name}_row": x.stride(1)}
        return at | {
            "n_rows": len(self.rows),
            "heads": call.heads,
            "per_group": call.heads // call.k.shape[0],
            "scale": float(call.scale),
            "softcap": float(call.softcap or 1.0),
            "value": float(call.value),
            "key": float(call.key),
            "WIDTH": self.q.shape[2],
            "VALUE_WIDTH": self.v.shape[2],
            "CHUNK": _chunk(self.q),
            "VALUE_CHUNK": _chunk(self.v),
            "CAP": _cap(call),
            "KEY": bool(call.key),
            "PRECISION": self.target.precision,
        }

    def _launch(self, listed: bool) -> Launch:
        beside = any(x is not None for x in (self.mask, self.k_carry, self.v_carry))
        rich = beside or self.call.softcap is not None
        table = (RICHEST if rich else LISTED) if listed else RICH if rich else PLAIN
        return tiles_launch(table, self.target, self.call.q.dtype, max(self.q.shape[2], self.v.shape[2]))

    def _lse(self) -> Tensor:
        call, columns = self.call, self.k.shape[1]
        lse = self.D.new_empty(call.heads, len(self.rows))
        launch, mask = self._launch(False), self.mask
        if call.q.dtype == torch.float32 and mask is None and call.softcap is None:  # with 8 warps a width of 80 spills
            launch = replace(launch, warps=4)
        run(
            row_lse_kernel,
            (blocks(len(self.rows), launch.blocks["BLOCK_M"]), call.heads),
            launch,
            Q=self.q, K=self.k, SINKS=call.sinks, ROWS=self.rows, FIRST=self.interval.first, END=self.interval.end,
            MASK=mask, LSE=lse, q_head=self.q.stride(0), q_row=self.q.stride(1),
            k_head=self.k.stride(0), k_row=self.k.stride(1),
            mask_head=mask.stride(0) if mask is not None and mask.shape[0] > 1 else 0,
            mask_row=0 if mask is None else mask.stride(1),
            n_rows=len(self.rows), n_columns=columns, per_group=call.heads // call.k.shape[0],
            scale=float(call.scale), softcap=float(call.softcap or 1.0),
            WIDTH=self.q.shape[2], CHUNK=_chunk(self.q), CAP=_cap(call), PRECISION=self.target.precision,
        )  # fmt: skip
        return lse


ANY = 1 << 16
PLAIN: dict[str, tuple[Sizes, ...]] = {
    "interpreter": ((ANY, 16, 16, 4, 1),),
    "sm_80 half": ((128, 128, 64, 8, 2), (ANY, 64, 64, 8, 2)),
    "sm_90 half": ((ANY, 128, 64, 8, 2),),
    "gfx942 half": ((ANY, 64, 64, 4, 1),),
    "sm_80 float32": ((ANY, 64, 32, 8, 2),),
    "sm_90 float32": ((ANY, 64, 32, 8, 2),),
    "gfx942 float32": ((ANY, 64, 32, 4, 1),),
}
"""Blocks of the edge tiles and of the log-sum-exp. sm_90: the fastest on an H200 that spills nothing. Elsewhere chosen
by compiling: the first that spills nothing and fits."""
RICH = PLAIN | {
    "sm_80 half": ((128, 64, 32, 8, 2), (ANY, 64, 64, 8, 2)),
    "sm_90 half": ((ANY, 64, 64, 8, 2),),
}
"""The same where more is kept beside the scores: a mask, a softcap, carried parts, positions in a list."""
LISTED = RICH | {"sm_90 half": ((128, 128, 64, 8, 2), (ANY, 64, 64, 8, 2))}
"""For a list alone."""
RICHEST = RICH | {
    "sm_80 half": ((128, 64, 32, 8, 2), (ANY, 64, 32, 8, 1)),
    "sm_90 half": ((128, 64, 64, 8, 2), (ANY, 64, 64, 8, 1)),
}
"""And for a list beside a mask, a softcap or carried parts."""


def tiles_launch(table: Mapping[str, tuple[Sizes, ...]], target: Target, dtype: torch.dtype, width: int) -> Launch:
    """Blocks for a head dimension."""
    _, rows, columns, warps, stages = sizes_for(table, "edges", target, dtype, width)
    return Launch({"BLOCK_M": rows, "BLOCK_N": columns}, warps, stages)


def parts_launch(width: int, value_width: int) -> Launch:
    """Blocks of the kernel over listed edges."""
    d, e = power_of_two(width), power_of_two(value_width)
    return Launch({"BLOCK_M": max(4, 2048 // max(d, e)), "BLOCK_D": d, "BLOCK_E": e}, warps=4, stages=1)


def _chunk(x: Tensor) -> int:
    """Head dimensions of one product: 128 bytes of a row."""
    return chunk(x.shape[2], 128 // x.element_size())


def _cap(call: AttentionCall) -> int:
    return 0 if call.softcap is None else 1 + call.slope


def _interval(call: AttentionCall) -> Interval:
    if call.interval is not None:
        return call.interval
    columns, device = call.k.shape[1], call.q.device
    if call.mask is None:
        return Interval.causal(call.length, device=device)
    first = torch.zeros(call.length, dtype=torch.int32, device=device)
    return Interval(first, torch.full_like(first, columns))


def _unit(o: Tensor, dtype: torch.dtype) -> Tensor:
    """[1] float32: a power of two that brings gradients into float16's range, where they are small; else 1."""
    if dtype != torch.float16:
        return torch.ones(1, device=o.device)
    largest = o.abs().amax().float().clamp(min=1e-30)
    return torch.exp2(15 - torch.ceil(torch.log2(largest))).reshape(1)
