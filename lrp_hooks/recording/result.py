"""From what a backward pass recorded to a `Relevance`."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from lrp_hooks.recording.records import ForwardRecord, PassRecord
from lrp_hooks.relevance import Absorbed, Relevance
from lrp_hooks.structure.skeleton import Skeleton


def build_relevance(
    record: ForwardRecord,
    skeleton: Skeleton,
    composite: str,
    *,
    target: str = "",
    target_value: Tensor | None = None,
    position: Tensor | None = None,
) -> Relevance:
    """Collect the latest pass of ``record``. Padding is set to exactly 0; what no gradient reached is 0."""
    assert record.latest is not None
    whole = _of_stream(record, record.latest, skeleton)
    encoder = None
    if skeleton.encoder is not None and record.encoder is not None:
        inner = record.encoder
        same_pass = inner.latest is not None and inner.task == record.task
        done = inner.latest if same_pass and inner.latest is not None else PassRecord()
        encoder = replace(_of_stream(inner, done, skeleton.encoder), target=target, composite=composite)
    return replace(
        whole, target_value=target_value, position=position, target=target, composite=composite, encoder=encoder
    )


def _of_stream(record: ForwardRecord, done: PassRecord, skeleton: Skeleton) -> Relevance:
    """One stream's part of a pass."""
    mask = record.attention_mask
    assert mask is not None
    layers = _stack(done.points, len(skeleton.blocks) + 1, mask)
    tokens = _tokens(done, mask)
    value = done.value.to(mask.device) if done.value is not None else torch.zeros(mask.shape[0], device=mask.device)
    return Relevance(
        tokens=tokens,
        layers=layers,
        value=value,
        attention_mask=mask,
        input_ids=record.input_ids,
        mid=_stack(done.mid, len(skeleton.blocks), mask) if done.mid else None,
        heads=_heads(done, len(skeleton.blocks)),
        neurons=dict(sorted(done.neurons.items())) if done.neurons else None,
        absorbed=_absorbed(done, skeleton, layers, tokens, mask) if "absorbed" in record.want else None,
    )


def _tokens(done: PassRecord, mask: Tensor) -> Tensor:
    """[B, T]. An image's learned tokens (CLS, registers) come before its patches; they embed nothing: 0."""
    if done.tokens is None:
        return torch.zeros(mask.shape, device=mask.device)
    scores = done.tokens.to(mask.device)
    learned = scores.new_zeros(len(scores), mask.shape[1] - scores.shape[1])
    return torch.where(mask, torch.cat((learned, scores), 1), 0.0)


def _stack(scores: dict[int, Tensor], count: int, mask: Tensor) -> Tensor:
    rows = [
        scores[i].to(mask.device) if i in scores else torch.zeros(mask.shape, device=mask.device) for i in range(count)
    ]
    return torch.where(mask[:, None, :], torch.stack(rows, 1), 0.0)


def _heads(done: PassRecord, blocks: int) -> Tensor | None:
    """[B, L, H, T]; None when blocks differ in their number of heads or nothing was asked for."""
    if not done.heads or len({scores.shape[-1] for scores in done.heads.values()}) > 1:
        return None
    some = next(iter(done.heads.values()))
    rows = [done.heads[i].to(some.device) if i in done.heads else torch.zeros_like(some) for i in range(blocks)]
    return torch.stack(rows, 1).transpose(2, 3)


def _absorbed(done: PassRecord, skeleton: Skeleton, layers: Tensor, tokens: Tensor, mask: Tensor) -> Absorbed:
    zero = torch.zeros(mask.shape[0], device=mask.device)
    attention = [
        done.attention[i].to(mask.device) if i in done.attention else zero for i in range(len(skeleton.blocks))
    ]
    around = around_points(done, len(skeleton.blocks) + 1, zero)
    biases = {path: share.to(mask.device) for path, share in sorted(done.biases.items())}
    return Absorbed(
        biases=biases,
        attention=torch.stack(attention, 1),
        positions=layers[:, 0].sum(1) - tokens.sum(1) + (0.0 if around is None else around[:, 0]),
        around=around,
        block_of={path: skeleton.level_of(path) for path in biases},
    )


def around_points(done: PassRecord, points: int, zero: Tensor) -> Tensor | None:
    """[B, L+1] what passes each residual point outside the residual stream; None where nothing does."""
    if not done.around:
        return None
    columns = []
    for point in range(points):
        given = [share for (block, shared), share in done.around.items() if block >= point and not shared]
        kept = [share for (block, shared), share in done.around.items() if block == point and shared]
        columns.append(sum((x.to(zero.device) for x in (*given, *kept)), zero))
    return torch.stack(columns, 1)
