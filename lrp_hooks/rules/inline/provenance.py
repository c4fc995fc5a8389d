"""What a tensor is to a product: the output of a gate, of a softmax, of a function of the other factor, or a value.

Read off the autograd graph: from the tensor back through operations that only rearrange or scale it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.ops import ObservedSoftmax, SlopeActivation, rule_of
from lrp_hooks.recording.taps import ConstantTap

GATING = {"silu", "gelu", "gelu-tanh", "quick-gelu", "relu", "relu2", "mish", "tanh", "sigmoid", "softplus"}
"""Element-wise functions whose output gates what it is multiplied with."""
DEPTH = 12


def _scaled(node: Any) -> Any:
    """The one operand that carries gradient, or None when there are several or none."""
    below = [entry for entry in node.next_functions if entry[0] is not None]
    return below[0] if len(below) == 1 else None


def chain(x: Tensor) -> Iterator[tuple[Any, int]]:
    """(node, output index) from the tensor backwards as long as one operand carries on."""
    entry: Any = (x.grad_fn, x.output_nr)
    for _ in range(DEPTH):
        if entry is None or entry[0] is None:
            return
        yield entry
        entry = _scaled(entry[0])


def _is(node: Any, function: type) -> bool:
    rule = rule_of(node)
    return rule is not None and issubclass(rule, function)


def _passes(node: Any) -> bool:
    """Whether the walk for a gate or softmax goes on below this node: not through rules, nor through linear maps."""
    name = str(node.name()).rsplit("::", 1)[-1]
    if rule_of(node) is not None:
        return _is(node, ConstantTap)
    return not name.startswith(("Mm", "Bmm", "Addmm", "Linear", "Convolution", "Sum", "Mean", "GroupedMm"))


def is_gate(x: Tensor) -> bool:
    """Whether the tensor is the output of a gating function, rearranged or scaled by constants."""
    if getattr(x, "_lrp_gate", False):
        return True
    if not torch.is_grad_enabled():
        return False
    for node, _ in chain(x):
        if _is(node, SlopeActivation):
            return node.activation.name in GATING
        if not _passes(node):
            return False
    return False


def is_softmax(x: Tensor) -> bool:
    if not torch.is_grad_enabled():
        return False
    for node, _ in chain(x):
        if _is(node, ObservedSoftmax):
            return True
        if not _passes(node):
            return False
    return False


def same_source(x: Tensor, function: Tensor) -> bool:
    """Whether ``function`` is an element-wise function of ``x``: x s(x) is then one activation."""
    if not torch.is_grad_enabled() or x.grad_fn is None or x.shape != function.shape:
        return False
    seen_slope = False
    for node, index in chain(function):
        if node is x.grad_fn and index == x.output_nr:
            return seen_slope
        if _is(node, SlopeActivation):
            seen_slope = True
        elif not (_is(node, ConstantTap) or _is_elementwise(node)):
            return False
    return False


def _is_elementwise(node: Any) -> bool:
    name = str(node.name()).rsplit("::", 1)[-1]
    return rule_of(node) is None and name.startswith(("Mul", "Div", "Neg", "Add", "Sub", "ToCopy"))


def mark_gate(x: Tensor) -> Tensor:
    x._lrp_gate = True  # type: ignore[attr-defined]
    return x
