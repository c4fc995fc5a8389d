"""Which modules are claimed operation by operation, and the ledger that such a model must pass before it explains.

The walk over the autograd graph names the modules whose own forward computes something that no rule claims; they become
sites of `Role.INLINE` and are run under `lrp_hooks.rules.inline`. Constants that they may add are booked on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrp_hooks.certificate.report import ledger_limit
from lrp_hooks.detection.walk import ModuleClock, Unclaimed, unclaimed
from lrp_hooks.errors import UnsupportedModelError
from lrp_hooks.patching import Handle
from lrp_hooks.recording.checkpointing import without_weights
from lrp_hooks.recording.result import build_relevance
from lrp_hooks.relevance import Relevance
from lrp_hooks.sites import Role, Site
from lrp_hooks.structure.probe import probe_inputs

if TYPE_CHECKING:
    from lrp_hooks.instrumentation.instrument import Instrumentation

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
        with torch.enable_grad(), clock.watching(lrp.model), _unrecorded(lrp), without_weights():
            logits = lrp.skeleton.output.of(lrp.model(**probe_inputs(lrp.model)))
        reasons = dict.fromkeys(_with_hidden_constants(lrp, clock), CONSTANTS)
        reasons |= dict.fromkeys((u.path for u in find_unclaimed(lrp, logits, clock)), OPERATIONS)
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
    if lrp.skeleton.head is None and any(True for _ in lrp.model.buffers(recurse=False)):
        yield ""  # bart adds a bias to its logits
    for path, module in lrp.model.named_modules():
        if not _may_add(lrp, path):
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
            if _may_add(lrp, above):
                yield above


def find_unclaimed(lrp: Instrumentation, output: Tensor, clock: ModuleClock) -> list[Unclaimed]:
    """The walk from ``output``, past linear maps that a probe has recognised."""
    linear = {s.path for s in lrp.sites if s.role is Role.LINEAR and lrp.composite.rule_for(s) is not None}
    not_linear = [Unclaimed("no linear map", path) for path in lrp.detection.not_linear]
    return [*not_linear, *unclaimed(output, clock, linear)]


def _may_add(lrp: Instrumentation, path: str) -> bool:
    """Inside the blocks; where the head is more than a projection to the vocabulary, also above them."""
    level = lrp.skeleton.level_of(path)
    return level != -1 and (level is not None or (bool(path) and not lrp.skeleton.is_language_model))


def check_ledger(lrp: Instrumentation) -> None:
    """Models with parts claimed operation by operation, and all but causal language models, must pass the ledger
    before they explain anything.

    Constants that no rule books would make it miss. Silent where a user's composite leaves parts plain.

    Raises:
        UnsupportedModelError: relevance does not add up on a probe.
    """
    by_operation = any(site.role in (*BY_OPERATION, Role.ROUTER) for site in lrp.sites)
    if lrp.skeleton.is_language_model and not by_operation:
        return
    if any(lrp.composite.rule_for(site) is None for site in lrp.sites):
        return
    with torch.enable_grad(), _unrecorded(lrp, checkpoint=lrp.checkpointing.weights_offloaded):
        output = lrp.skeleton.output
        logits = output.of(lrp.model(**{name: x[:1] for name, x in probe_inputs(lrp.model).items()}))
        _some_difference(logits[0, -1] if output.kind == "tokens" else logits[0]).backward()  # type: ignore[no-untyped-call]
        record = lrp.tape.last
        errors = None if record is None else _errors(build_relevance(record, lrp.skeleton, ""))
    lrp.tape.last = None
    limit = ledger_limit(lrp)
    if errors is None or not bool((errors <= limit).all()):
        worst = "nothing was recorded" if errors is None else f"error {float(errors.max()):.1e} of sum |R|"
        raise UnsupportedModelError(
            f"relevance does not add up in {type(lrp.model).__name__} ({worst}, limit {limit:.0e}): some part adds "
            'constants or mixes streams in a way that no rule books. do: unknown="gradient" explains it all the same, '
            "and the ledger says how far off it is"
        )


def _some_difference(logits: Tensor) -> Tensor:
    """The last minus the first of the logits; the only one of a regression."""
    flat = logits.flatten()
    return flat[-1] - flat[0] if len(flat) > 1 else flat[0]


def _errors(relevance: Relevance) -> Tensor:
    """The ledger's errors of both streams, and what is lost between them."""
    errors, encoder = [relevance.ledger()[0]], relevance.encoder
    if encoder is not None:
        around = None if relevance.absorbed is None else relevance.absorbed.around
        passed = torch.zeros_like(encoder.value[:1]) if around is None else around[:1, 0]
        between = passed.double() - encoder.value[:1].double()
        errors += [encoder.ledger()[0], between.abs() / encoder.layers[:1, -1].double().abs().sum().clamp_min(1e-300)]
    return torch.cat([e.flatten() for e in errors])


@contextmanager
def _unrecorded(lrp: Instrumentation, *, checkpoint: bool = False) -> Iterator[None]:
    try:
        with lrp.checkpointing.using(checkpoint):
            yield
    finally:
        lrp.tape.forwards = 0
