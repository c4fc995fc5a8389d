"""Several models on the same cases, in a sweep's report: tables for people, and what the page draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lrp_hooks.cases.sweep.compare import OUTCOMES, Comparison, OutcomeShares, Trajectory, outcome_shares
from lrp_hooks.cases.sweep.records import Attributed
from lrp_hooks.cases.validation.statistics import Estimate
from lrp_hooks.tokens import visible

if TYPE_CHECKING:
    from lrp_hooks.render.failures import Report


def comparison_table(comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """What became of the first model's errors with other models."""
    rows = [
        [visible(each.first), visible(each.other), str(len(each.cases)), *(str(each.counts[name]) for name in OUTCOMES)]
        for each in comparisons
    ]
    head = ["model", "compared with", "cases", *OUTCOMES]
    others = [each for each in comparisons if each.retokenized]
    notes = [
        "A model makes the error where logit(target) - logit(contrast) is not below 0.",
        *(f"{visible(e.other)} sees other input tokens in {e.retokenized} of {len(e.cases)} cases." for e in others),
    ]
    return {"title": "Models", "head": head, "rows": rows, "note": " ".join(notes)}


def compared_table(records: Sequence[Attributed], models: Sequence[str]) -> dict[str, Any]:
    """One row per case: logit(target) - logit(contrast) by each model, then both logits by each model."""
    values = {(record.case, record.model): record for record in records}
    rows = []
    for case in dict.fromkeys(record.case for record in records):
        known = [values.get((case, name)) for name in models]
        logits = [value for r in known for value in ((r.target_logit, r.contrast_logit) if r else (None, None))]
        rows.append([visible(case), *map(_logits, [*(r.value if r else None for r in known), *logits])])
    parts = [f"{visible(name)}: {part}" for name in models for part in ("target", "contrast")]
    head = ["case", *map(visible, models), *parts]
    note = "By model: the difference target - contrast; behind it both logits."
    return {"title": "Differences (logits)", "head": head, "rows": rows, "note": note}


def trajectory_table(made: Trajectory | None) -> dict[str, Any]:
    """One row per model, in their order."""
    columns = zip(made.models, made.means, made.wrong, strict=True) if made else ()
    rows = [
        [visible(name), str(mean.count), _signed(mean), f"{wrong.mean:.0%} [{wrong.low:.0%}, {wrong.high:.0%}]"]
        for name, mean, wrong in columns
    ]
    head = ["model", "cases", "mean difference (logits)", "makes the error"]
    note = "Cases that all models have, models in the order in which they were asked for."
    return {"title": "From model to model", "head": head, "rows": rows, "note": note}


def outcome_table(comparison: Comparison, groups: Sequence[OutcomeShares]) -> dict[str, Any]:
    """Relevance by part of the prompt, of the corrected cases and of the others."""
    rows = [
        [
            group.outcome,
            visible(row.model),
            row.composite,
            visible(row.name),
            str(row.absolute.count),
            f"{row.absolute.mean:.1%} [{row.absolute.low:.1%}, {row.absolute.high:.1%}]",
            f"{row.signed.mean:+.1%}",
        ]
        for group in groups
        for row in group.rows
    ]
    head = ["cases", "model", "rules", "part", "number", "share of sum |R|", "for the target (+) or the contrast (-)"]
    title = (
        f"Parts of the prompt by what {visible(comparison.other)} makes of the errors of {visible(comparison.first)}"
    )
    return {"title": title, "head": head, "rows": rows, "note": ""}


def tables(report: Report) -> list[dict[str, Any]]:
    """All of a report; those without rows are left out, and outcomes where all cases have the same one."""
    made = [comparison_table(report.comparisons), trajectory_table(report.trajectory)]
    for each in report.comparisons:
        groups = outcome_shares(report.values, each)
        made += [outcome_table(each, groups)] if len(groups) > 1 else []
    return [table for table in made if table["rows"]]


def page_data(report: Report) -> dict[str, Any]:
    """For the page: scatter plots, the trajectory, shares by outcome, and why there are none."""
    names = dict(zip(report.models, short_names([visible(name) for name in report.models]), strict=True))
    made = report.trajectory
    return {
        "incomparable": visible(report.incomparable),
        "comparisons": [_scatter(each, outcome_shares(report.values, each)) for each in report.comparisons],
        "trajectory": made
        and {
            "models": [names[model] for model in made.models],
            "cases": [[visible(case), *map(_short, values)] for case, values in made.cases.items()],
            "means": [[_short(number) for number in (e.mean, e.low, e.high)] for e in made.means],
            "wrong": [_short(each.mean) for each in made.wrong],
        },
    }


def _scatter(each: Comparison, groups: Sequence[OutcomeShares]) -> dict[str, Any]:
    return {
        "first": visible(each.first),
        "other": visible(each.other),
        "points": [[visible(c.case), _short(c.first), _short(c.other), c.outcome] for c in each.cases],
        "outcomes": [
            [
                group.outcome,
                group.cases,
                [
                    [
                        visible(row.model),
                        row.composite,
                        visible(row.name),
                        _short(row.absolute.mean),
                        _short(row.signed.mean),
                    ]
                    for row in group.rows
                ],
            ]
            for group in groups
        ],
    }


def short_names(names: Sequence[str]) -> list[str]:
    """Checkpoints of one model by their revision alone; folders without what their paths have in common."""
    bases = {name.partition("@")[0] for name in names}
    if len(bases) == 1 and all("@" in name for name in names) and len(names) > 1:
        return [name.partition("@")[2] for name in names]
    parts = [name.split("/") for name in names]
    common = 0
    while len(names) > 1 and all(len(p) > common + 1 and p[common] == parts[0][common] for p in parts):
        common += 1
    return ["/".join(p[common:]) for p in parts]


def _logits(value: float | None) -> str:
    return "" if value is None else f"{value:+.3f}"


def _signed(value: Estimate) -> str:
    return f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"


def _short(value: float) -> float:
    return float(f"{value:.5g}")
