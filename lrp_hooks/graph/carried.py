"""Runs of a block without its attention: what carries relevance into q, k and v, and whether tokens mix elsewhere."""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lrp_hooks.errors import NoClosedFormError
from lrp_hooks.tape import AttentionRun, BlockInputs, Detour, Tape


class _Reached(Exception):
    """Ends a run at the attention function."""


class _StopAtAttention(Detour):
    def attend(self, call: AttentionRun) -> NoReturn:
        raise _Reached(call.q, call.k, call.v)


class _SkipAttention(Detour):
    """Attention that returns zeros; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def attend(self, call: AttentionRun) -> tuple[Tensor, None]:
        self.given += [call.q, call.k, call.v]
        batch, heads, length, _ = call.q.shape
        return call.v.new_zeros(batch, length, heads, call.v.shape[3]), None


def carried_parts(
    block: nn.Module, inputs: BlockInputs, hidden: Tensor, tape: Tape
) -> tuple[Tensor, Tensor, Tensor] | None:
    """(q~, k~, v~): directional derivatives of q, k, v along the block's input, under the LRP rules.

    Forward-mode AD from the block's input to its attention function, where the run stops. None when they equal q, k
    and v (no additive constant on the way).
    """
    forward: Any = forward_ad  # untyped functions
    with tape.detoured(_StopAtAttention()), forward_ad.dual_level():
        try:
            inputs.call(block, forward.make_dual(hidden.detach(), hidden.detach().clone()))
        except _Reached as reached:
            parts = [forward.unpack_dual(x) for x in reached.args]
            q, k, v = (torch.zeros_like(p.primal) if p.tangent is None else p.tangent for p in parts)
            same = all(torch.equal(p.primal, t) for p, t in zip(parts, (q, k, v), strict=True))
            return None if same else (q, k, v)
    raise NoClosedFormError("the block finished without calling its attention function. do: method='packed'")


def is_token_local(block: nn.Module, inputs: BlockInputs, hidden: Tensor, tape: Tape) -> bool:
    """Whether nothing but attention mixes tokens: with attention cut out, changing one token changes only itself.

    A convolution or a token shift hidden in the block would make the closed form wrong, with column sums intact.
    """
    other = hidden.clone()
    other[:, 1] += 1.0
    runs = []
    for states in (hidden, other):
        skip = _SkipAttention()
        with tape.detoured(skip):
            out = inputs.call(block, states)
        runs.append([out, *(x.transpose(1, 2) for x in skip.given)])  # all [B, T, ...]
    keep = torch.arange(hidden.shape[1], device=hidden.device) != 1
    return len(runs[0]) == len(runs[1]) and all(
        torch.allclose(a[:, keep], b[:, keep], rtol=1e-3, atol=1e-5) for a, b in zip(*runs, strict=True)
    )
