"""Below the level of tokens: what one node consists of, and edges between chosen MLP neurons.

The relevance of a part x of a node (a hidden dimension, a head's output, a neuron) is x times its gradient, as for
tokens. An edge between neurons is that of docs/mathematics.md, between smaller things: neuron m of token j in an upper
block has the share x_m g_m with g_m kept fixed, and sends x_n d(x_m g_m)/d x_n to neuron n of token i in a lower block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.errors import GraphError
from lrp_hooks.graph.packed import PackedSpan
from lrp_hooks.ops import compute_dtype
from lrp_hooks.sites import Role, Site


@dataclass(frozen=True, eq=False)
class NodeParts:
    """What the relevance of one node, token ``token`` at residual point ``point``, consists of. In logits, float32.

    Attributes:
        relevance: of the node.
        dimensions: [D], of the hidden dimensions; they add up to ``relevance``.
        heads: [H], of each head's output at the token in the block below the point; None at point 0.
        neurons: [I], of each MLP neuron there (input of the down projection); None at point 0, where the block has no
            known MLP, or where the composite has no rule for it ("gradient").
    """

    point: int
    token: int
    relevance: float
    dimensions: Tensor
    heads: Tensor | None
    neurons: Tensor | None


@dataclass(frozen=True, eq=False)
class NeuronEdges:
    """What chosen neurons of one node send to the neurons of lower blocks. In logits, float32.

    Attributes:
        block, token: where the chosen neurons are; neurons: their indices, [N].
        relevance: [N], of the chosen neurons.
        below: lower block -> [N, T, I], edge from neuron i of token t.
    """

    block: int
    token: int
    neurons: tuple[int, ...]
    relevance: Tensor
    below: dict[int, Tensor]

    def strongest(self, count: int = 10) -> list[NeuronEdge]:
        """The edges with the largest |weight|, over all chosen neurons and lower blocks."""
        found: list[NeuronEdge] = []
        for block, edges in self.below.items():
            _, tokens, width = edges.shape
            best = edges.flatten().abs().topk(min(count, edges.numel())).indices.tolist()
            for index in best:
                chosen, token, neuron = index // (tokens * width), index // width % tokens, index % width
                weight = float(edges[chosen, token, neuron])
                found.append(NeuronEdge(self.neurons[chosen], block, token, neuron, weight))
        return sorted(found, key=lambda edge: -abs(edge.weight))[:count]


@dataclass(frozen=True)
class NeuronEdge:
    """From neuron ``neuron`` of token ``token`` in block ``block`` up to the chosen neuron ``upper``."""

    upper: int
    block: int
    token: int
    neuron: int
    weight: float


def neuron_edges(
    span: PackedSpan, sites: Sequence[Site], first: int, token: int, neurons: Sequence[int]
) -> NeuronEdges:
    """Edges from all neurons of the lower blocks of a span to chosen ones of its last block.

    One run of the span's blocks, then one backward pass per chosen neuron.

    Args:
        first: index of the span's first block.
    """
    last = first + len(span.blocks) - 1
    points = {block: neuron_point(sites, block) for block in range(first, last + 1)}
    x = span.hidden.clone().requires_grad_()
    with torch.enable_grad(), span.tape.recording(None), _watched(points) as values:
        out = x
        for block, inputs in span.blocks:
            out = inputs.call(block, out)
    top = values.pop(last)
    (at_top,) = torch.autograd.grad(out, top, span.gradient.to(out.device), retain_graph=True)
    width = top.shape[-1]
    if any(not 0 <= n < width for n in neurons):
        raise GraphError(f"neurons {list(neurons)} must lie in 0..{width - 1}")
    below: dict[int, list[Tensor]] = {block: [] for block in values}
    for neuron in neurons:
        seed = torch.zeros_like(at_top)
        seed[0, token, neuron] = at_top[0, token, neuron]
        grads = torch.autograd.grad(top, list(values.values()), seed, retain_graph=True)
        for (lower, value), grad in zip(values.items(), grads, strict=True):
            below[lower].append(_product(value, grad, span.unscale)[0].cpu())
    chosen = _product(top, at_top, span.unscale)[0, token, list(neurons)].cpu()
    return NeuronEdges(last, token, tuple(neurons), chosen, {block: torch.stack(rows) for block, rows in below.items()})


def _product(value: Tensor, gradient: Tensor, unscale: float) -> Tensor:
    dtype = compute_dtype(value)
    return (value.detach().to(dtype) * gradient.to(dtype)).float() / unscale


def neuron_point(sites: Sequence[Site], block: int) -> tuple[nn.Module, bool]:
    """The module at whose input (True) or output (False) the block's MLP neurons appear.

    Raises:
        GraphError: the block has none, or several MLPs.
    """
    inside = [site for site in sites if site.block == block and site.role in (Role.GATED, Role.ACTIVATION)]
    gated = [site for site in inside if site.role is Role.GATED]
    chosen = gated or inside
    if len(chosen) != 1:
        raise GraphError(f"block {block} has {len(chosen)} MLPs that are known; neuron edges need one")
    site = chosen[0]
    return (site.module.get_submodule(site.spec[0].down), True) if gated else (site.module, False)


@contextmanager
def _watched(points: dict[int, tuple[nn.Module, bool]]) -> Iterator[dict[int, Tensor]]:
    """Collects the neurons' values [1, T, I] with their graph while the blocks run."""
    values: dict[int, Tensor] = {}

    def watch(block: int, at_input: bool) -> Any:
        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            values[block] = args[0]

        def after(_module: nn.Module, _args: Any, out: Tensor) -> None:
            values[block] = out

        return before if at_input else after

    handles = []
    for block, (module, at_input) in points.items():
        register = module.register_forward_pre_hook if at_input else module.register_forward_hook
        handles.append(register(watch(block, at_input)))
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()
