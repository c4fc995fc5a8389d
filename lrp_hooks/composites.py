"""Composites: readable tables role -> rule. First match wins; what no row matches keeps its ordinary gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lrp_hooks.errors import InstrumentError
from lrp_hooks.patching import Handle
from lrp_hooks.rules import activation, attention, dropout, experts, gated, inline, linear, mixers, norm, softcap
from lrp_hooks.sites import Role, Site

Rule = Callable[[Site], Handle]
"""Registers hooks or a forward on one site and returns a handle that undoes it."""

Match = Role | str | Callable[[Site], bool]
"""Which sites a row of a composite is for: a role, a glob on the module path, or a predicate."""


@dataclass(frozen=True)
class Composite:
    """An ordered table of (match, rule).

    Attributes:
        name: shown in reports and results.
        rows: first match wins. A rule of ``None`` leaves the site with its ordinary gradient.
        is_lrp: whether every non-linear part gets an LRP rule, so that the ledger must close and unclaimed
            modules are an error. False for plain gradient x input.
    """

    name: str
    rows: tuple[tuple[Match, Rule | None], ...]
    is_lrp: bool = True

    def rule_for(self, site: Site) -> Rule | None:
        for match, rule in self.rows:
            if _matches(match, site):
                return rule
        return None

    def extended(self, name: str, *rows: tuple[Match, Rule | None]) -> Composite:
        """A new composite in which ``rows`` come before the present ones."""
        return Composite(name, (*rows, *self.rows), self.is_lrp)


def _matches(match: Match, site: Site) -> bool:
    if isinstance(match, Role):
        return site.role is match
    if isinstance(match, str):
        return fnmatchcase(site.path, match)
    return match(site)


ATTNLRP = Composite(
    "attnlrp",
    (
        (Role.LINEAR, linear.own_gradient),
        (Role.NORM, norm.detach_scale),
        (Role.ACTIVATION, activation.slope),
        (Role.GATED, gated.share_product(gate=0.5, up=0.5)),
        (Role.ATTENTION, attention.share_attention(query=0.25, key=0.25, value=0.5)),
        (Role.EXPERTS, experts.constant_routing(gate=0.5)),
        (Role.ROUTER, experts.constant_output),
        (Role.MIXER, mixers.through_values(gate=0.5)),
        (Role.INLINE, inline.by_operation(gate=0.5)),
        (Role.DROPOUT, dropout.off),
        (Role.FINAL_SOFTCAP, softcap.explain_raw_logits),
    ),
)
"""AttnLRP (arXiv 2402.05602) in gradient x input form."""

CP_LRP = Composite(
    "cp-lrp",
    (
        (Role.LINEAR, linear.own_gradient),
        (Role.NORM, norm.detach_scale),
        (Role.ACTIVATION, activation.slope),
        (Role.GATED, gated.share_product(gate=0.0, up=1.0)),
        (Role.ATTENTION, attention.share_attention(query=0.0, key=0.0, value=1.0)),
        (Role.EXPERTS, experts.constant_routing(gate=0.0)),
        (Role.ROUTER, experts.constant_output),
        (Role.MIXER, mixers.through_values(gate=0.0, softmax=False)),
        (Role.INLINE, inline.by_operation(gate=0.0, softmax=False)),
        (Role.DROPOUT, dropout.off),
        (Role.FINAL_SOFTCAP, softcap.explain_raw_logits),
    ),
)
"""CP-LRP (Ali et al. 2022, arXiv 2202.07304): attention weights and gates are constants."""

GRADIENT = Composite(
    "gradient",
    (
        (Role.LINEAR, linear.own_gradient),
        (Role.ATTENTION, attention.share_attention(query=1.0, key=1.0, value=1.0, softcap_slope=False)),
        (Role.DROPOUT, dropout.off),
    ),
    is_lrp=False,
)
"""Plain gradient x input, recorded at the same places."""

COMPOSITES = {composite.name: composite for composite in (ATTNLRP, CP_LRP, GRADIENT)}


def resolve(composite: str | Composite) -> Composite:
    """A composite by name or as given.

    Raises:
        InstrumentError: for a name that does not exist; lists the choices.
    """
    if isinstance(composite, Composite):
        return composite
    if composite not in COMPOSITES:
        raise InstrumentError(f"unknown composite {composite!r}. choices: {', '.join(COMPOSITES)}, or a Composite")
    return COMPOSITES[composite]
