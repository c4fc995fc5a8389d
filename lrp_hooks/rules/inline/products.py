"""Products that a forward computes inline share their relevance; so do the parts of an inline attention.

Source: AttnLRP (arXiv 2402.05602), section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_hooks.ops import Observe, observed_softmax, shared_bilinear
from lrp_hooks.recording.detour import AttentionRun
from lrp_hooks.rules.attention.softmax import AttentionInputs, AttentionOutput, Factors, Setting
from lrp_hooks.rules.inline.carrying import absorb, booking, carries, dual, still, tangent
from lrp_hooks.rules.inline.elementwise import elementwise, power
from lrp_hooks.rules.inline.provenance import is_gate, is_softmax, mark_gate, same_source
from lrp_hooks.rules.inline.written import (
    VALUES,
    detoured,
    note_softmax,
    role_of,
    watch,
    watched_constant,
)

if TYPE_CHECKING:
    from lrp_hooks.rules.inline.claim import Scope


@dataclass(frozen=True)
class Decision:
    """What one product turned out to be, read off the autograd graph; forward mode, which has none, repeats it.

    Attributes:
        swapped: whether the second operand is the one that is constant, shifted, or x in x s(x).
        kind: "constant" (a softmax's weights), "self" (x s(x)), "shift" ((a + c) b), "share".
        factors: shares of the first and second operand, after swapping.
    """

    kind: str
    swapped: bool = False
    factors: tuple[float, float] = (0.5, 0.5)


def product(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """a * b: shares to both; a softmax's or a self-gate's factor is a constant; (a + c) b is a b plus c b."""
    a, b = args[:2]
    if not (carries(a) and carries(b)):
        return func(*args, **kwargs)
    if a is b:
        return power(scope, torch.square, (a,), {})
    decision: Decision = scope.remembered(lambda: decide(scope, a, b))
    first, second = (b, a) if decision.swapped else (a, b)
    if decision.kind == "constant":
        return torch.mul(still(first), second)
    if decision.kind == "self":
        return mark_gate(torch.mul(first, still(second)))
    if decision.kind == "shift":
        base, constant = first._lrp_shift
        return share(torch.mul, base, second, decision.factors, constant)
    return share(torch.mul, a, b, decision.factors)


def decide(scope: Scope, a: Tensor, b: Tensor) -> Decision:
    pairs = ((a, b, False), (b, a, True))
    for first, second, swapped in pairs:
        if is_softmax(first) and not is_softmax(second):
            return Decision("constant", swapped)
        if same_source(first, second):  # x s(x): element-wise in x, slope s(x)
            return Decision("self", swapped)
    for first, second, swapped in pairs:
        shift = getattr(first, "_lrp_shift", None)
        if shift is not None:
            return Decision("shift", swapped, pair_shares(scope, shift[0], second))
    return Decision("share", False, pair_shares(scope, a, b))


def pair_shares(scope: Scope, a: Tensor, b: Tensor) -> tuple[float, float]:
    """Shares of the two factors; without exactly one gate among them a half each."""
    gate = scope.shares.gate
    if is_gate(a) == is_gate(b):
        return 0.5, 0.5
    return (gate, 1.0 - gate) if is_gate(a) else (1.0 - gate, gate)


def share(
    func: Any,
    a: Tensor,
    b: Tensor,
    factors: tuple[float, float],
    shift: float = 0.0,
    observe: Observe | None = None,
) -> Tensor:
    """func(a + shift, b) with ``factors`` of the relevance of func(a, b)."""
    if torch.is_grad_enabled():
        return shared_bilinear(a, b, func, factors, shift, observe)
    pa, pb, da, db = still(a), still(b), tangent(a), tangent(b)
    assert da is not None
    assert db is not None
    moved = func(da, pb) * factors[0] + func(pa, db) * factors[1]
    if shift:
        moved = moved + db * shift
    return dual(func(pa + shift if shift else pa, pb), moved)


def bilinear(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """matmul and relatives: half to each factor."""
    a: Any = args[0]
    b: Any = args[1] if len(args) > 1 else kwargs.get("other", kwargs.get("mat2"))
    return _matched(scope, lambda x, y: func(x, y, *args[2:]), a, b)


def _matched(scope: Scope, multiply: Callable[[Tensor, Tensor], Tensor], a: Any, b: Any) -> Tensor:
    """A matrix product, which may be one of the two of an attention that is written out."""
    role = role_of(scope, a, b)
    a, b = detoured(scope, role, a, b)
    observe = watch(scope, role)
    if carries(a) and carries(b):
        return share(multiply, a, b, (0.5, 0.5), observe=observe)
    if observe is not None and role == VALUES and torch.is_grad_enabled():
        return watched_constant(a, b, multiply, observe)
    return multiply(a, b)


def einsum(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if not isinstance(args[0], str) or len(operands) != 2 or not all(map(carries, operands)):
        return func(*args, **kwargs)
    return share(lambda x, y: func(args[0], x, y), operands[0], operands[1], (0.5, 0.5))


def baddbmm(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """bias + a b (ALiBi): a product, and a constant that absorbs."""
    method = isinstance(args[0], Tensor)
    bias = args[0] if method else kwargs["input"]
    a, b = (args[1:3]) if len(args) > 2 else (kwargs["batch1"], kwargs["batch2"])
    beta, alpha = kwargs.get("beta", 1), kwargs.get("alpha", 1)
    if carries(bias):
        return func(*args, **kwargs)
    out = _matched(scope, lambda x, y: torch.baddbmm(bias, x, y, beta=beta, alpha=alpha), a, b)
    return absorb(scope, out, bias * beta) if carries(out) else out


def glu(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, dim = args[0], kwargs.get("dim", args[1] if len(args) > 1 else -1)
    if not carries(x):
        return func(*args, **kwargs)
    value, gate = x.chunk(2, dim)
    opened = elementwise("sigmoid", scope, torch.sigmoid, (gate,), {})
    return product(scope, torch.mul, (value, opened), {})


def softmax(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Its own gradient, and what it absorbs is booked; or a constant."""
    x = args[0]
    if not carries(x):
        return func(*args, **kwargs)
    value = func(still(x), *args[1:], **kwargs)
    if not scope.shares.softmax:
        note_softmax(scope, value)
        return value
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    if not torch.is_grad_enabled():
        return func(*args, **kwargs)
    return observed_softmax(x, value, dim, booking(scope))


def attention(scope: Scope, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """F.scaled_dot_product_attention called past the attention interface: the softmax rule by its two products."""
    q, k, v = args[:3]
    if scope.site.tape.detour is not None and not torch.is_grad_enabled():
        return _elsewhere(scope, func, q, k, v, args[3:], kwargs)
    if not (torch.is_grad_enabled() and carries(v)):
        return func(*args, **kwargs)
    names = dict(zip(("attn_mask", "dropout_p", "is_causal", "scale"), args[3:], strict=False)) | kwargs
    share, record, block = scope.shares, scope.site.tape.record, scope.site.block
    path = 0.25 if share.softmax else 0.0
    options = {"scaling": names.get("scale"), "is_causal": names.get("is_causal", False)}
    factors = Factors(path, path, 0.5 if share.softmax else 1.0)
    setting = Setting(scope.site.module, names.get("attn_mask"), options, factors, True)
    q, k, v = AttentionInputs.call(q, k, v, setting, record, block)
    out = func(q, k, v, *args[3:], **{**kwargs, "dropout_p": 0.0} if len(args) < 5 else kwargs)
    return AttentionOutput.call(out.transpose(1, 2), record, block).transpose(1, 2)


def _elsewhere(
    scope: Scope, func: Any, q: Tensor, k: Tensor, v: Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """The call as the detour that is set makes it."""
    names = dict(zip(("attn_mask", "dropout_p", "is_causal", "scale"), rest, strict=False)) | kwargs
    mask, options = names.pop("attn_mask", None), {**names, "dropout_p": 0.0}

    def base(_module: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any, **options: Any) -> tuple[Tensor, None]:
        masked = {**options, "is_causal": False} if mask is not None else options
        return func(q, k, v, attn_mask=mask, **masked).transpose(1, 2), None

    detour = scope.site.tape.detour
    assert detour is not None
    run = AttentionRun(base, scope.site.module, q, k, v, mask, options, scope.site.block)
    return detour.attend(run)[0].transpose(1, 2)
