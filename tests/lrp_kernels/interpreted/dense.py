"""Dense attention and its LRP gradient, written out: n x n arrays, plain autograd, no code of the kernels.

Run in float64 it is the reference; run in a lower dtype it is the independent low-precision implementation whose error
the kernels' tolerances are multiples of.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """q [H, T, d], k [G, T, d], v [G, T, e], o [H, T, e]; allowed [T, T] of bool; bias [1 or H, T, T] or None."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    allowed: Tensor
    scale: float
    softcap: float | None = None
    slope: bool = True
    sinks: Tensor | None = None
    bias: Tensor | None = None
    k_carry: Tensor | None = None
    v_carry: Tensor | None = None
    factors: tuple[float, float, float] = (0.25, 0.25, 0.5)

    def to(self, dtype: torch.dtype) -> Dense:
        names = ("q", "k", "v", "o", "sinks", "bias", "k_carry", "v_carry")
        found = {n: getattr(self, n) for n in names}
        return replace(self, **{n: None if x is None else x.to(dtype) for n, x in found.items()})

    def repeated(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.q.shape[0] // x.shape[0], 0)

    def raw(self) -> Tensor:
        return self.scale * self.q @ self.repeated(self.k).transpose(1, 2)

    def scores(self) -> Tensor:
        s = self.raw()
        if self.softcap is not None:
            s = self.softcap * torch.tanh(s / self.softcap)
        if self.bias is not None:
            s = s + self.bias
        s = s.masked_fill(~self.allowed, -torch.inf)
        if self.sinks is not None:
            s = torch.cat((s, self.sinks[:, None, None].expand(-1, s.shape[1], 1)), -1)
        return s

    def lse(self) -> Tensor:
        return self.scores().logsumexp(-1)

    def weights(self) -> Tensor:
        return torch.nan_to_num(self.scores().softmax(-1), nan=0.0)[..., : self.k.shape[1]]

    def out(self) -> Tensor:
        return self.weights() @ self.repeated(self.v)

    def through(self) -> Tensor:
        """What the softcap passes."""
        if self.softcap is None:
            return torch.ones_like(self.raw())
        u = self.raw() / self.softcap
        tanh = torch.tanh(u)
        return torch.where(u == 0, 1.0, tanh / torch.where(u == 0, 1.0, u)) if self.slope else 1 - tanh**2

    def d_scores(self) -> Tensor:
        toward = self.o @ self.repeated(self.v).transpose(1, 2)
        kept = (self.o * self.out()).sum(-1, keepdim=True)
        return self.weights() * (toward - kept) * self.through()

    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        def grouped(x: Tensor) -> Tensor:
            return x.view(self.k.shape[0], -1, *x.shape[1:]).sum(1)

        query, key, value = self.factors
        ds = self.d_scores() * self.scale
        dq = query * ds @ self.repeated(self.k)
        return (
            dq,
            grouped(key * ds.transpose(1, 2) @ self.q),
            grouped(value * self.weights().transpose(1, 2) @ self.o),
        )

    def edges(self) -> tuple[Tensor, Tensor]:
        """Value and key path per head, [H, T, T] each."""
        k = self.repeated(self.k if self.k_carry is None else self.k_carry)
        v = self.repeated(self.v if self.v_carry is None else self.v_carry)
        value = self.factors[2] * self.weights() * (self.o @ v.transpose(1, 2))
        key = self.factors[1] * self.d_scores() * self.scale * (self.q @ k.transpose(1, 2))
        return value, key


def intervals(length: int) -> dict[str, tuple[Tensor, Tensor]]:
    """first and end per row, of every kind of mask."""
    row = torch.arange(length, dtype=torch.int32)
    zero = torch.zeros_like(row)
    half = length // 2
    start = torch.where(row < half, 0, half).int()
    right = torch.where(row < length - 5, row + 1, 0).int()
    return {
        "causal": (zero, row + 1),
        "window": ((row - 4).clamp(min=0), row + 1),
        "left padding": (zero + 3, torch.where(row < 3, 0, row + 1).int()),
        "right padding": (zero, right),
        "packed": (start, row + 1),
        "packed, window": (torch.maximum(start, row - 6), row + 1),
        "prefix": (zero, (row + 1).clamp(min=9)),
        "everything": (zero, zero + length),
    }


def allowed(first: Tensor, end: Tensor, length: int) -> Tensor:
    column = torch.arange(length)
    return (column >= first[..., None]) & (column < end[..., None])


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(ours: Tensor, low: Tensor, exact: Tensor, times: float = 3.0) -> None:
    """No NaN, and an error of at most ``times`` that of the independent low-precision reference.

    Two roundings of float32 at the size of the result are granted beside it, where that one happens to be exact. The
    interpreter cuts bfloat16 off where a GPU rounds it: twice the error.
    """
    times = 2 * times if ours.dtype == torch.bfloat16 else times
    assert ours.shape == exact.shape
    assert torch.isfinite(ours).all()
    budget = times * (low.double() - exact).abs().max() + 2 * 2.0**-23 * exact.abs().max()
    error = (ours.double() - exact).abs().max()
    assert error <= budget, f"error {error:.3g} above its budget {budget:.3g}"
