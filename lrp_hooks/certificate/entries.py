"""Entry by entry: the instrumented model's relevance against the reference's, on a short piece of the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lrp_hooks.certificate.nodes import UnknownNodeError
from lrp_hooks.certificate.reference import ReferenceScores, reference_relevance
from lrp_hooks.relevance import Relevance
from lrp_hooks.sites import Role
from lrp_hooks.targets import Target

if TYPE_CHECKING:
    from lrp_hooks.instrumentation.instrument import Instrumentation

ENTRY_TOKENS = 64
"""The reference keeps all activations; longer prompts are compared on their last tokens, taken by themselves."""
ENTRY_LIMITS = {torch.float64: 1e-8, torch.float32: 1e-3}
"""Largest difference relative to the largest entry. Half precision has no limit: both sides round by percents."""


@dataclass(frozen=True)
class EntryCheck:
    """Relevance against the reference.

    Attributes:
        tokens, points: how many entries: input tokens, and residual points times tokens.
        error: largest difference, relative to the largest entry of the same residual point; None: not compared.
        point: where it is largest, "tokens" or a residual point.
        limit: the error at which entries count as wrong; None where there is no limit.
        reason: why entries were not compared.
    """

    tokens: int = 0
    points: int = 0
    error: float | None = None
    point: str = ""
    limit: float | None = None
    reason: str = ""

    @property
    def wrong(self) -> bool:
        return self.error is not None and self.limit is not None and not self.error <= self.limit


def check_entries(lrp: Instrumentation, inputs: dict[str, Any], target: Target) -> EntryCheck:
    """Attribute a short piece of the first row twice: as instrumented, and on the untouched model by the reference."""
    if any(site.role is Role.MIXER for site in lrp.sites):
        return EntryCheck(
            reason="how mixers without softmax divide relevance is a convention, not to be read off nodes"
        )
    if lrp.tape.holds_bias:
        return EntryCheck(reason="attention has a bias made from hidden states, which the rule holds constant")
    output = lrp.skeleton.output
    short = _short(inputs, whole=not output.causal or lrp.skeleton.encoder is not None)
    trace = lrp.trace(**short)
    target = target.on(output).fixed(trace.logits(target.position))
    instrumented = trace.attribute(target)
    columns = trace.positions(target.position) if output.kind == "tokens" else None
    try:
        with lrp.suspended():
            reference = reference_relevance(lrp.model, lrp.skeleton, short, target.value, columns, lrp.composite.name)
    except UnknownNodeError as unknown:
        return EntryCheck(reason=f"the reference has no rule for {unknown}")
    return compare(instrumented, reference, next(lrp.model.parameters()).dtype)


def compare(instrumented: Relevance, reference: ReferenceScores, dtype: torch.dtype) -> EntryCheck:
    """Every token and residual point, of both streams where there are two."""
    streams = [("", instrumented, reference)]
    if instrumented.encoder is not None and reference.encoder is not None:
        streams.append(("encoder ", instrumented.encoder, reference.encoder))
    errors: dict[str, float] = {}
    for name, found, expected in streams:
        errors[f"{name}tokens"] = _error(found.tokens, expected.tokens)
        for point in range(expected.layers.shape[1]):
            errors[f"{name}residual point {point}"] = _error(found.layers[:, point], expected.layers[:, point])
    worst = max(errors, key=lambda name: errors[name])
    tokens, points = (sum(getattr(r, table).numel() for _, _, r in streams) for table in ("tokens", "layers"))
    return EntryCheck(tokens, points, errors[worst], worst, ENTRY_LIMITS.get(dtype))


def _error(found: Tensor, expected: Tensor) -> float:
    expected = torch.nn.functional.pad(expected, (found.shape[1] - expected.shape[1], 0))  # a class token has no patch
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float(((found.to(expected) - expected).abs().max() / scale).detach())


def _short(inputs: dict[str, Any], *, whole: bool) -> dict[str, Any]:
    """The first row; of a causal model's prompt the last tokens, without what is derived from the whole prompt."""
    row = {name: x[:1] for name, x in inputs.items() if isinstance(x, Tensor) and x.dim()}
    ids, mask = row.get("input_ids"), row.get("attention_mask")
    if whole or ids is None:
        return row
    real = ids[0] if mask is None else ids[0][mask[0].bool()]
    return {"input_ids": real[-ENTRY_TOKENS:][None]}
