"""Attention that a forward writes out (scores, softmax, product) seen as one call of attention.

What the closed form of a block's edges needs (docs/mathematics.md) is then there as for a call of the attention
function: q, k, v, their gradients and the output's. The two products are recognised while gradients are recorded;
runs of the block without gradients (for its tangents, or with parts of its attention cut) repeat what was found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_hooks.errors import NoClosedFormError
from lrp_hooks.ops import Observe, relevance_sum
from lrp_hooks.recording.records import ForwardRecord
from lrp_hooks.recording.taps import tap
from lrp_hooks.rules.attention.softmax import Factors, Setting
from lrp_hooks.rules.inline.carrying import carries, still
from lrp_hooks.rules.inline.provenance import is_softmax

if TYPE_CHECKING:
    from lrp_hooks.rules.inline.claim import Scope

SCORES, VALUES, PLAIN = "scores", "values", "plain"
"""What a product of two tensors is: queries by keys, weights by values, or neither."""


@dataclass(eq=False)
class Weighted:
    """The product of weights and values of one written-out attention, as the backward pass has left it.

    Attributes:
        weights: [B, H, T, T] and d_weights, the gradient of its logits; v, dv: [B, H', T, d]; o: [B, H, T, d].
    """

    weights: Tensor
    d_scores: Tensor | None
    v: Tensor
    dv: Tensor | None
    o: Tensor


def role_of(scope: Scope, a: Any, b: Any) -> str:
    """What a product a b is, decided with gradients and repeated without.

    Raises:
        NoClosedFormError: a run without gradients makes other products than the one with gradients did.
    """
    if torch.is_grad_enabled():
        scope.roles.append(_decide(scope, a, b))
        return scope.roles[-1]
    if scope.roles_read >= len(scope.roles):
        raise NoClosedFormError(f"{scope.site.path} makes other products without gradients. do: method='packed'")
    scope.roles_read += 1
    return scope.roles[scope.roles_read - 1]


def _decide(scope: Scope, a: Any, b: Any) -> str:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and min(a.dim(), b.dim()) >= 3 and carries(b)):
        return PLAIN
    if a.shape[-1] == a.shape[-2] == b.shape[-2] and (is_softmax(a) or _storage(a) in scope.softmaxes):
        return VALUES
    pairs = carries(a) and a.shape[-1] == b.shape[-2] and a.shape[-2] == b.shape[-1]
    return SCORES if pairs and scope.site.block is not None else PLAIN


def note_softmax(scope: Scope, weights: Tensor) -> None:
    """Weights that are constants have no history; their memory tells them."""
    scope.softmaxes.add(_storage(weights))


def _storage(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()


def detoured(scope: Scope, role: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The factors as a run without gradients goes on with them."""
    detour = scope.site.tape.detour
    if detour is None or role == PLAIN:
        return a, b
    rows = scope.site.tape.rows
    assert rows is not None
    if role == SCORES:
        detour.scores(_heads(a, rows), _heads(b, rows).transpose(2, 3))
        return still(a), still(b)
    weights = detour.weigh(_heads(still(a), rows), _heads(b, rows), scope.site.block)
    return weights.reshape(a.shape), b


def _heads(x: Tensor, rows: int) -> Tensor:
    """[B, H, ., .] of [B, H, ., .] or [B*H, ., .]."""
    return x.reshape(rows, -1, *x.shape[-2:])


def watch(scope: Scope, role: str) -> Observe | None:
    """What a product reports in the backward pass."""
    record, block = scope.site.tape.record, scope.site.block
    if record is None or block is None or role == PLAIN:
        return None
    return _watch_scores(scope, record, block) if role == SCORES else _watch_values(scope, record, block)


def _watch_values(scope: Scope, record: ForwardRecord, block: int) -> Observe:
    moving = scope.shares.softmax

    def observe(a: Tensor, b: Tensor, da: Tensor | None, db: Tensor | None, out: Tensor) -> None:
        if "edges" not in record.want:
            return
        weights, v, o = (_heads(x, record.rows) for x in (a, b, out))
        dv = None if db is None else _heads(db, record.rows)
        d_scores = None
        if moving and da is not None:
            flow = weights * _heads(da, record.rows)
            d_scores = flow - weights * flow.sum(-1, keepdim=True)
        parked = record.current().park(block)
        part = Weighted(weights, d_scores, v, dv, o)
        if moving:
            parked.weighted.append(part)
        else:
            nothing = weights.new_zeros(*weights.shape[:3], 1)
            _park(scope, record, block, part, (nothing, nothing, None, None), 0.0)

    return observe


def _watch_scores(scope: Scope, record: ForwardRecord, block: int) -> Observe:
    def observe(a: Tensor, b: Tensor, da: Tensor | None, db: Tensor | None, out: Tensor) -> None:
        if "edges" not in record.want:
            return
        weighted = record.current().park(block).weighted
        if len(weighted) != 1:
            weighted.clear()  # several at a time: which scores are whose is not known
            return
        part = weighted.pop()
        q, k = _heads(a, record.rows), _heads(b, record.rows).transpose(2, 3)
        dq, dk = (None if x is None else _heads(x, record.rows) for x in (da, db))
        scale = _scale(q, k, dq, part.d_scores)
        keys = None if dk is None else dk.transpose(2, 3)
        _park(scope, record, block, part, (q, k, dq, keys), scale)

    return observe


def _scale(q: Tensor, k: Tensor, dq: Tensor | None, d_scores: Tensor | None) -> float:
    """What the forward multiplies <q, k> with, wherever it does: dq = 1/2 scale (d scores) k."""
    if dq is None or d_scores is None:
        return 1.0
    plain = torch.matmul(d_scores, k.repeat_interleave(q.shape[1] // k.shape[1], 1)).double() / 2
    square = float((plain * plain).sum())
    return float((dq.double() * plain).sum()) / square if square else 1.0


def _park(
    scope: Scope,
    record: ForwardRecord,
    block: int,
    part: Weighted,
    scored: tuple[Tensor, Tensor, Tensor | None, Tensor | None],
    scale: float,
) -> None:
    """As `AttentionInputs` and `AttentionOutput` do. The mask is whatever makes these weights of these scores."""
    q, k, dq, dk = scored
    groups = q.shape[1] // k.shape[1]
    logits = torch.matmul(q, k.repeat_interleave(groups, 1).transpose(2, 3)) * scale
    mask = part.weights.log() - logits
    factors = Factors(0.25, 0.25, 0.5) if scope.shares.softmax else Factors(0.0, 0.0, 1.0)
    options = {"scaling": scale, "is_causal": False}
    setting = Setting(scope.site.module, mask, options, factors, True)
    parked = record.current().park(block)
    parked.inputs.append((setting, (q, k, part.v), (dq, dk, part.dv)))
    out = torch.matmul(part.weights, part.v.repeat_interleave(part.weights.shape[1] // part.v.shape[1], 1))
    parked.outputs.append((part.o.transpose(1, 2), relevance_sum(out, part.o).transpose(1, 2)))


def watched_constant(a: Tensor, v: Tensor, multiply: Callable[[Tensor, Tensor], Tensor], observe: Observe) -> Tensor:
    """multiply(a, v) with constant weights ``a``, observed."""
    gradient: list[Tensor] = []

    def values(x: Tensor, dv: Tensor) -> None:
        observe(a, x, None, dv, gradient.pop())

    out = multiply(a, tap(v, values))
    return tap(out, lambda _x, grad: gradient.append(grad))
