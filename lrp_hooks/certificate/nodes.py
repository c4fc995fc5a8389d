"""LRP's rules for single autograd nodes of an untouched model: a second, slow implementation of the same definitions.

The rules of `lrp_hooks.rules` act on modules; these act on what PyTorch has recorded of an untouched forward, and know
no module, no family and no probe. Sources: AttnLRP (arXiv 2402.05602), section 3; CP-LRP (arXiv 2202.07304).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.detection.walk import LINEAR_NODES, PRODUCT_NODES, operation_of

Edge = tuple[Any, int]
"""An autograd node and the index of one of its outputs."""

CONSTANT = {
    f"{name}Backward{i}"
    for i in range(6)
    for name in (
        *("Rsqrt", "Sqrt", "Reciprocal", "Exp", "Exp2", "Log", "Log2", "Norm", "LinalgVectorNorm"),
        *("Var", "VarMean", "Std", "StdMean", "Topk", "Sort", "Amax", "Max", "Cumprod"),
    )
}
"""Scales, decays and choices: relevance does not flow through them."""
SCALED = {"MulBackward1", "DivBackward1", "RsubBackward0"}
"""By a number; linear."""
SOFTMAX = {"SoftmaxBackward0", "SafeSoftmaxBackward0"}
ELEMENTWISE = {
    "MulBackward0",
    "MulBackward1",
    "AddBackward0",
    "SubBackward0",
    "NegBackward0",
    "PowBackward0",
    "DivBackward0",
    "DivBackward1",
}
"""Acts on each element by itself; with the functions of `SLOPES`."""
SCALING = {"MulBackward0", "MulBackward1", "DivBackward0", "DivBackward1", "ToCopyBackward0"}
RESHAPING = {
    name
    for name in LINEAR_NODES
    if name.startswith(("View", "Reshape", "UnsafeView", "Unsqueeze", "Squeeze", "Expand", "Slice", "Select", "Index"))
    or name.startswith(("Transpose", "Permute", "T", "ToCopy", "Clone", "Alias", "Split", "Unbind", "MaskedFill"))
}


class UnknownNodeError(Exception):
    """The reference has no rule for a node; nothing is said about the model."""


@dataclass(frozen=True)
class NodeRules:
    """What distinguishes composites at the level of nodes.

    Attributes:
        softmax: whether a softmax passes its own gradient, or its weights are constants.
        gate: the share of the gate in a product with a gate; the other factor has the rest.
    """

    softmax: bool
    gate: float


RULES = {"attnlrp": NodeRules(softmax=True, gate=0.5), "cp-lrp": NodeRules(softmax=False, gate=0.0)}


def _gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _gelu(node: Any) -> Tensor:
    x = node._saved_self
    if node._saved_approximate == "tanh":
        return _gelu_tanh(x)
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def _secant(function: Callable[[Tensor], Tensor], x: Tensor, limit: float) -> Tensor:
    """(f(x) - f(0)) / x, and f'(0) at 0."""
    there = function(x) - function(torch.zeros_like(x))
    return torch.where(x == 0, torch.full_like(x, limit), there / torch.where(x == 0, torch.ones_like(x), x))


def _tanh(x: Tensor) -> Tensor:
    return _secant(torch.tanh, x, 1.0)


def _sigmoid(x: Tensor) -> Tensor:
    return 0.25 * _tanh(x / 2)  # sigmoid(x) - 1/2 = tanh(x / 2) / 2, without the difference


def _clamp(node: Any) -> Tensor:
    low = getattr(node, "_saved_min", None)
    high = getattr(node, "_saved_max", None)
    return _secant(lambda x: torch.clamp(x, low, high), node._saved_self, 1.0)


SLOPES: dict[str, Callable[[Any], Tensor]] = {
    "SiluBackward0": lambda node: torch.sigmoid(node._saved_self),
    "GeluBackward0": _gelu,
    "ReluBackward0": lambda node: (node._saved_result > 0).to(node._saved_result.dtype),
    "TanhBackward0": lambda node: _tanh(torch.atanh(node._saved_result)),
    "SigmoidBackward0": lambda node: _sigmoid(torch.logit(node._saved_result)),
    "SoftplusBackward0": lambda node: _secant(
        lambda x: torch.nn.functional.softplus(x, float(node._saved_beta), float(node._saved_threshold)),
        node._saved_self,
        0.5,
    ),
    "GeLUFunctionBackward": lambda node: _gelu_tanh(*node.saved_tensors),  # transformers' BLOOM has its own
    "MishBackward0": lambda node: torch.tanh(torch.nn.functional.softplus(node._saved_self)),
    "ErfBackward0": lambda node: _secant(torch.erf, node._saved_self, 2 / math.sqrt(math.pi)),
    "ClampBackward0": _clamp,
    "ClampBackward1": _clamp,
    "ClampMinBackward0": lambda node: _secant(
        lambda x: torch.clamp(x, min=node._saved_min), node._saved_self, float(node._saved_min <= 0)
    ),
    "ClampMaxBackward0": lambda node: _secant(
        lambda x: torch.clamp(x, max=node._saved_max), node._saved_self, float(node._saved_max >= 0)
    ),
}
"""(f(x) - f(0)) / x of element-wise functions (section 3.2); f(0) absorbs."""
OF_ARGUMENT: dict[str, Callable[[Tensor], Tensor]] = {"TanhBackward0": _tanh, "SigmoidBackward0": _sigmoid}
"""The same by the argument x, of functions that autograd keeps the result of: where that is rounded to its bound, it no
longer says what x was."""


@dataclass(eq=False)
class NodeRelevance:
    """The rules over one recorded forward.

    Attributes:
        carrying: whether relevance flows through a node, for every node of the forward.
        arguments: x of the nodes of `OF_ARGUMENT`, as far as they are known.
    """

    rules: NodeRules
    carrying: dict[Any, bool]
    arguments: Mapping[Any, Tensor]

    def is_carrying(self, node: Any, is_leaf: bool) -> bool:
        """Whether relevance flows through to the embeddings, given the answer for all nodes below."""
        name = operation_of(node)
        if is_leaf:
            return True
        if name in CONSTANT or (name in SOFTMAX and not self.rules.softmax):
            return False
        if name == "PowBackward0" and float(node._saved_exponent) < 1:
            return False
        below = [self._carries(node, i) for i in range(len(node.next_functions))]
        return below[0] if name.startswith("DivBackward") else any(below)

    def _carries(self, node: Any, operand: int) -> bool:
        below = node.next_functions[operand][0] if operand < len(node.next_functions) else None
        return below is not None and self.carrying.get(below, False)

    def back(self, node: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Gradients that enter a node's operands, from those at its outputs.

        Raises:
            UnknownNodeError: no rule.
        """
        name = operation_of(node)
        if name in SLOPES:
            return (_times(grads[0], self._slope(name, node)),)
        if name == "NativeLayerNormBackward0":
            return (_layer_norm(node, grads[0]),)
        if name == "PowBackward0":
            return (_times(own_gradient(node, grads)[0], 1 / float(node._saved_exponent)),)
        if name.startswith("DivBackward"):
            return (own_gradient(node, grads)[0],)
        if name in PRODUCT_NODES:
            return self._product(node, PRODUCT_NODES[name], grads)
        if name in SOFTMAX or name in LINEAR_NODES or name in SCALED:
            return own_gradient(node, grads)
        raise UnknownNodeError(name)

    def _slope(self, name: str, node: Any) -> Tensor:
        x = self.arguments.get(node)
        return SLOPES[name](node) if x is None else OF_ARGUMENT[name](x)

    def _product(
        self, node: Any, operands: tuple[int, ...], grads: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        out = list(own_gradient(node, grads))
        first, second = operands
        if self._carries(node, first) and self._carries(node, second):
            for operand, share in zip(operands, self._shares(node, first, second), strict=True):
                out[operand] = _times(out[operand], share)
        return tuple(out)

    def _shares(self, node: Any, first: int, second: int) -> tuple[float, float]:
        """How a product of two factors that both carry relevance shares it (section 3.3)."""
        if operation_of(node) != "MulBackward0":
            return 0.5, 0.5
        a, b = node.next_functions[first], node.next_functions[second]
        for one, other, shares in ((a, b, (0.0, 1.0)), (b, a, (1.0, 0.0))):
            if self._is_routing(one) and not self._is_routing(other):
                return shares
            if self._sources(one) == self._sources(other) and self._is_scaled(other):
                return shares  # x s(x) is element-wise in x, with the slope s(x)
        if self._is_shifted(a) or self._is_shifted(b):
            raise UnknownNodeError("a product of which one factor has a constant added")
        gate = self.rules.gate
        gates = self._is_gate(a), self._is_gate(b)
        if gates[0] == gates[1]:
            return 0.5, 0.5
        return (gate, 1 - gate) if gates[0] else (1 - gate, gate)

    def _operands(self, node: Any) -> list[Edge]:
        """Edges to what carries relevance through a node; a denominator is a constant."""
        edges = node.next_functions[:1] if operation_of(node).startswith("DivBackward") else node.next_functions
        return [edge for i, edge in enumerate(edges) if self._carries(node, i)]

    def _down(self, edge: Edge, through: set[str]) -> Edge:
        """Follow the only operand that carries relevance, as long as nodes are ``through``."""
        node = edge[0]
        while operation_of(node) in through:
            below = self._operands(node)
            if len(below) != 1:
                break
            edge, node = below[0], below[0][0]
        return edge

    def _is_routing(self, edge: Edge) -> bool:
        """Weights from a softmax, or chosen by index from scores: how much each expert or state counts."""
        scores = set(SLOPES) | SOFTMAX
        node = self._down(edge, RESHAPING | ELEMENTWISE)[0]
        if operation_of(node) in SLOPES:  # a sigmoid of chosen logits
            node = self._down(node.next_functions[0], RESHAPING)[0]
            return operation_of(node) == "GatherBackward0"
        if operation_of(node) == "GatherBackward0":  # chosen from sigmoids
            return operation_of(self._down(node.next_functions[0], RESHAPING | ELEMENTWISE)[0]) in scores
        return operation_of(node) in SOFTMAX

    def _is_gate(self, edge: Edge) -> bool:
        node = self._down(edge, RESHAPING | {"PowBackward0"})[0]
        if operation_of(node) == "MulBackward0" and all(self._carries(node, i) for i in (0, 1)):
            a, b = node.next_functions
            return self._sources(a) == self._sources(b)  # a gate that is written out, x s(x)
        return operation_of(node) in SLOPES

    def _is_scaled(self, edge: Edge) -> bool:
        """Whether there is nothing but constant factors between an edge and its source."""
        return self._down(edge, SCALING) in self._sources(edge)

    def _is_shifted(self, edge: Edge) -> bool:
        node = self._down(edge, RESHAPING)[0]
        return operation_of(node) == "AddBackward0" and None in (e[0] for e in node.next_functions)

    def _sources(self, edge: Edge) -> frozenset[Edge]:
        """Where an element-wise expression starts: its variables."""
        found: set[Edge] = set()
        stack, seen = [edge], set[Edge]()
        while stack:
            edge = stack.pop()
            if edge in seen:
                continue
            seen.add(edge)
            node = edge[0]
            name = operation_of(node)
            if name in SLOPES or name in ELEMENTWISE or name == "ToCopyBackward0":
                stack += self._operands(node)
            else:
                found.add(edge)
        return frozenset(found)


def own_gradient(node: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """The node's own gradients."""
    out = node(*grads)
    return out if isinstance(out, tuple) else (out,)


def _times(grad: Tensor | None, factor: Tensor | float) -> Tensor | None:
    return None if grad is None else grad * factor


def _layer_norm(node: Any, grad: Tensor | None) -> Tensor | None:
    """1/std is a constant, centring the mean stays linear (section 3.3.3)."""
    if grad is None:
        return None
    over = tuple(range(-len(node._saved_normalized_shape), 0))
    weight = node._saved_weight
    scaled = (grad if weight is None else grad * weight) * node._saved_result2
    centred: Tensor = scaled - scaled.mean(over, keepdim=True)
    return centred
