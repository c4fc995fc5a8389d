"""Runs of a block without its attention: what carries relevance into q, k and v, and whether tokens mix elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from lrp_hooks.errors import NoClosedFormError
from lrp_hooks.recording.detour import AttentionRun, Detour
from lrp_hooks.recording.records import BlockInputs
from lrp_hooks.recording.tape import Tape


@dataclass(frozen=True, eq=False)
class Reached:
    """What one attention call is given: values and tangents of (q, k, v), [B, H, T, d] each."""

    values: tuple[Tensor, Tensor, Tensor]
    tangents: tuple[Tensor, Tensor, Tensor]

    @property
    def constant_free(self) -> bool:
        """Whether no additive constant has been met on the way."""
        return all(torch.equal(value, moved) for value, moved in zip(self.values, self.tangents, strict=True))


class _EnoughError(Exception):
    """Ends a run at the last attention call."""


class _StopAtAttention(Detour):
    """Notes what each call is given; all but the last return zeros."""

    def __init__(self, calls: int) -> None:
        self.calls = calls
        self.reached: list[Reached] = []
        self.scored: tuple[Tensor, Tensor] | None = None

    def attend(self, call: AttentionRun) -> tuple[Tensor, None]:
        self._note(call.q, call.k, call.v)
        return _nothing(call), None

    def scores(self, q: Tensor, k: Tensor) -> None:
        self.scored = (q, k)

    def weigh(self, weights: Tensor, v: Tensor, block: int | None) -> Tensor:
        if self.scored is None:
            raise NoClosedFormError("weights were multiplied with values before there were scores. do: method='packed'")
        self._note(*self.scored, v)
        return torch.zeros_like(weights)

    def _note(self, *given: Tensor) -> None:
        forward: Any = forward_ad  # untyped functions
        parts = [forward.unpack_dual(x) for x in given]
        values = tuple(part.primal for part in parts)
        moved = tuple(torch.zeros_like(p.primal) if p.tangent is None else p.tangent for p in parts)
        self.reached.append(Reached(values, moved))  # type: ignore[arg-type]
        if len(self.reached) == self.calls:
            raise _EnoughError


def _nothing(call: AttentionRun) -> Tensor:
    """The output of an attention call, zeros [B, T, H, d]."""
    batch, heads, length, _ = call.q.shape
    return torch.zeros(batch, length, heads, call.v.shape[3], dtype=call.v.dtype, device=call.v.device)


class _SkipAttention(Detour):
    """Attention that returns zeros; remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[Tensor] = []

    def attend(self, call: AttentionRun) -> tuple[Tensor, None]:
        self.given += [call.q, call.k, call.v]
        return _nothing(call), None

    def scores(self, q: Tensor, k: Tensor) -> None:
        self.given += [q, k]

    def weigh(self, weights: Tensor, v: Tensor, block: int | None) -> Tensor:
        self.given.append(v)
        return torch.zeros_like(weights)


def carried_parts(block: nn.Module, inputs: BlockInputs, hidden: Tensor, tape: Tape, calls: int = 1) -> list[Reached]:
    """(q~, k~, v~) of each attention call: derivatives of q, k, v along the block's input, under the LRP rules.

    Forward-mode AD from the block's input to its last attention call, where the run stops.

    Raises:
        NoClosedFormError: fewer calls than the block made with gradients.
    """
    forward: Any = forward_ad  # untyped functions
    stop = _StopAtAttention(calls)
    with tape.detoured(stop, hidden.shape[0]), forward.dual_level():
        try:
            inputs.call(block, forward.make_dual(hidden.detach(), hidden.detach().clone()))
        except _EnoughError:
            return stop.reached
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
        with tape.detoured(skip, hidden.shape[0]):
            out = inputs.call(block, states)
        runs.append([out, *(x.transpose(1, 2) for x in skip.given)])  # all [B, T, ...]
    keep = torch.arange(hidden.shape[1], device=hidden.device) != 1
    return len(runs[0]) == len(runs[1]) and all(
        torch.allclose(a[:, keep], b[:, keep], rtol=1e-3, atol=1e-5) for a, b in zip(*runs, strict=True)
    )
