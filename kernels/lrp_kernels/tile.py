"""Device functions that several kernels share. Imported by `triton.py` files only."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
"""Scores are kept in units of log 2: exp2 is one instruction, and its factor joins that of the scores."""


@triton.jit
def tanh_slope(u):
    """tanh(u) / u; the series below |u| = 0.2, where the quotient loses digits (its next term is 1e-9 there)."""
    square = u * u
    small = square < 0.04
    series = 1.0 + square * (-1.0 / 3 + square * (2.0 / 15 + square * (-17.0 / 315 + square * (62.0 / 2835))))
    e = tl.exp(-2.0 * tl.abs(u))
    return tl.where(small, series, (1.0 - e) / ((1.0 + e) * tl.where(small, 1.0, tl.abs(u))))


@triton.jit
def capped(scores, softcap, CAP: tl.constexpr):
    """(c tanh(s / c), its slope): CAP 1 passes the derivative, CAP 2 the slope tanh(u) / u, CAP 0 caps nothing."""
    if CAP == 0:
        return scores, tl.full(scores.shape, 1.0, tl.float32)
    u = scores / softcap
    slope = tanh_slope(u)
    tanh = u * slope
    return scores * slope, slope if CAP == 2 else 1.0 - tanh * tanh


@triton.jit
def scored(raw, scale, softcap, CAP: tl.constexpr):
    """(scores in units of log 2, their slope) of the products q k."""
    if CAP == 0:
        return raw * (scale * LOG2E), tl.full(raw.shape, 1.0, tl.float32)
    scores, slope = capped(raw * scale, softcap, CAP)
    return scores * LOG2E, slope


@triton.jit
def masked(scores, MASK, mask_at, inside):
    """Scores (units of log 2) with -inf outside ``inside`` and where MASK (uint8: attend or not; else added numbers)
    says so."""
    if MASK is not None:
        given = tl.load(MASK + mask_at, mask=inside, other=0)
        if MASK.dtype.element_ty == tl.uint8:
            inside = inside & (given != 0)
        else:
            scores += given.to(tl.float32) * LOG2E
    return tl.where(inside, scores, -float("inf"))


@triton.jit
def exponent(lse):
    """A log-sum-exp in units of log 2; 0 for a row that attends to nothing (lse = -inf), which has no weights."""
    return tl.where(lse == -float("inf"), 0.0, lse * LOG2E)


@triton.jit
def split(low, high, whole_low, whole_high, SIZE: tl.constexpr):
    """Tiles that touch [low, high) into those that lie in [whole_low, whole_high), which need no mask, and others.

    Returns (low, whole_from, whole_to, partial): whole tiles start at whole_from, .. before whole_to; how many others
    there are, and `partial_start` says where they start.
    """
    low = low // SIZE * SIZE
    whole_from = tl.maximum(low, tl.minimum(tl.cdiv(whole_low, SIZE), tl.cdiv(high, SIZE)) * SIZE)
    whole_to = tl.maximum(whole_from, tl.minimum(whole_high, high) // SIZE * SIZE)
    partial = (whole_from - low) // SIZE + tl.cdiv(tl.maximum(high - whole_to, 0), SIZE)
    return low, whole_from, whole_to, partial


@triton.jit
def partial_start(index, low, whole_from, whole_to, SIZE: tl.constexpr):
    """Where the partial tile of this index starts: before the whole ones, then behind them."""
    start = low + index * SIZE
    return tl.where(start < whole_from, start, start - whole_from + whole_to)


@triton.jit
def dot(a, b, total, PRECISION: tl.constexpr):
    """total + a b, or a b for None.

    The interpreter multiplies bfloat16 as the integers that it keeps them in: there a and b are widened, exactly.
    """
    if PRECISION == "interpreted":
        made = tl.dot(a.to(tl.float32), b.to(tl.float32))
        if total is not None:
            made += total
    else:
        made = tl.dot(a, b, total, input_precision=PRECISION)
    return made


@triton.jit
def product(A, a_at, a_in, B, b_at, b_in, WIDTH: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr):
    """[M, N] <a_m, b_n> in float32 of rows at offsets ``a_at`` [M] and ``b_at`` [N], CHUNK of WIDTH at a time."""
    total = tl.zeros((a_at.shape[0], b_at.shape[0]), tl.float32)
    if A.dtype.element_ty == tl.float32 or WIDTH > 128:  # a loop: unrolled, these take too many registers
        for start in range(0, WIDTH, CHUNK):
            total = add_chunk(total, A, a_at, a_in, B, b_at, b_in, start, WIDTH, CHUNK, PRECISION)
    else:
        for start in tl.static_range(0, WIDTH, CHUNK):
            total = add_chunk(total, A, a_at, a_in, B, b_at, b_in, start, WIDTH, CHUNK, PRECISION)
    return total


@triton.jit
def add_chunk(
    total, A, a_at, a_in, B, b_at, b_in, start, WIDTH: tl.constexpr, CHUNK: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    d = start + tl.arange(0, CHUNK)
    here = d < WIDTH
    a = tl.load(A + a_at[:, None] + d[None, :], mask=a_in[:, None] & here[None, :], other=0.0)
    b = tl.load(B + b_at[None, :] + d[:, None], mask=b_in[None, :] & here[:, None], other=0.0)
    return dot(a, b, total, PRECISION)
