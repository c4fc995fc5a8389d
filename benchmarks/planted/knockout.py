"""Which attention edges a planted failure goes over: decided by cutting them, with PyTorch's hooks alone.

No graph method and nothing of this project's attribution takes part: the masks of the model's attention are replaced,
one row of a batch per set of cut edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from benchmarks.planted.prompt import Planted

Edge = tuple[int, int, int]
"""(block, source token, target token)."""
TOGETHER = 64
"""Sets of cut edges per forward."""


@dataclass(frozen=True)
class KnownPath:
    """One prompt whose path is known, with what cutting says about each of its edges.

    Attributes:
        lead: logits by which the wrong token leads the right one.
        change: what cutting each edge alone adds to the lead.
    """

    prompt: Planted
    lead: float
    change: dict[Edge, float]

    @property
    def causal(self) -> dict[Edge, bool]:
        """Whether cutting an edge alone turns the choice."""
        return {edge: self.lead + change < 0 for edge, change in self.change.items()}


def existing(config: Any, length: int) -> list[Edge]:
    """The edges between different tokens that the model's blocks have: in a block with a window, those inside it."""
    windows = {"full_attention": length, "sliding_attention": config.sliding_window}
    reach = [windows[kind] - 1 for kind in config.layer_types]
    return [(b, s, t) for b, most in enumerate(reach) for t in range(1, length) for s in range(max(0, t - most), t)]


def leads(model: Any, prompt: Planted, cuts: Sequence[Sequence[Edge]]) -> list[float]:
    """The lead of the wrong over the right token, in logits, with each set of edges cut."""
    parts = [cuts[i : i + TOGETHER] for i in range(0, len(cuts), TOGETHER)]
    return [lead for part in parts for lead in _leads(model, prompt, part)]


def _leads(model: Any, prompt: Planted, cuts: Sequence[Sequence[Edge]]) -> list[float]:
    length, layers = len(prompt.ids), model.model.layers
    seen = torch.eye(length, dtype=torch.bool).repeat(len(layers), len(cuts), 1, 1, 1)  # [L, B, 1, T, T]
    for block, source, target in existing(model.config, length):
        seen[block, :, 0, target, source] = True
    for row, edges in enumerate(cuts):
        for block, source, target in edges:
            seen[block, row, 0, target, source] = False
    hooks = [_with_mask(layer.self_attn, mask) for layer, mask in zip(layers, seen, strict=True)]
    try:
        with torch.no_grad():
            ids = torch.tensor([prompt.ids]).repeat(len(cuts), 1)
            logits = model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]
    finally:
        for hook in hooks:
            hook.remove()
    found: list[float] = (logits[:, prompt.wrong] - logits[:, prompt.right]).tolist()
    return found


def _with_mask(attention: Any, mask: Tensor) -> Any:
    """A hook that hands the attention module this mask (bool [B, 1, T, T], True where a token is seen)."""

    def replaced(module: Any, inputs: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return inputs, {**options, "attention_mask": mask}

    return attention.register_forward_pre_hook(replaced, with_kwargs=True)


def path_holds(model: Any, prompt: Planted) -> bool:
    """Whether cutting either hop of the path, in all blocks at once, turns the choice."""
    blocks = range(len(model.model.layers))
    hops = [[(block, *hop) for block in blocks] for hop in pairwise(prompt.hops)]
    return all(lead < 0 for lead in leads(model, prompt, hops))


def known_path(model: Any, prompt: Planted) -> KnownPath:
    """Cut every attention edge of the prompt, one at a time."""
    edges = existing(model.config, len(prompt.ids))
    lead, *cut = leads(model, prompt, [[], *([edge] for edge in edges)])
    return KnownPath(prompt, lead, {edge: after - lead for edge, after in zip(edges, cut, strict=True)})
