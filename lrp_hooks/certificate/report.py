"""What `doctor` says about an instrumented model: its sites, what has no rule, and whether relevance adds up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lrp_hooks.ops import Activation, NormSpec, backend_name
from lrp_hooks.relevance import Relevance
from lrp_hooks.sites import GatedSpec, Role, Site

if TYPE_CHECKING:
    from lrp_hooks.instrumentation.instrument import Instrumentation

LEDGER_LIMITS = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}
"""Largest ledger error that counts as closed; half precision rounds relevance itself by a few percent."""


ROUNDINGS = 5.0
"""How much further than one probed linear map that rounds (8-bit activations) a ledger over many may be off."""


def ledger_limit(lrp: Instrumentation) -> float:
    """The ledger error, relative to sum |R|, that counts as closed for this model."""
    rounding = max((site.error for site in lrp.sites if site.role is Role.LINEAR), default=0.0)
    return max(LEDGER_LIMITS.get(next(lrp.model.parameters()).dtype, 1e-3), ROUNDINGS * rounding)


@dataclass(frozen=True)
class SiteRow:
    """Sites alike in role, class and parameters."""

    role: str
    class_name: str
    parameters: str
    rule: str
    count: int
    error: float
    first: str


@dataclass(frozen=True)
class ModuleRow:
    """One module of the model; ``role``, ``rule`` and ``parameters`` are empty where it has no role.

    A module without a role needs no rule: what it computes is linear or left to the modules inside it. Where that is
    not so, the walk has refused the model or listed the operation in `Report.accepted`.
    """

    path: str
    class_name: str
    role: str
    rule: str
    parameters: str
    error: float


@dataclass(frozen=True)
class LedgerRow:
    """Relevance at one residual point of one prompt, in logits; ``error`` is relative to sum |R|.

    ``stream``: "encoder" for the points of an encoder's stream, "" else.
    """

    point: int
    relevance: float
    absorbed: float
    error: float
    stream: str = ""

    @property
    def name(self) -> str:
        return f"{self.stream} {self.point}".strip()


@dataclass(frozen=True)
class AbsorbedShare:
    """Relevance that one kind of constant kept, in logits, over the whole model."""

    what: str
    share: float


@dataclass(frozen=True)
class Report:
    """Everything `lrp-hooks doctor` prints.

    Attributes:
        sites: grouped; ``modules``: every module of the model, in its order, by itself.
        accepted: operations without a rule that were let through.
        broken: the highest residual point at which the ledger misses more than ``ledger_limit`` of sum |R|.
    """

    model: str
    composite: str
    dtype: str
    blocks: int
    mid_points: int
    attention: str
    backend: str
    value_error: float
    sites: tuple[SiteRow, ...]
    modules: tuple[ModuleRow, ...]
    accepted: tuple[str, ...]
    ledger: tuple[LedgerRow, ...]
    absorbed: tuple[AbsorbedShare, ...]
    explained: float | None
    broken: LedgerRow | None
    ledger_limit: float

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def make_report(lrp: Instrumentation, relevance: Relevance | None = None) -> Report:
    """Report on an instrumentation, with the ledger of ``relevance`` (first row) when one is given."""
    config: Any = lrp.model.config
    dtype, limit = next(lrp.model.parameters()).dtype, ledger_limit(lrp)
    ledger = _ledger(relevance) if relevance is not None and lrp.composite.is_lrp else ()
    accepted = tuple(f"{u.operation} in {u.path or '<root>'}" for u in dict.fromkeys(lrp.accepted))
    return Report(
        model=type(lrp.model).__name__,
        composite=lrp.composite.name,
        dtype=str(dtype).removeprefix("torch."),
        blocks=len(lrp.skeleton.blocks),
        mid_points=sum(child is not None for child in lrp.skeleton.mid),
        attention=config._attn_implementation or "eager",
        backend=backend_name(),
        value_error=lrp.value_error,
        sites=_site_rows(lrp),
        modules=tuple(_module_rows(lrp)),
        accepted=accepted,
        ledger=ledger,
        absorbed=_absorbed(relevance),
        explained=float(relevance.value[0]) if relevance is not None else None,
        broken=_broken(ledger, limit),
        ledger_limit=limit,
    )


def _broken(ledger: tuple[LedgerRow, ...], limit: float) -> LedgerRow | None:
    """Relevance flows downwards: the highest point that misses some shows the block above it."""
    return max(
        (row for row in ledger if not row.error <= limit), key=lambda row: (not row.stream, row.point), default=None
    )


def _site_rows(lrp: Instrumentation) -> tuple[SiteRow, ...]:
    groups: dict[tuple[str, str, str, str], list[Site]] = defaultdict(list)
    for site in lrp.sites:
        groups[site.role.value, type(site.module).__name__, describe_spec(site), _rule_name(lrp, site)].append(site)
    return tuple(
        SiteRow(role, class_name, spec, rule, len(sites), max(s.error for s in sites), sites[0].path or "<root>")
        for (role, class_name, spec, rule), sites in groups.items()
    )


def _rule_name(lrp: Instrumentation, site: Site) -> str:
    rule = lrp.composite.rule_for(site)
    return "ordinary gradient" if rule is None else rule.__qualname__.split(".<locals>")[0]


def _module_rows(lrp: Instrumentation) -> Iterator[ModuleRow]:
    sites: dict[nn.Module, list[Site]] = defaultdict(list)
    for site in lrp.sites:
        sites[site.module].append(site)
    for path, module in lrp.model.named_modules():
        place, name = path or "<root>", type(module).__name__
        for site in sites[module]:
            role, rule = site.role.value, _rule_name(lrp, site)
            yield ModuleRow(place, name, role, rule, describe_spec(site), site.error)
        if not sites[module]:
            yield ModuleRow(place, name, "", "", "", 0.0)


def describe_spec(site: Site) -> str:
    """The probed parameters of a site in a few words."""
    spec = site.spec
    if isinstance(spec, NormSpec):
        weight = "1+w" if spec.weight_offset else "w"
        return f"{spec.formula}, {weight}, eps {spec.eps:g}"
    if isinstance(spec, Activation):
        return spec.name
    if site.role is Role.GATED:
        gated: GatedSpec = spec[0]
        fused = f"{gated.gate} ({'gate' if gated.gate_first else 'up'} first)"
        return f"{spec[1].name}, {fused if gated.gate == gated.up else f'{gated.gate} x {gated.up}'}"
    return f"c = {spec:g}" if isinstance(spec, float) else spec if isinstance(spec, str) else ""


def _ledger(relevance: Relevance, stream: str = "") -> tuple[LedgerRow, ...]:
    """Of all points, an encoder's first."""
    if relevance.absorbed is None:
        return ()
    errors = relevance.ledger()[0]
    own = tuple(
        LedgerRow(
            point,
            float(relevance.layers[0, point].sum()),
            float(relevance.absorbed.above(point)[0]),
            float(errors[point]),
            stream,
        )
        for point in range(relevance.layers.shape[1])
    )
    return own if relevance.encoder is None else (*_ledger(relevance.encoder, "encoder"), *own)


def _absorbed(relevance: Relevance | None) -> tuple[AbsorbedShare, ...]:
    if relevance is None or relevance.absorbed is None:
        return ()
    kept = relevance.absorbed
    shares = [
        AbsorbedShare("softmax attention", float(kept.attention[0].sum())),
        AbsorbedShare("learned positions", float(kept.positions[0])),
    ]
    by_name: dict[str, float] = defaultdict(float)
    for path, share in kept.biases.items():
        by_name[f"constant of {path.rsplit('.', 1)[-1]}"] += float(share[0])
    shares += [AbsorbedShare(name, share) for name, share in sorted(by_name.items(), key=lambda item: -abs(item[1]))]
    return tuple(shares)
