"""The attention kernels: forward with its log-sum-exp, and the LRP backward, tile by tile; see `reference.py`.

One program makes one block of rows (forward, dq) or of columns (dk, dv) of one head (of one key head) and visits only
the tiles that its intervals touch. Sums and softmax are float32 whatever the dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lrp_kernels.attention.interval import Interval
from lrp_kernels.attention.rule import AttentionRule
from lrp_kernels.launch import (
    ALIGNED,
    Launch,
    Sizes,
    Target,
    UnsupportedInput,
    aligned,
    blocks,
    check_dtype,
    near,
    power_of_two,
    run,
    sizes_for,
    target_of,
)
from lrp_kernels.tile import LOG2E, dot, exponent, partial_start, scored, split


@triton.jit
def load_rows(X, start, row_stride, rows, width, n_rows, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
    """[rows, width]: rows from ``start`` on, given both ranges; zeros behind ``n_rows`` and ``WIDTH``.

    Only the first row's offset changes from tile to tile: what is added to it is made once. WHOLE: all rows exist.
    """
    at = X + tl.cast(start, tl.int64) * row_stride + ((rows * row_stride)[:, None] + width[None, :])
    if WHOLE and width.shape[0] == WIDTH:
        x = tl.load(at)
    elif WHOLE:
        x = tl.load(at, mask=(width < WIDTH)[None, :], other=0.0)
    else:
        x = tl.load(at, mask=(start + rows < n_rows)[:, None] & (width < WIDTH)[None, :], other=0.0)
    return x


@triton.jit
def seen_columns(first, end, in_rows, n_columns, SIZE: tl.constexpr):
    """`split` of the columns that the rows of a block attend to; whole tiles are those that each row attends to."""
    latest, earliest = tl.where(in_rows, first, 0), tl.where(in_rows, end, n_columns)
    return split(tl.min(first), tl.max(end), tl.max(latest), tl.min(earliest), SIZE)


@triton.jit
def forward_tile(
    out, highest, total, q, K, V, first, end, start, k_row, v_row, n_columns, scale, softcap, d, e,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """(out, highest, total) with one more tile; scores in units of log 2."""
    n = tl.arange(0, BLOCK_N)
    k = load_rows(K, start, k_row, n, d, n_columns, WIDTH, not MASKED)
    scores, _ = scored(dot(q, tl.trans(k), None, PRECISION), scale, softcap, CAP)
    if MASKED:
        here = (start + n)[None, :]
        inside = (here >= first[:, None]) & (here < end[:, None])
        scores = tl.where(inside, scores, -float("inf"))
    new = tl.maximum(highest, tl.max(scores, 1))
    shift = tl.where(new == -float("inf"), 0.0, new)
    weight = tl.exp2(scores - shift[:, None])
    shrink = tl.exp2(highest - shift)
    v = load_rows(V, start, v_row, n, e, n_columns, VALUE_WIDTH, not MASKED)
    out = dot(weight.to(v.dtype), v, out * shrink[:, None], PRECISION)
    return out, new, total * shrink + tl.sum(weight, 1)


@triton.jit
def attention_forward_kernel(
    Q, K, V, SINKS, FIRST, END, OUT, LSE,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row,
    interval_batch, heads, per_group, n_rows, n_columns, scale, softcap,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    block = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)  # long causal rows first
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    in_rows = row < n_rows
    first = tl.load(FIRST + batch * interval_batch + row, mask=in_rows, other=n_columns)
    end = tl.load(END + batch * interval_batch + row, mask=in_rows, other=0)
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
    q = load_rows(
        Q + batch * q_batch + head * q_head, block * BLOCK_M, q_row, tl.arange(0, BLOCK_M), d, n_rows, WIDTH, False
    )
    K += batch * k_batch + (head // per_group) * k_head
    V += batch * v_batch + (head // per_group) * v_head
    if SINKS is not None:  # a score that takes part in the softmax and carries no value
        highest = tl.full((BLOCK_M,), 0.0, tl.float32) + tl.load(SINKS + head).to(tl.float32) * LOG2E
        total = tl.full((BLOCK_M,), 1.0, tl.float32)
    else:
        highest = tl.full((BLOCK_M,), -float("inf"), tl.float32)
        total = tl.zeros((BLOCK_M,), tl.float32)
    out = tl.zeros((BLOCK_M, BLOCK_E), tl.float32)
    low, whole_from, whole_to, partial = seen_columns(first, end, in_rows, n_columns, BLOCK_N)
    for start in range(whole_from, whole_to, BLOCK_N):
        out, highest, total = forward_tile(
            out, highest, total, q, K, V, first, end, start, k_row, v_row, n_columns, scale, softcap, d, e,
            WIDTH, VALUE_WIDTH, CAP, PRECISION, False, BLOCK_N,
        )  # fmt: skip
    for index in range(0, partial):
        start = partial_start(index, low, whole_from, whole_to, BLOCK_N)
        out, highest, total = forward_tile(
            out, highest, total, q, K, V, first, end, start, k_row, v_row, n_columns, scale, softcap, d, e,
            WIDTH, VALUE_WIDTH, CAP, PRECISION, True, BLOCK_N,
        )  # fmt: skip
    total = tl.where(total == 0.0, 1.0, total)  # a row without columns: zeros, and lse = highest = -inf
    lse = (highest + tl.log2(total)) / LOG2E
    tl.store(LSE + tl.program_id(1).to(tl.int64) * n_rows + row, lse, mask=in_rows)
    out = out / total[:, None]
    at = OUT + batch * out_batch + head * out_head + row[:, None] * out_row + e[None, :]
    tl.store(at, out.to(OUT.dtype.element_ty), mask=in_rows[:, None] & (e < VALUE_WIDTH)[None, :])


@triton.jit
def columns_tile(
    d_k, d_v, k, v, Q, O_GRAD, LSE, D, FIRST, END, column, start, q_row, o_row, n_rows, n_columns, scale, softcap, d, e,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr,
    WITH_KEY: tl.constexpr, WITH_VALUE: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """(d_k, d_v) with what the rows from ``start`` on add."""
    m = tl.arange(0, BLOCK_M)
    row = start + m
    in_rows = row < n_rows
    q = load_rows(Q, start, q_row, m, d, n_rows, WIDTH, False)
    o = load_rows(O_GRAD, start, o_row, m, e, n_rows, VALUE_WIDTH, False)
    scores, slope = scored(dot(k, tl.trans(q), None, PRECISION), scale, softcap, CAP)  # [columns, rows]
    first = tl.load(FIRST + row, mask=in_rows, other=n_columns)
    end = tl.load(END + row, mask=in_rows, other=0)
    weight = tl.exp2(scores - exponent(tl.load(LSE + row, mask=in_rows, other=0.0))[None, :])
    here = column[:, None]  # masked last: before the exponential it takes registers that there are not
    weight = tl.where((here >= first[None, :]) & (here < end[None, :]), weight, 0.0)
    if WITH_VALUE:
        d_v = dot(weight.to(o.dtype), o, d_v, PRECISION)
    if WITH_KEY:
        kept = tl.load(D + row, mask=in_rows, other=0.0)
        d_scores = weight * (dot(v, tl.trans(o), None, PRECISION) - kept[None, :])
        if CAP != 0:
            d_scores *= slope
        d_k = dot(d_scores.to(q.dtype), q, d_k, PRECISION)
    return d_k, d_v


@triton.jit
def attention_columns_kernel(
    Q, K, V, O_GRAD, LSE, D, FIRST, END, LOW, HIGH, D_K, D_V,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    dk_batch, dk_head, dk_row, dv_batch, dv_head, dv_row,
    interval_batch, range_batch, heads, groups, per_group, n_rows, n_columns, scale, softcap, to_key, to_value,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """dk and dv of one block of columns of one key head, summed over the query heads of its group."""
    block = tl.program_id(0).to(tl.int64)
    batch = (tl.program_id(1) // groups).to(tl.int64)
    group = (tl.program_id(1) % groups).to(tl.int64)
    column = (block * BLOCK_N).to(tl.int32) + tl.arange(0, BLOCK_N)
    in_columns = column < n_columns
    low = tl.load(LOW + batch * range_batch + block) // BLOCK_M * BLOCK_M
    high = tl.load(HIGH + batch * range_batch + block)
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
    n = tl.arange(0, BLOCK_N)
    k = load_rows(K + batch * k_batch + group * k_head, block * BLOCK_N, k_row, n, d, n_columns, WIDTH, False)
    WITH_KEY: tl.constexpr = D_K is not None
    WITH_VALUE: tl.constexpr = D_V is not None
    v, d_k, d_v = k, k, k  # nothing, where it is not wanted
    if WITH_KEY:
        v = load_rows(V + batch * v_batch + group * v_head, block * BLOCK_N, v_row, n, e, n_columns, VALUE_WIDTH, False)
        d_k = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    if WITH_VALUE:
        d_v = tl.zeros((BLOCK_N, BLOCK_E), tl.float32)
    for member in range(per_group):
        head = group * per_group + member
        q_base = Q + batch * q_batch + head * q_head
        o_base = O_GRAD + batch * o_batch + head * o_head
        line = (batch * heads + head) * n_rows
        for start in range(low, high, BLOCK_M):
            d_k, d_v = columns_tile(
                d_k, d_v, k, v, q_base, o_base, LSE + line, D + line, FIRST + batch * interval_batch,
                END + batch * interval_batch, column, start, q_row, o_row, n_rows, n_columns, scale, softcap, d, e,
                WIDTH, VALUE_WIDTH, CAP, PRECISION, WITH_KEY, WITH_VALUE, BLOCK_M,
            )  # fmt: skip
    if D_V is not None:
        at = D_V + batch * dv_batch + group * dv_head + column.to(tl.int64)[:, None] * dv_row + e[None, :]
        stored = in_columns[:, None] & (e < VALUE_WIDTH)[None, :]
        tl.store(at, (d_v * to_value).to(D_V.dtype.element_ty), mask=stored)
    if D_K is not None:
        at = D_K + batch * dk_batch + group * dk_head + column.to(tl.int64)[:, None] * dk_row + d[None, :]
        stored = in_columns[:, None] & (d < WIDTH)[None, :]
        tl.store(at, (d_k * (to_key * scale)).to(D_K.dtype.element_ty), mask=stored)


@triton.jit
def rows_tile(
    d_q, q, o, K, V, lse, kept, first, end, start, k_row, v_row, n_columns, scale, softcap, d, e,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr, MASKED: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """d_q with what the columns from ``start`` on add; lse in units of log 2."""
    n = tl.arange(0, BLOCK_N)
    k = load_rows(K, start, k_row, n, d, n_columns, WIDTH, not MASKED)
    v = load_rows(V, start, v_row, n, e, n_columns, VALUE_WIDTH, not MASKED)
    scores, slope = scored(dot(q, tl.trans(k), None, PRECISION), scale, softcap, CAP)
    if MASKED:
        here = (start + n)[None, :]
        scores = tl.where((here >= first[:, None]) & (here < end[:, None]), scores, -float("inf"))
    d_scores = tl.exp2(scores - lse[:, None]) * (dot(o, tl.trans(v), None, PRECISION) - kept[:, None])
    if CAP != 0:
        d_scores *= slope
    return dot(d_scores.to(k.dtype), k, d_q, PRECISION)


@triton.jit
def attention_rows_kernel(
    Q, K, V, O_GRAD, LSE, D, FIRST, END, D_Q,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    dq_batch, dq_head, dq_row,
    interval_batch, heads, per_group, n_rows, n_columns, scale, softcap, to_query,
    WIDTH: tl.constexpr, VALUE_WIDTH: tl.constexpr, CAP: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """dq of one block of rows of one head."""
    block = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = (tl.program_id(1) % heads).to(tl.int64)
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    in_rows = row < n_rows
    first = tl.load(FIRST + batch * interval_batch + row, mask=in_rows, other=n_columns)
    end = tl.load(END + batch * interval_batch + row, mask=in_rows, other=0)
    line = tl.program_id(1).to(tl.int64) * n_rows + row
    lse = exponent(tl.load(LSE + line, mask=in_rows, other=0.0))
    kept = tl.load(D + line, mask=in_rows, other=0.0)
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
    m = tl.arange(0, BLOCK_M)
    q = load_rows(Q + batch * q_batch + head * q_head, block * BLOCK_M, q_row, m, d, n_rows, WIDTH, False)
    o = load_rows(O_GRAD + batch * o_batch + head * o_head, block * BLOCK_M, o_row, m, e, n_rows, VALUE_WIDTH, False)
    K += batch * k_batch + (head // per_group) * k_head
    V += batch * v_batch + (head // per_group) * v_head
    d_q = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    low, whole_from, whole_to, partial = seen_columns(first, end, in_rows, n_columns, BLOCK_N)
    for start in range(whole_from, whole_to, BLOCK_N):
        d_q = rows_tile(
            d_q, q, o, K, V, lse, kept, first, end, start, k_row, v_row, n_columns, scale, softcap, d, e,
            WIDTH, VALUE_WIDTH, CAP, PRECISION, False, BLOCK_N,
        )  # fmt: skip
    for index in range(0, partial):
        start = partial_start(index, low, whole_from, whole_to, BLOCK_N)
        d_q = rows_tile(
            d_q, q, o, K, V, lse, kept, first, end, start, k_row, v_row, n_columns, scale, softcap, d, e,
            WIDTH, VALUE_WIDTH, CAP, PRECISION, True, BLOCK_N,
        )  # fmt: skip
    at = D_Q + batch * dq_batch + head * dq_head + row[:, None] * dq_row + d[None, :]
    stored = in_rows[:, None] & (d < WIDTH)[None, :]
    tl.store(at, (d_q * (to_query * scale)).to(D_Q.dtype.element_ty), mask=stored)


def attention_forward(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, interval: Interval, rule: AttentionRule
) -> tuple[Tensor, Tensor]:
    """out [B, H, T, e] (as a view of [B, T, H, e], the layout that models go on with) and lse [B, H, T] float32."""
    _check(q, k, v)
    launch, width = _launch(FORWARD, q, v), v.shape[3]
    q, k, v = (near(aligned(x)) for x in (q, k, v))
    batch, heads, length, _ = q.shape
    out = q.new_empty(batch, length, heads, v.shape[3]).transpose(1, 2)
    lse = q.new_empty(batch, heads, length, dtype=torch.float32)
    target = target_of(q)
    run(
        attention_forward_kernel,
        (blocks(length, launch.blocks["BLOCK_M"]), batch * heads),
        launch,
        Q=q, K=k, V=v, SINKS=sinks, FIRST=interval.first, END=interval.end, OUT=out, LSE=lse,
        **_strides(q=q, k=k, v=v, out=out), **_shape(q, k, v, interval, rule, target),
    )  # fmt: skip
    return out[..., :width], lse


def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, D: Tensor, lse: Tensor, interval: Interval, rule: AttentionRule
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of q, k, v under the rule, None where its factor is 0; D [B, H, T] float32 is <grad, out>."""
    _check(q, k, v)
    widths = q.shape[3], v.shape[3]
    frugal = rule.softcap is not None or widths[0] != widths[1]
    tables = (COLUMNS_FRUGAL, ROWS_FRUGAL) if frugal else (COLUMNS, ROWS)
    launch, per_rows = (_launch(table, q, v) for table in tables)
    q, k, v = (near(aligned(x)) for x in (q, k, v))
    grad, target = near(aligned(grad.to(q.dtype))), target_of(q)
    (batch, heads, length), (groups, columns) = q.shape[:3], k.shape[1:3]
    # laid out like [B, T, H, d], as the projections that they flow into
    dq, dk, dv = (x.new_empty(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2) for x in (q, k, v))
    outputs = [{"D_K": dk if rule.query or rule.key else None, "D_V": dv}]
    given = read = _Rows(q, grad, lse, D.contiguous(), interval)
    if outputs[0]["D_K"] is not None and (target.kind(q.dtype), max(map(power_of_two, widths))) in APART:
        outputs = [{"D_K": dk, "D_V": None}, {"D_K": None, "D_V": dv}]
        read = given.aligned(columns)
    low, high = interval.row_range(columns, launch.blocks["BLOCK_N"])
    for made in outputs:
        run(
            attention_columns_kernel,
            (blocks(columns, launch.blocks["BLOCK_N"]), batch * groups),
            launch,
            **read.arguments(), K=k, V=v, LOW=low, HIGH=high, **made, **_strides(k=k, v=v, dk=dk, dv=dv),
            range_batch=low.stride(0) if low.dim() > 1 else 0, groups=groups, to_key=float(rule.key),
            to_value=float(rule.value), **_shape(read.q, k, v, read.interval, rule, target),
        )  # fmt: skip
    if rule.query:
        run(
            attention_rows_kernel,
            (blocks(length, per_rows.blocks["BLOCK_M"]), batch * heads),
            per_rows,
            **given.arguments(), K=k, V=v, D_Q=dq, **_strides(k=k, v=v, dq=dq), to_query=float(rule.query),
            **_shape(q, k, v, interval, rule, target),
        )  # fmt: skip
    dq, dk, dv = dq[..., : widths[0]], dk[..., : widths[0]], dv[..., : widths[1]]
    return dq if rule.query else None, dk if rule.key else None, dv


@dataclass(frozen=True, eq=False)
class _Rows:
    """What the backward pass reads by row."""

    q: Tensor
    grad: Tensor
    lse: Tensor
    D: Tensor
    interval: Interval

    def aligned(self, columns: int) -> _Rows:
        """With rows that see nothing up to a multiple of ``ALIGNED``: then no load of 16 rows needs a mask of its own,
        for which the widest kernel has no registers left."""
        missing = -self.q.shape[2] % ALIGNED
        if not missing:
            return self
        q, grad = (torch.nn.functional.pad(x, (0, 0, 0, missing)) for x in (self.q, self.grad))
        lse, D, end = (torch.nn.functional.pad(x, (0, missing)) for x in (self.lse, self.D, self.interval.end))
        first = torch.nn.functional.pad(self.interval.first, (0, missing), value=columns)
        return _Rows(q, grad, lse, D, Interval(first, end))

    def arguments(self) -> dict[str, object]:
        return {
            "Q": self.q, "O_GRAD": self.grad, "LSE": self.lse, "D": self.D,
            "FIRST": self.interval.first, "END": self.interval.end, **_strides(q=self.q, o=self.grad),
        }  # fmt: skip


FORWARD: dict[str, tuple[Sizes, ...]] = {
    "interpreter": ((256, 16, 16, 4, 1),),
    "sm_80 half": ((64, 128, 64, 8, 2), (128, 128, 32, 8, 2), (256, 64, 16, 4, 2)),
    "sm_90 half": ((128, 64, 64, 4, 3), (256, 128, 32, 8, 2)),
    "gfx942 half": ((128, 128, 32, 4, 1), (256, 64, 32, 4, 1)),
    "sm_80 float32": ((64, 32, 32, 8, 2), (128, 32, 16, 4, 2)),
    "sm_90 float32": ((64, 128, 32, 8, 2), (128, 32, 32, 8, 2)),
    "gfx942 float32": ((128, 64, 32, 4, 1),),
}
"""sm_90: the fastest on an H200 that spills nothing (`benchmarks.gpu_tuning`). Elsewhere chosen by compiling: the first
that spills nothing, fits, and uses the tensor cores. In half precision warps stack along the rows of what a program
keeps (columns in `COLUMNS`), 16 each, 32 on gfx942: more warps than that do the same work twice."""
COLUMNS: dict[str, tuple[Sizes, ...]] = {
    "interpreter": ((256, 16, 16, 4, 1),),
    "sm_80 half": ((128, 32, 64, 4, 2), (256, 64, 32, 8, 1)),
    "sm_90 half": ((64, 64, 64, 4, 3), (128, 32, 64, 4, 3), (256, 32, 128, 8, 2)),
    "gfx942 half": ((128, 32, 128, 4, 1), (256, 16, 64, 4, 1)),
    "sm_80 float32": ((128, 32, 16, 8, 2),),
    "sm_90 float32": ((32, 32, 64, 4, 2), (64, 32, 32, 4, 2), (128, 32, 16, 8, 2)),
    "gfx942 float32": ((128, 32, 32, 4, 1),),
}
COLUMNS_FRUGAL = COLUMNS | {
    "sm_80 half": ((64, 32, 64, 4, 2), (128, 32, 64, 8, 2), (256, 64, 32, 8, 1)),
    "sm_90 half": ((64, 64, 64, 4, 3), (128, 32, 64, 4, 2), (256, 16, 64, 4, 3)),
}
"""With a softcap, whose slope takes registers, or values narrower than queries."""
APART = frozenset({("sm_90 half", 256)})
"""Where dk and dv together take more registers than there are: one launch each, the weights made twice."""
ROWS: dict[str, tuple[Sizes, ...]] = {
    "interpreter": ((256, 16, 16, 4, 1),),
    "sm_80 half": ((64, 128, 64, 8, 2), (128, 64, 32, 4, 2), (256, 64, 32, 8, 2)),
    "sm_90 half": ((64, 64, 64, 4, 3), (128, 128, 64, 8, 3), (256, 128, 32, 8, 2)),
    "gfx942 half": ((128, 128, 32, 4, 1), (256, 64, 16, 4, 1)),
    "sm_80 float32": ((128, 16, 32, 4, 2),),
    "sm_90 float32": ((32, 64, 32, 4, 2), (64, 128, 32, 8, 2), (128, 16, 32, 4, 2)),
    "gfx942 float32": ((128, 32, 32, 4, 1),),
}
ROWS_FRUGAL = ROWS | {"sm_90 half": ((64, 64, 64, 4, 3), (128, 128, 64, 8, 3), (256, 128, 16, 8, 2))}


def _launch(table: dict[str, tuple[Sizes, ...]], q: Tensor, v: Tensor) -> Launch:
    """Blocks for the head dimensions of these tensors.

    Queries are padded to the width of values at least, values to half that of queries: beside wide products narrow
    ones spill (16 and 256: 7.5 KB on sm_80).
    """
    d, e = power_of_two(q.shape[3]), power_of_two(v.shape[3])
    d, e = max(d, e), max(e, d // 2)
    _, rows, columns, warps, stages = sizes_for(table, "attention", target_of(q), q.dtype, max(q.shape[3], v.shape[3]))
    return Launch({"BLOCK_M": rows, "BLOCK_N": columns, "BLOCK_D": d, "BLOCK_E": e}, warps, stages)


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    check_dtype("queries, keys and values", q, k, v)
    if q.shape[1] % k.shape[1]:
        raise UnsupportedInput(f"{q.shape[1]} query heads are no multiple of {k.shape[1]} key heads")


def _strides(**tensors: Tensor) -> dict[str, int]:
    names = ("batch", "head", "row")
    return {f"{x}_{name}": t.stride(i) for x, t in tensors.items() for i, name in enumerate(names)}


def _shape(
    q: Tensor, k: Tensor, v: Tensor, interval: Interval, rule: AttentionRule, target: Target
) -> dict[str, object]:
    return {
        "interval_batch": interval.first.stride(0) if interval.first.dim() > 1 else 0,
        "heads": q.shape[1],
        "per_group": q.shape[1] // k.shape[1],
        "n_rows": q.shape[2],
        "n_columns": k.shape[2],
        "scale": float(rule.scale),
        "softcap": float(rule.softcap or 1.0),
        "WIDTH": q.shape[3],
        "VALUE_WIDTH": v.shape[3],
        "CAP": 0 if rule.softcap is None else 1 + rule.slope,
        "PRECISION": target.precision,
    }
