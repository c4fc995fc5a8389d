"""Which operands carry relevance, what is a constant, and where shares of constants are booked.

Operations run in two situations: with gradients on, and (while a block is run for its edges) in forward mode, where the
tangent follows the rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from lrp_hooks.recording.records import ForwardRecord
from lrp_hooks.recording.taps import tap_constant

if TYPE_CHECKING:
    from lrp_hooks.rules.inline.claim import Scope

Operation = Callable[["Scope", Any, tuple[Any, ...], dict[str, Any]], Any]
"""Takes (scope, torch function, its arguments); returns the function's own values with LRP's gradient."""
_dual: Any = forward_ad


def tangent(x: Any) -> Tensor | None:
    """The tangent of a dual tensor; None outside forward mode."""
    if not isinstance(x, Tensor) or torch.is_grad_enabled():
        return None
    out: Tensor | None = _dual.unpack_dual(x).tangent
    return out


def carries(x: Any) -> bool:
    """Whether relevance flows through this operand."""
    if not isinstance(x, Tensor):
        return False
    return x.requires_grad if torch.is_grad_enabled() else tangent(x) is not None


def still(x: Any) -> Any:
    """The operand as a constant."""
    if not isinstance(x, Tensor):
        return x
    return x.detach() if torch.is_grad_enabled() else _dual.unpack_dual(x).primal


def dual(value: Tensor, moved: Tensor) -> Tensor:
    """A dual tensor."""
    out: Tensor = _dual.make_dual(value, moved)
    return out


def moving(x: Tensor, slope: Tensor) -> Tensor:
    """slope times the operand's tangent."""
    moved = tangent(x)
    return torch.zeros_like(slope) if moved is None else slope * moved


def booking(scope: Scope) -> Callable[[Tensor], None] | None:
    """Books shares of constants, any shape with the batch (or the scope's regrouped tokens) first."""
    record, path, rows = scope.site.tape.record, scope.path, scope.rows
    if record is None:
        return None

    def book(shares: Tensor) -> None:
        if "absorbed" not in record.want:
            return
        shares = shares if shares.dtype == torch.float64 else shares.float()
        total = _by_row(shares, record, rows)
        current = record.current()
        current.add(current.biases, path, record.unscaled(total))

    return book


def _by_row(shares: Tensor, record: ForwardRecord, rows: Tensor | None) -> Tensor:
    """[B] sums of shares [B, ...], [B*T, ...], [B*heads, ...] or [heads, B*T, ...], or with a known row per entry."""
    count, tokens = record.rows, record.rows * record.columns
    if count == 1:
        return record.per_row(shares)
    if rows is not None:
        return shares.new_zeros(count).index_add_(0, rows, shares.reshape(len(rows), -1).sum(1))
    if shares.dim() > 1 and shares.shape[1] == tokens:
        return shares.transpose(0, 1).reshape(count, -1).sum(1)
    if shares.shape[0] % count:  # regrouped in an unknown way: the ledger of a batch says so, a single row's is right
        return shares.new_full((count,), math.nan)
    return record.per_row(shares)


def absorb(scope: Scope, out: Tensor, constant: Any, *, in_place: bool = False) -> Tensor:
    """``out`` = (something) + constant: books the constant's share <c, d out> in the backward pass.

    ``in_place``: the caller goes on with the same tensor object and drops what is returned.
    """
    book = booking(scope)
    if book is None or not torch.is_grad_enabled() or not out.requires_grad:
        return out

    def store(grad: Tensor) -> None:
        compute = grad if grad.dtype == torch.float64 else grad.float()
        share = compute * (constant.to(compute) if isinstance(constant, Tensor) else constant)
        book(torch.where(compute == 0, 0.0, share))  # a mask of -inf lets no gradient through

    if in_place:
        hook: Any = out.register_hook
        hook(store)  # returns nothing: the gradient stays
        return out
    return tap_constant(out, store)
