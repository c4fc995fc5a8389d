"""From what a backward pass recorded to a `Relevance`."""

from __future__ import annotations

import torch
from torch import Tensor

from lrp_hooks.relevance import Absorbed, Relevance
from lrp_hooks.structure import Skeleton
from lrp_hooks.tape import ForwardRecord, PassRecord


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
    done = record.latest
    mask = record.attention_mask
    assert done is not None
    assert mask is not None
    layers = _stack(done.points, len(skeleton.blocks) + 1, mask)
    tokens = (
        torch.where(mask, done.tokens.to(mask.device), 0.0)
        if done.tokens is not None
        else torch.zeros_like(layers[:, 0])
    )
    value = done.value.to(mask.device) if done.value is not None else torch.zeros(mask.shape[0], device=mask.device)
    return Relevance(
        tokens=tokens,
        layers=layers,
        value=value,
        attention_mask=mask,
        input_ids=record.input_ids,
        target_value=target_value,
        position=position,
        target=target,
        composite=composite,
        mid=_stack(done.mid, len(skeleton.blocks), mask) if done.mid else None,
        heads=_heads(done, len(skeleton.blocks)),
        neurons=dict(sorted(done.neurons.items())) if done.neurons else None,
        absorbed=_absorbed(done, skeleton, layers, tokens, mask) if "absorbed" in record.want else None,
    )


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
    around = _around(done, len(skeleton.blocks) + 1, zero)
    biases = {path: share.to(mask.device) for path, share in sorted(done.biases.items())}
    return Absorbed(
        biases=biases,
        attention=torch.stack(attention, 1),
        positions=layers[:, 0].sum(1) - tokens.sum(1) + (0.0 if around is None else around[:, 0]),
        around=around,
        block_of={path: skeleton.level_of(path) for path in biases},
    )


def _around(done: PassRecord, points: int, zero: Tensor) -> Tensor | None:
    """[B, L+1] what passes each point outside the residual stream."""
    if not done.around:
        return None
    columns = []
    for point in range(points):
        given = [share for (block, shared), share in done.around.items() if block >= point and not shared]
        kept = [share for (block, shared), share in done.around.items() if block == point and shared]
        columns.append(sum((x.to(zero.device) for x in (*given, *kept)), zero))
    return torch.stack(columns, 1)
