"""Edges of one transition, inside the backward pass or by packed products.

An edge A[j, i] of the transition (s, t) is the relevance that token j's share <h_t^j, g_t^j> at residual point t sends
to token i at point s, with g kept fixed. Under LRP's rules everything in a block except attention is token-local, so
with what the one backward pass already computed (DESIGN.md, section 4):

    A[j, i] = A_v[j, i] + A_k[j, i] + [i = j] (<q~_j, dq_j> + rest_j)
    rest_i  = R_i - <q~_i, dq_i> - <k~_i, dk_i> - <v~_i, dv_i>          residual connection, MLP, all else in the block
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lrp_hooks.errors import GraphError
from lrp_hooks.ops import AttentionCall, compute_dtype, edge_rows, relevance_sum, row_blocks
from lrp_hooks.tape import BlockInputs, Detour, Parked, Tape


@dataclass(frozen=True, eq=False)
class Transition:
    """All that the edges of one block need, for one sequence. Scores in logits.

    Attributes:
        call: the attention call.
        query: [T] query path on the diagonal; key, value: [T] <k~, dk> and <v~, dv>; rest: [T] token-local.
        kept: [T] D summed over heads: what flows through the attention output.
    """

    call: AttentionCall
    query: Tensor
    rest: Tensor
    kept: Tensor

    def dense(self, by: str = "sum") -> Tensor:
        """[T, T] (rows j, columns i), [H, T, T] by head, or [4, T, T] by path: value, key, query, rest."""
        length, heads = self.rest.shape[0], self.call.q.shape[0]
        rows = torch.arange(length, device=self.rest.device)
        value = torch.zeros(heads, length, length, dtype=self.rest.dtype, device=self.rest.device)
        key = torch.zeros_like(value)
        for block in row_blocks(rows, heads, length):
            edges = edge_rows(self.call, block)
            value[:, block, : edges.value.shape[2]] = edges.value
            if edges.key is not None:
                key[:, block, : edges.key.shape[2]] = edges.key
        if by == "path":
            return torch.stack((value.sum(0), key.sum(0), torch.diag(self.query), torch.diag(self.rest)))
        if by == "head":
            return value + key
        return (value + key).sum(0) + torch.diag(self.query + self.rest)

    def rows(self, wanted: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """(row indices [R], edges [R, C]) in blocks, heads summed, the diagonal included; columns beyond C are 0."""
        diagonal = self.query + self.rest
        for block in row_blocks(wanted, self.call.q.shape[0], self.rest.shape[0]):
            edges = edge_rows(self.call, block)
            total = edges.value.sum(0) if edges.key is None else edges.value.add_(edges.key).sum(0)
            total[torch.arange(len(block), device=block.device), block] += diagonal[block].to(total.dtype)
            yield block, total


def transition(
    parked: Parked,
    hidden: Tensor,
    relevance: Tensor,
    carried: tuple[Tensor, Tensor, Tensor] | None,
    row: int,
    unscale: float,
) -> Transition:
    """Put one block's parts together for one row of the batch.

    Args:
        hidden: [B, T, D] at the block's input; relevance: [B, T] there.
        carried: (q~, k~, v~) where they differ from q, k, v.
        unscale: divides gradients (the float16 seed).
    """
    if len(parked.inputs) != 1 or len(parked.outputs) != 1:
        raise GraphError(
            f"the block made {len(parked.inputs)} attention calls; exact edges need one. do: method='packed'"
        )
    (setting, (q, k, v), grads), (o, shares) = parked.inputs[0], parked.outputs[0]
    dtype = compute_dtype(hidden)
    q_carry, k_carry, v_carry = carried or (q, k, v)
    flows = [
        torch.zeros_like(relevance[row]) if g is None else relevance_sum(x[row], g[row]).sum(0).to(dtype) / unscale
        for x, g in zip((q_carry, k_carry, v_carry), grads, strict=True)
    ]
    factors, options = setting.factors, setting.options
    call = AttentionCall(
        q=q[row],
        k=k[row],
        v=v[row],
        o=o[row].transpose(0, 1).to(dtype) / unscale,
        D=shares[row].transpose(0, 1).to(dtype) / unscale,
        k_carry=k[row] if carried is None else k_carry[row],
        v_carry=v[row] if carried is None else v_carry[row],
        mask=_mask(setting, row),
        scale=options["scaling"] if options.get("scaling") is not None else q.shape[-1] ** -0.5,
        softcap=options.get("softcap"),
        slope=setting.softcap_slope,
        sinks=options.get("s_aux"),
        value=factors.value,
        key=factors.key,
    )
    if carried is None:  # the same objects, so that no product is made twice
        call = replace(call, k_carry=call.k, v_carry=call.v)
    rest = relevance[row].to(dtype) - flows[0] - flows[1] - flows[2]
    return Transition(call, flows[0], rest, call.D.sum(0))


def _mask(setting: Any, row: int) -> Tensor | None:
    mask = setting.mask
    if mask is None:
        causal = setting.options.get("is_causal")
        causal = getattr(setting.module, "is_causal", True) if causal is None else causal
        if not causal or (setting.options.get("sliding_window") is not None and _windowed_kernel(setting.module)):
            raise GraphError("exact edges know causal attention with an explicit mask. do: method='packed'")
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 4:
        raise GraphError(
            "exact edges need the attention mask as a tensor [B, 1, T, T]. "
            'do: load the model with attn_implementation="sdpa" or "eager"'
        )
    return mask[row if mask.shape[0] > 1 else 0]


def _windowed_kernel(module: Any) -> bool:
    """Whether the attention kernel applies the window itself, from a keyword, without showing a mask."""
    base = getattr(module.config, "_lrp_hooks_base", "")
    return base not in ("sdpa", "eager")


# Relevance-carrying parts --------------------------------------------------------------------------------------------


class _Reached(Exception):
    """Ends a run at the attention function."""


class _StopAtAttention(Detour):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> NoReturn:
        raise _Reached(q, k, v)


class _SkipAttention(Detour):
    """Attention that returns zeros; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        self.given += [q, k, v]
        return v.new_zeros(q.shape[0], q.shape[2], q.shape[1], v.shape[3]), None


@contextmanager
def _detour(tape: Tape, detour: Detour) -> Iterator[None]:
    tape.detour = detour
    try:
        with torch.no_grad(), tape.recording(None):
            yield
    finally:
        tape.detour = None


def carried_parts(
    block: nn.Module, inputs: BlockInputs, hidden: Tensor, tape: Tape
) -> tuple[Tensor, Tensor, Tensor] | None:
    """(q~, k~, v~): directional derivatives of q, k, v along the block's input, under the LRP rules.

    Forward-mode AD from the block's input to its attention function, where the run stops. None when they equal q, k
    and v (no additive constant on the way).
    """
    forward: Any = forward_ad  # untyped functions
    with _detour(tape, _StopAtAttention()), forward_ad.dual_level():
        try:
            inputs.call(block, forward.make_dual(hidden.detach(), hidden.detach().clone()))
        except _Reached as reached:
            parts = [forward.unpack_dual(x) for x in reached.args]
            q, k, v = (torch.zeros_like(p.primal) if p.tangent is None else p.tangent for p in parts)
            same = all(torch.equal(p.primal, t) for p, t in zip(parts, (q, k, v), strict=True))
            return None if same else (q, k, v)
    raise GraphError("the block finished without calling its attention function. do: method='packed'")


def is_token_local(block: nn.Module, inputs: BlockInputs, hidden: Tensor, tape: Tape) -> bool:
    """Whether nothing but attention mixes tokens: with attention cut out, changing one token changes only itself.

    A convolution or a token shift hidden in the block would make the closed form wrong, with column sums intact.
    """
    other = hidden.clone()
    other[:, 1] += 1.0
    runs = []
    for states in (hidden, other):
        skip = _SkipAttention()
        with _detour(tape, skip):
            out = inputs.call(block, states)
        runs.append([out, *(x.transpose(1, 2) for x in skip.given)])  # all [B, T, ...]
    keep = torch.arange(hidden.shape[1], device=hidden.device) != 1
    return len(runs[0]) == len(runs[1]) and all(
        torch.allclose(a[:, keep], b[:, keep], rtol=1e-3, atol=1e-5) for a, b in zip(*runs, strict=True)
    )


# Packed products: the oracle, and the way for blocks without softmax attention


def packed_rows(
    blocks: Sequence[tuple[nn.Module, BlockInputs]],
    hidden: Tensor,
    gradient: Tensor,
    wanted: Tensor,
    tape: Tape,
    chunk: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """(row indices, edges [R, T]) over one or more blocks, by running them on copies of the sequence.

    Source: arXiv 2604.17761, appendix A.

    Args:
        hidden: [1, T, D] at the first block's input; gradient: [1, T, D] at the last block's output.
        chunk: copies per run.
    """
    for rows in torch.split(wanted, chunk):
        copies = hidden.detach().expand(len(rows), -1, -1).clone().requires_grad_()
        with torch.enable_grad(), tape.recording(None):
            out = copies
            for block, inputs in blocks:
                out = inputs.call(block, out)
        seed = torch.zeros_like(out)
        index = torch.arange(len(rows), device=rows.device)
        seed[index, rows] = gradient[0, rows]
        (grads,) = torch.autograd.grad(out, copies, seed)
        yield rows, relevance_sum(copies.detach(), grads)
