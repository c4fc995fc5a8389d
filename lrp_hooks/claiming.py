"""Which modules are claimed operation by operation, and the ledger that such a model must pass before it explains.

The walk over the autograd graph names the modules whose own forward computes something that no rule claims; they become
sites of `Role.INLINE` and are run under `lrp_hooks.rules.inline`. Constants that they may add are booked on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lrp_hooks.attribute import build_relevance
from lrp_hooks.errors import UnsupportedModelError
from lrp_hooks.patching import Handle
from lrp_hooks.report import LEDGER_LIMITS
from lrp_hooks.sites import Role, Site
from lrp_hooks.structure import probe_ids
from lrp_hooks.walk import ModuleClock, unclaimed

if TYPE_CHECKING:
    from lrp_hooks.instrumentation import Instrumentation

OPERATIONS, CONSTANTS = "operations", "constants"
"""Why a module is claimed operation by operation: it computes something unclaimed, or may add hidden constants."""
ROUNDS = 3
"""Claiming a module's operations lets relevance reach parts that were cut off before; then look again."""
BY_OPERATION = (Role.INLINE, Role.MIXER, Role.EXPERTS)


def claim_inline(lrp: Instrumentation, keep: Callable[[Handle], None]) -> tuple[Site, ...]:
    """Register the composite's rule on every module whose own forward computes something unclaimed; their sites."""
    named, made = dict(lrp.model.named_modules()), list[Site]()
    for _ in range(ROUNDS):
        clock = ModuleClock()
        with torch.enable_grad(), clock.watching(lrp.model), _unrecorded(lrp):
            logits = lrp.model(input_ids=probe_ids(lrp.model)).logits
        reasons = dict.fromkeys(_with_hidden_constants(lrp, clock), CONSTANTS)
        reasons |= dict.fromkeys((u.path for u in unclaimed(logits, clock)), OPERATIONS)
        before = len(made)
        for path, reason in reasons.items():
            site = Site(path, named[path], Role.INLINE, reason, lrp.skeleton.block_of(path), 0.0, lrp.tape)
            rule = lrp.composite.rule_for(site)
            if rule is not None and _is_free(lrp, site, made):
                keep(rule(site))
                made.append(site)
        if len(made) == before:
            break
    return tuple(made)


def _is_free(lrp: Instrumentation, site: Site, made: list[Site]) -> bool:
    """Whether the module is not claimed so already, and has no site whose rule was taken away (it stays as it is)."""
    others = [other for other in (*lrp.sites, *made) if other.path == site.path]
    return all(other.role not in BY_OPERATION and lrp.composite.rule_for(other) is not None for other in others)


def _with_hidden_constants(lrp: Instrumentation, clock: ModuleClock) -> Iterator[str]:
    """Modules in blocks that may add constants which no hook sees.

    They have parameters of their own besides weight and bias, or use the bias of a module without calling it.
    """
    ran, roles = {path for _, _, path in clock.spans}, {site.path for site in lrp.sites}
    for path, module in lrp.model.named_modules():
        if lrp.skeleton.block_of(path) is None:
            continue
        own = {name for name, _ in module.named_parameters(recurse=False)}
        above = path.rpartition(".")[0]
        if path in ran:
            if path not in roles and own - {"weight", "bias"}:
                yield path
            if above in ran and any(name.endswith("bias") and name != "bias" for name in own):
                yield above  # gpt_neox_japanese returns its bias for the block to add
        elif "bias" in own:
            while above and above not in ran:
                above = above.rpartition(".")[0]
            if lrp.skeleton.block_of(above) is not None:
                yield above


def check_ledger(lrp: Instrumentation) -> None:
    """Models with parts claimed operation by operation must pass the ledger before they explain anything.

    Constants that no rule books would make it miss. Silent where a user's composite leaves parts plain.

    Raises:
        UnsupportedModelError: relevance does not add up on a probe.
    """
    if not any(site.role in (*BY_OPERATION, Role.ROUTER) for site in lrp.sites):
        return
    if any(lrp.composite.rule_for(site) is None for site in lrp.sites):
        return
    with torch.enable_grad(), _unrecorded(lrp):
        logits = lrp.model(input_ids=probe_ids(lrp.model)[:1]).logits
        (logits[0, -1, 1] - logits[0, -1, 0]).backward()
        record = lrp.tape.last
        errors = None if record is None else build_relevance(record, lrp.skeleton, "").ledger()[0]
    lrp.tape.last = None
    limit = LEDGER_LIMITS.get(logits.dtype, 1e-3)
    if errors is None or not bool((errors <= limit).all()):
        worst = "nothing was recorded" if errors is None else f"error {float(errors.max()):.1e} of sum |R|"
        raise UnsupportedModelError(
            f"relevance does not add up in {type(lrp.model).__name__} ({worst}, limit {limit:.0e}): some part adds "
            'constants or mixes streams in a way that no rule books. do: unknown="gradient" explains it all the same, '
            "and the ledger says how far off it is"
        )


@contextmanager
def _unrecorded(lrp: Instrumentation) -> Iterator[None]:
    mode, lrp.checkpointing.mode = lrp.checkpointing.mode, False
    try:
        yield
    finally:
        lrp.checkpointing.mode = mode
        lrp.tape.forwards = 0


def biases(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Additive constants, the outer module before those inside it."""
    for path, module in model.named_modules():
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor):
            yield path, bias
