"""Non-linear operations that a forward computes inline: each gets its rule where it happens.

While a module's own forward runs (not its children's), every torch function is looked at. One whose operands carry
relevance and that is not linear in them is replaced by its rule of docs/mathematics.md: element-wise functions pass
their slope, scales of norms are constants, products share, a softmax keeps its gradient. Values stay the module's own,
operation by operation. Additive constants are booked, so that the ledger stays a certificate. What has no rule here
keeps its gradient, and the walk over the autograd graph refuses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lrp_hooks.errors import NoClosedFormError
from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.rules.inline.operations import OPERATIONS
from lrp_hooks.sites import Site


@dataclass(frozen=True)
class Shares:
    """How products share relevance.

    Attributes:
        gate: of a product with a gate (the output of an element-wise function), the gate's share; the rest is the
            other factor's.
        softmax: whether a softmax lets relevance through, or its weights are constants.
    """

    gate: float
    softmax: bool


@dataclass(eq=False)
class Scope:
    """One flagged module while its forward runs.

    Attributes:
        constants: id of the module's bias, which a hook on the module books already.
        suspended: how many calls of child modules, which have rules of their own, are running.
        decisions, roles: what products turned out to be; runs without gradients read them in the same order.
        softmaxes: where the weights of softmaxes that are constants lie in memory.
        rows: batch row of each leading index, where a forward has regrouped its tokens (experts).
    """

    site: Site
    shares: Shares
    constants: frozenset[int] = frozenset()
    suspended: int = 0
    rows: Tensor | None = None
    tokens: Tensor | None = None
    name: str = "inline"
    decisions: list[Any] = field(default_factory=list)
    cursor: int = 0
    roles: list[str] = field(default_factory=list)
    roles_read: int = 0
    softmaxes: set[int] = field(default_factory=set)

    def remembered(self, decide: Callable[[], Any]) -> Any:
        """With gradients: decide, and remember. In forward mode: what was decided at the same place of the forward.

        Raises:
            NoClosedFormError: the two runs differ.
        """
        if torch.is_grad_enabled():
            self.decisions.append(decide())
            return self.decisions[-1]
        if self.cursor >= len(self.decisions):
            raise NoClosedFormError(
                f"{self.site.path} multiplies other tensors without gradients than with. do: method='packed'"
            )
        self.cursor += 1
        return self.decisions[self.cursor - 1]

    @property
    def path(self) -> str:
        return f"{self.site.path}.{self.name}"


class InlineRules(TorchFunctionMode):
    """Looks operations up by name in `OPERATIONS`; what is not there runs as it is."""

    def __init__(self, scope: Scope):
        super().__init__()
        self.scope = scope

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        operation = None if self.scope.suspended else OPERATIONS.get(getattr(func, "__name__", ""))
        if operation is None or not (torch.is_grad_enabled() or self.scope.site.tape.detour is not None):
            return func(*args, **kwargs)
        return operation(self.scope, func, args, kwargs)


def by_operation(*, gate: float, softmax: bool = True) -> Callable[[Site], Handle]:
    """The rule with products sharing ``gate`` : 1 - ``gate``; without ``softmax`` its weights are constants."""

    def register(site: Site) -> Handle:
        return claim_operations(site, Shares(gate, softmax))

    return register


def claim_operations(
    site: Site,
    shares: Shares,
    prepare: Callable[..., Any] | None = None,
    forward: Callable[..., Any] | None = None,
) -> Handle:
    """Run the module's forward (or ``forward`` in its place) under `InlineRules`.

    ``prepare(scope, args, kwargs)`` may change the arguments.
    """
    scopes: list[Scope] = []
    latest: list[Any] = []
    roles: list[str] = []

    def run(original: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled() and site.tape.detour is None:
            return original(*args, **kwargs)
        scope = Scope(site, shares, _booked_bias(site.module))
        if torch.is_grad_enabled():
            latest.clear()
            roles.clear()
        scope.decisions, scope.roles = latest, roles
        if prepare is not None:
            args, kwargs = prepare(scope, args, kwargs)
        scopes.append(scope)
        try:
            with InlineRules(scope), attention_suspends(scope):
                return (forward or original)(*args, **kwargs)
        finally:
            scopes.pop()

    handles: list[Any] = [replace_forward(site.module, run)]
    for child in list(site.module.modules())[1:]:
        handles.append(child.register_forward_pre_hook(lambda *_: _suspend(scopes, 1), prepend=True))
        handles.append(child.register_forward_hook(lambda *_: _suspend(scopes, -1), always_call=True))
    return Handles(handles)


def _booked_bias(module: Any) -> frozenset[int]:
    """id of the module's bias, which a hook on the module books; not where a module inside shares it and books it."""
    bias = getattr(module, "bias", None)
    shared = any(getattr(inner, "bias", None) is bias for inner in list(module.modules())[1:])
    return frozenset() if bias is None or shared else frozenset({id(bias)})


def _suspend(scopes: list[Scope], step: int) -> None:
    if scopes:
        scopes[-1].suspended += step


@contextmanager
def attention_suspends(scope: Scope) -> Iterator[None]:
    """The attention function that this forward calls has its own rule."""
    tape = scope.site.tape
    before, tape.scope = tape.scope, scope
    try:
        yield
    finally:
        tape.scope = before


class Handles:
    """Several handles as one, undone in reverse."""

    def __init__(self, handles: list[Any]):
        self._handles = handles

    def remove(self) -> None:
        for handle in reversed(self._handles):
            handle.remove()
