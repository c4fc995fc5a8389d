"""Banks of expert MLPs behind transformers' experts interface: routing weights are constants (docs/mathematics.md).

The half rule on (routing weight) x (expert output) would lose about half of the relevance wherever the weights are
renormalised. Inside the bank the gated product has its rule like any other (`lrp_hooks.rules.inline.claim`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lrp_hooks.patching import Handle, replace_forward
from lrp_hooks.rules.inline.claim import Scope, Shares, claim_operations
from lrp_hooks.sites import Site


def constant_routing(*, gate: float) -> Callable[[Site], Handle]:
    """Registrar on a bank: routing weights are constants, gated products share ``gate`` : 1 - ``gate``."""

    def register(site: Site) -> Handle:
        return claim_operations(site, Shares(gate, softmax=False), _detach_routing)

    return register


def _detach_routing(scope: Scope, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The first argument carries relevance; every other tensor says which expert and how much."""
    if args:
        scope.tokens = args[0]
        args = (args[0], *(_constant(a) for a in args[1:]))
    else:
        scope.tokens = kwargs.get("hidden_states")
    return args, {name: v if name == "hidden_states" else _constant(v) for name, v in kwargs.items()}


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def constant_output(site: Site) -> Handle:
    """Registrar on a router: everything it returns is a constant."""

    def forward(original: Any, *args: Any, **kwargs: Any) -> Any:
        out = original(*args, **kwargs)
        return tuple(_constant(v) for v in out) if isinstance(out, tuple) else _constant(out)

    return replace_forward(site.module, forward)
