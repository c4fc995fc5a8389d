"""Whether a model's explanations can be trusted: what `lrp-hooks doctor` prints and `certify` returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lrp_hooks.certificate.entries import EntryCheck, check_entries
from lrp_hooks.certificate.leak import first_leak
from lrp_hooks.certificate.report import Report, make_report
from lrp_hooks.loading.origin import versions
from lrp_hooks.structure.probe import probe_inputs
from lrp_hooks.targets import AnswerSpan, Logit, LogitDiff, Target

if TYPE_CHECKING:
    from lrp_hooks.errors import UnclaimedModuleError
    from lrp_hooks.instrumentation.instrument import Instrumentation


class Verdict(Enum):
    """How far explanations of a model can be trusted."""

    CERTIFIED = "certified"
    """Every part has its rule, values are unchanged, relevance adds up, entries are those of the reference."""
    APPROXIMATE = "approximate"
    """Relevance is what was asked for, but not LRP's in every part."""
    REFUSED = "refused"
    """Explanations would be wrong."""


@dataclass(frozen=True)
class Certificate:
    """The verdict on one model under one composite, and everything it rests on.

    Attributes:
        reason: why the verdict is not "certified".
        report: sites with their probes' errors, operations without a rule, the ledger and what was absorbed.
        entries: comparison with the reference.
        leak: path of the first module that keeps relevance which nothing books; "" where the ledger closes.
        versions: of the packages that decide what a model computes.
    """

    verdict: Verdict
    reason: str
    report: Report
    entries: EntryCheck
    leak: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "verdict": self.verdict.value}


def certify(lrp: Instrumentation, target: Target | None, inputs: dict[str, Any]) -> Certificate:
    """See `Instrumentation.certify`."""
    inputs = inputs or {name: value[:1] for name, value in probe_inputs(lrp.model).items()}
    trace = lrp.trace(**inputs)
    target = _some_target(lrp, trace.logits()) if target is None else target
    report = make_report(lrp, trace.attribute(target))
    leak = ""
    if report.broken is not None:
        leak = first_leak(lrp, inputs, target, report.ledger_limit) or ""
    entries = check_entries(lrp, inputs, target) if lrp.composite.is_lrp and not report.accepted else EntryCheck()
    verdict, reason = _verdict(lrp, report, entries, leak)
    return Certificate(verdict, reason, report, entries, leak, versions())


def _some_target(lrp: Instrumentation, logits: Tensor) -> Target:
    """The model's first against its second choice; the only score where there is one; the likeliest answer."""
    if lrp.skeleton.output.kind == "span":
        start, end = logits[0].argmax(-1).tolist()
        return AnswerSpan(start, end)
    return LogitDiff() if logits.shape[-1] > 1 else Logit(0)


def _verdict(lrp: Instrumentation, report: Report, entries: EntryCheck, leak: str) -> tuple[Verdict, str]:
    if report.broken is not None:
        miss = f"{report.broken.error:.1e} of sum |R| at residual point {report.broken.name}"
        at = f"; the first module that keeps what nothing books is {leak}" if leak else ""
        return Verdict.REFUSED, (f"relevance does not add up: the ledger misses {miss}{at}")
    if entries.wrong:
        return Verdict.REFUSED, (
            f"entries differ from the reference by {entries.error:.1e} of the largest ({entries.point}, limit "
            f"{entries.limit:g}): some rule does not fit this model"
        )
    if not lrp.composite.is_lrp:
        return Verdict.APPROXIMATE, f"composite {lrp.composite.name!r} is not LRP: there is no ledger to check"
    if report.accepted:
        return Verdict.APPROXIMATE, f"{len(report.accepted)} operations have no rule; their ordinary gradient is used"
    return Verdict.CERTIFIED, ""


def refusal(error: UnclaimedModuleError) -> dict[str, Any]:
    """The certificate of a model that `instrument` has refused, as plain data."""
    return {
        "verdict": Verdict.REFUSED.value,
        "reason": str(error),
        "path": error.path,
        "class": error.class_name,
        "tried": error.tried,
        "versions": versions(),
    }
