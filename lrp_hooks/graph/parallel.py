"""Attention calls of one block that run side by side (differential attention): one call with the heads of all.

They may share queries and keys; what they may not do is read each other's output. Then heads are all that an edge sums
over, and the closed form holds as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import NoClosedFormError
from lrp_hooks.graph.carried import Reached
from lrp_hooks.recording.records import Parked

Triple = tuple[Tensor, Tensor, Tensor]


def side_by_side(parked: Parked, runs: list[Reached]) -> tuple[Parked, Triple]:
    """All calls as one, and its (q~, k~, v~).

    Args:
        runs: what the calls are given when every one before has returned zeros.

    Raises:
        NoClosedFormError: a call depends on another's output, or masks, scales or shapes differ.
    """
    if len(parked.outputs) != len(parked.inputs):
        raise NoClosedFormError("a block's attention calls are not all used. do: method='packed'")
    carried = [_matching(inputs, runs) for _, inputs, _ in parked.inputs]
    setting = parked.inputs[0][0]
    if not all(_alike(setting, other) for other, _, _ in parked.inputs[1:]):
        raise NoClosedFormError("a block's attention calls have different masks or scales. do: method='packed'")
    setting = replace(setting, lse=_joined([s.lse for s, _, _ in parked.inputs], 1))
    inputs = tuple(_joined([given[i] for _, given, _ in parked.inputs], 1) for i in range(3))
    grads = tuple(_joined([back[i] for _, _, back in parked.inputs], 1) for i in range(3))
    gradient, shares = (_joined([out[i] for out in parked.outputs], 2) for i in range(2))
    assert gradient is not None
    assert shares is not None
    one = Parked([(setting, inputs, grads)], [(gradient, shares)])  # type: ignore[list-item]
    return one, tuple(_joined([part[i] for part in carried], 1) for i in range(3))  # type: ignore[return-value]


def _matching(given: tuple[Tensor, ...], runs: list[Reached]) -> Triple:
    for run in runs:
        if all(torch.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(given, run.values, strict=True)):
            return run.tangents
    raise NoClosedFormError(
        "the block calls attention several times, one call on what another returned: exact edges need calls side by "
        "side. do: method='packed'"
    )


def _alike(one: Any, other: Any) -> bool:
    same = one.options.keys() == other.options.keys() and one.factors == other.factors
    return (
        same
        and all(_equal(one.options[name], other.options[name]) for name in one.options)
        and _equal(one.mask, other.mask)
    )


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a is b or torch.equal(a, b)
    return bool(a == b)


def _joined(parts: list[Tensor | None], dim: int) -> Tensor | None:
    there = [part for part in parts if part is not None]
    if not there or len(there) < len(parts):
        return None
    try:
        return torch.cat(there, dim)
    except RuntimeError as error:
        raise NoClosedFormError(f"a block's attention calls have different shapes: {error}") from error
