"""The walk over one tiny forward's autograd graph: every node is linear, a constant's, or claimed by a rule.

Scanning modules misses what a forward computes inline (a tanh, a product of two branches, a softmax). The autograd
graph misses nothing: any node that is neither linear in what carries gradient nor one of our rules is reported, with
the module in whose forward it was made.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrp_hooks.ops import RuleFunction, rule_of
from lrp_hooks.patching.tensor_parallel import is_collective
from lrp_hooks.rules.attention.softmax import AttentionInputs, AttentionOutput

LINEAR_NODES = {
    "AccumulateGrad",
    "Add",
    "AddBackward0",
    "AliasBackward0",
    "AsStridedBackward0",
    "AsStridedBackward1",
    "AvgPool2DBackward0",
    "CatBackward0",
    "CloneBackward0",
    "ConstantPadNdBackward0",
    "CopyBackwards",
    "CopySlices",
    "CumsumBackward0",
    "DiagonalBackward0",
    "ExpandBackward0",
    "FftC2CBackward0",
    "FlipBackward0",
    "GatherBackward0",
    "Im2ColBackward0",
    "IndexAddBackward0",
    "IndexBackward0",
    "IndexPutBackward0",
    "IndexSelectBackward0",
    "MaskedFillBackward0",
    "MeanBackward0",
    "MeanBackward1",
    "MovedimBackward0",
    "NegBackward0",
    "PermuteBackward0",
    "RealBackward0",
    "RepeatBackward0",
    "ReshapeAliasBackward0",
    "ReshapeBackward0",
    "RollBackward0",
    "RsubBackward1",
    "SelectBackward0",
    "SliceBackward0",
    "SplitBackward0",
    "SplitWithSizesBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "SqueezeBackward2",
    "StackBackward0",
    "SubBackward0",
    "SumBackward0",
    "SumBackward1",
    "SwapaxesBackward0",
    "TBackward0",
    "ToCopyBackward0",
    "TransposeBackward0",
    "TransposeBackward1",
    "UnbindBackward0",
    "TrilBackward0",
    "TriuBackward0",
    "UnfoldBackward0",
    "UnsafeSplitBackward0",
    "UnsafeViewBackward0",
    "UnsqueezeBackward0",
    "ViewAsComplexBackward0",
    "ViewAsRealBackward0",
    "ViewBackward0",
    "WhereBackward0",
}
"""Linear in everything that carries gradient (a mask or an index carries none)."""

HOMOGENEOUS_NODES = {"ReluBackward0"}
"""f(x) = f'(x) x already: the derivative is the slope."""

PRODUCT_NODES = {
    "MulBackward0": (0, 1),
    "MmBackward0": (0, 1),
    "BmmBackward0": (0, 1),
    "AddmmBackward0": (1, 2),
    "BaddbmmBackward0": (1, 2),
    "AddbmmBackward0": (1, 2),
    "LinearBackward0": (0, 1),
    "MvBackward0": (0, 1),
    "DotBackward0": (0, 1),
    "ConvolutionBackward0": (0, 1),
    "GroupedMmBackward0": (0, 1),
    "LinalgSolveTriangularBackward0": (0, 1),
    "DivBackward0": (1,),
}
"""Positions of the operands that may not all carry gradient. A quotient's denominator may not at all."""


@dataclass(frozen=True)
class Unclaimed:
    """One node that no rule claims, and the module in whose forward it was made."""

    operation: str
    path: str


class ModuleClock:
    """Maps autograd nodes to the innermost module whose forward made them, by creation order."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, int, str]] = []

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Notes the span of sequence numbers of every module call inside the block."""
        started: list[int] = []
        handles = []
        for path, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_: started.append(_now())))
            handles.append(module.register_forward_hook(self._closing(started, path)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _closing(self, started: list[int], path: str) -> Any:
        def hook(*_: Any) -> None:
            self.spans.append((started.pop(), _now(), path))

        return hook

    def module_of(self, node: Any) -> str:
        number = node._sequence_nr()
        holding = [(end - start, path) for start, end, path in self.spans if start <= number < end]
        return min(holding)[1] if holding else ""


def _now() -> int:
    with torch.enable_grad():
        node: Any = torch.zeros((), requires_grad=True).view(()).grad_fn
    return int(node._sequence_nr())


def unclaimed(output: Tensor, clock: ModuleClock, linear: Container[str] = ()) -> list[Unclaimed]:
    """Nodes between ``output`` and the leaves that are neither linear nor claimed, in order of the forward pass.

    ``linear``: paths of modules that a probe has found to be linear maps, whatever nodes they are made of.
    """
    seen: set[Any] = set()
    stack: list[tuple[Any, bool]] = [(output.grad_fn, False)]  # (node, inside an attention call)
    bad: list[Any] = []
    while stack:
        node, inside = stack.pop()
        if node is None or (node, inside) in seen:
            continue
        seen.add((node, inside))
        rule = rule_of(node)
        if rule is not None and issubclass(rule, AttentionInputs):
            inside = False
        elif rule is not None and issubclass(rule, AttentionOutput):
            inside = True
        elif not inside and not _claimed(node, rule):
            bad.append(node)
        elif inside and node.name() == "torch::autograd::AccumulateGrad":
            bad.append(node)  # something learned or embedded enters the attention function past q, k and v
        stack.extend((below, inside) for below, _ in node.next_functions)
    bad.sort(key=lambda node: int(node._sequence_nr()))
    found = [Unclaimed(operation_of(node), clock.module_of(node)) for node in bad]
    return [entry for entry in found if entry.path not in linear]


def _claimed(node: Any, rule: type | None) -> bool:
    if rule is not None:
        return issubclass(rule, RuleFunction) or is_collective(rule)
    name = operation_of(node)
    if name in LINEAR_NODES or name in HOMOGENEOUS_NODES:
        return True
    operands = PRODUCT_NODES.get(name)
    if operands is None:
        return False
    carrying = [node.next_functions[i][0] is not None for i in operands if i < len(node.next_functions)]
    return not all(carrying) if len(operands) > 1 else not any(carrying)


def operation_of(node: Any) -> str:
    """The node's name without its namespace."""
    return str(node.name()).rsplit("::", 1)[-1]
