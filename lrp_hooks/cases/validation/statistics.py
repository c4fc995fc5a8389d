"""A sweep in numbers: means over cases with bootstrap confidence intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import torch

from lrp_hooks.cases.sweep.records import Attributed, Validated
from lrp_hooks.cases.validation.validate import Flip, Validation

RESAMPLES = 4000
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over ``count`` cases and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(values: Sequence[float], seed: int = 0) -> Estimate | None:
    """Mean and interval; cases are resampled with replacement. None without values."""
    if not values:
        return None
    data = torch.tensor(list(values), dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(data), (RESAMPLES, len(data)), generator=generator)
    means = data[picks].mean(1)
    edges = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = torch.quantile(means, edges).tolist()
    return Estimate(float(data.mean()), low, high, len(data))


@dataclass(frozen=True)
class RankingRow:
    """One ranking with one replacement, over the cases of one model; of a random one, each case's mean over its draws.

    Attributes:
        words: words masked until the first choice changes; a case that does not change counts with the most that were
            masked, so this is a lower bound where ``changed`` is below 1.
        middle: their median.
        changed: share of cases whose first choice changes: the fix rate of arXiv 2604.17761.
        overtaken_words, overtaken: the same until the contrast leads the target.
        passes: share of the judged cases whose answer satisfies the verifier after the change; one that does not change
            does not. None where no answer was judged.
        passed_words, passed: words masked until the answer satisfies it, and the share of cases whose answer does; None
            where masking did not go on until then.
        difference: words of this ranking minus words of the first one, case by case.
    """

    model: str
    replacement: str
    ranking: str
    words: Estimate
    middle: float
    changed: Estimate
    overtaken_words: Estimate
    overtaken: Estimate
    passes: Estimate | None
    passed_words: Estimate | None
    passed: Estimate | None
    difference: Estimate | None


def ranking_rows(records: Iterable[Validated]) -> list[RankingRow]:
    """One row per model, replacement and ranking, in the order in which they appear."""
    groups: dict[tuple[str, str], dict[str, dict[str, _Tally]]] = {}
    for record in records:
        if record.validation is None:
            continue
        for flip in record.validation.flips:
            rankings = groups.setdefault((record.model, flip.replacement), {})
            tallies = rankings.setdefault(flip.ranking, {})
            tallies.setdefault(record.case, _Tally(record.validation, [])).flips.append(flip)
    return [
        _row(model, replacement, name, tallies, next(iter(rankings.values())))
        for (model, replacement), rankings in groups.items()
        for name, tallies in rankings.items()
    ]


@dataclass(frozen=True)
class _Tally:
    """The flips of one case by one ranking; several where it is random."""

    validation: Validation
    flips: list[Flip]

    @property
    def passes(self) -> list[bool]:
        """The verdicts after the change; none where no answer was judged."""
        return [flip.passes for flip in self.flips if flip.passes is not None]

    @property
    def went_on(self) -> bool:
        """Masking went on until the answer passed, or no word was left."""
        return self.validation.until_pass and bool(self.passes)

    def words(self, of: Callable[[Flip], int | None]) -> float:
        return fmean(of(flip) or self.validation.most for flip in self.flips)

    def share(self, of: Callable[[Flip], int | None]) -> float:
        return fmean(of(flip) is not None for flip in self.flips)


def _row(
    model: str, replacement: str, ranking: str, tallies: dict[str, _Tally], first: dict[str, _Tally]
) -> RankingRow:
    words = {case: tally.words(_changed) for case, tally in tallies.items()}
    reference = {case: tally.words(_changed) for case, tally in first.items()}
    went_on = [tally for tally in tallies.values() if tally.went_on]
    return RankingRow(
        model,
        replacement,
        ranking,
        words=_known([*words.values()]),
        middle=median(words.values()),
        changed=_known([tally.share(_changed) for tally in tallies.values()]),
        overtaken_words=_known([tally.words(_overtaken) for tally in tallies.values()]),
        overtaken=_known([tally.share(_overtaken) for tally in tallies.values()]),
        passes=estimate([fmean(tally.passes) for tally in tallies.values() if tally.passes]),
        passed_words=estimate([tally.words(_passed) for tally in went_on]),
        passed=estimate([tally.share(_passed) for tally in went_on]),
        difference=None
        if tallies is first
        else estimate([words[case] - reference[case] for case in words if case in reference]),
    )


def _changed(flip: Flip) -> int | None:
    return flip.changed


def _overtaken(flip: Flip) -> int | None:
    return flip.overtaken


def _passed(flip: Flip) -> int | None:
    return flip.passed


def _known(values: Sequence[float]) -> Estimate:
    made = estimate(values)
    assert made is not None
    return made


@dataclass(frozen=True)
class ShareRow:
    """One named part of the prompt, over the cases of one model and composite that have it."""

    model: str
    composite: str
    name: str
    tokens: float
    absolute: Estimate
    signed: Estimate


def share_rows(records: Iterable[Attributed]) -> list[ShareRow]:
    """One row per model, composite and part; cases without the part do not count for it."""
    groups: dict[tuple[str, str, str], list[tuple[int, float, float]]] = {}
    for record in records:
        for share in record.shares:
            key = (record.model, record.composite, share.name)
            groups.setdefault(key, []).append((share.tokens, share.absolute, share.signed))
    return [
        ShareRow(
            *key,
            tokens=fmean(tokens for tokens, _, _ in many),
            absolute=_known([absolute for _, absolute, _ in many]),
            signed=_known([signed for _, _, signed in many]),
        )
        for key, many in groups.items()
    ]


def verdict(rows: Sequence[RankingRow]) -> list[str]:
    """Per model and replacement: does the first ranking need the fewest words?"""
    said = []
    for first in (row for row in rows if row.difference is None):
        others = [row for row in rows if (row.model, row.replacement) == (first.model, first.replacement)]
        worse = [r.ranking for r in others if r.difference is not None and r.difference.low > 0]
        better = [r.ranking for r in others if r.difference is not None and r.difference.high < 0]
        open_ = [r.ranking for r in others if r is not first and r.ranking not in [*worse, *better]]
        parts = [
            f"fewer words than {', '.join(worse)}" if worse else "",
            f"more words than {', '.join(better)}" if better else "",
            f"no clear difference to {', '.join(open_)}" if open_ else "",
        ]
        words = "; ".join(part for part in parts if part) or "nothing to compare with"
        said.append(f"{first.model}, {first.replacement}: {first.ranking} needs {words} (95 % interval of the pairs)")
    return said


def unjudged(records: Iterable[Validated]) -> list[str]:
    """Per model and reason: how many cases' answers were not judged, and why."""
    reasons = Counter(
        (record.model, reason)
        for record in records
        if record.validation is not None and (reason := record.validation.unjudged or record.validation.failure)
    )
    return [
        f"{model}: the answers to {count} case{'s' * (count > 1)} were not judged: {reason}"
        for (model, reason), count in reasons.items()
    ]
