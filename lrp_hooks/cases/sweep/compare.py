"""Several models or checkpoints on the same cases: who still makes the error, and from which parts of the prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lrp_hooks.cases.sweep.records import Attributed
from lrp_hooks.cases.validation.statistics import Estimate, ShareRow, estimate, share_rows
from lrp_hooks.errors import CaseError

Outcome = Literal["corrected", "not corrected", "newly wrong", "right in both"]
OUTCOMES: tuple[Outcome, ...] = ("corrected", "not corrected", "newly wrong", "right in both")


@dataclass(frozen=True)
class Compared:
    """One case with the first model and another one; logits are differences target - contrast."""

    case: str
    first: float
    other: float

    @property
    def outcome(self) -> Outcome:
        """A model makes the error where it does not prefer the contrast."""
        if self.first < 0.0:
            return "right in both" if self.other < 0.0 else "newly wrong"
        return "corrected" if self.other < 0.0 else "not corrected"

    @property
    def corrected(self) -> bool:
        return self.outcome == "corrected"


@dataclass(frozen=True)
class Comparison:
    """The cases that two models have in common.

    Attributes:
        retokenized: of how many the models see other input tokens, by another chat template, say.
    """

    first: str
    other: str
    cases: tuple[Compared, ...]
    retokenized: int = 0

    @property
    def corrected(self) -> int:
        return self.counts["corrected"]

    @property
    def counts(self) -> Counter[Outcome]:
        return Counter(case.outcome for case in self.cases)


def compare(records: Sequence[Attributed], models: Sequence[str] = ()) -> list[Comparison]:
    """The first model with each of the others, on the cases that both have.

    Args:
        records: by one composite; the differences do not depend on which.
        models: which, and in which order (a training trajectory, say). Default: as they come.

    Raises:
        CaseError: an unknown model, fewer than two, or tokenizers that differ: the same id would mean another token.
    """
    first, *others = _by_model(records, models).items()
    return [_comparison(*first, *other) for other in others]


def _comparison(first: str, mine: dict[str, Attributed], other: str, theirs: dict[str, Attributed]) -> Comparison:
    common = [case for case in mine if case in theirs]
    return Comparison(
        first,
        other,
        tuple(Compared(case, mine[case].value, theirs[case].value) for case in common),
        sum([p.id for p in mine[case].pieces] != [p.id for p in theirs[case].pieces] for case in common),
    )


def _by_model(records: Sequence[Attributed], models: Sequence[str]) -> dict[str, dict[str, Attributed]]:
    good = [record for record in records if not record.error]
    known = list(dict.fromkeys(record.model for record in good))
    wanted = list(dict.fromkeys(models)) or known
    missing = [name for name in wanted if name not in known]
    if missing:
        raise CaseError(f"no attribution with the model {missing[0]!r}. choices: {', '.join(known) or 'none'}")
    if len(wanted) < 2:
        raise CaseError("a comparison needs two models on the same cases. do: sweep with --model A --model B")
    check_tokenizers([record for name in wanted for record in good if record.model == name])
    return {name: {record.case: record for record in good if record.model == name} for name in wanted}


def check_tokenizers(records: Sequence[Attributed]) -> None:
    """Raise where models have different tokenizers."""
    kinds = {record.model: record.tokenizer for record in records}
    first = next(iter(kinds), "")
    strangers = [name for name, kind in kinds.items() if kind != kinds[first]]
    if strangers:
        same = [name for name in kinds if name not in strangers]
        others = f" or {', '.join(strangers)}" if len(strangers) > 1 else ""
        choice = " ".join(f"--model {name}" for name in (same if len(same) > 1 else [first, "…"]))
        raise CaseError(
            f"{strangers[0]} has another tokenizer than {first}: the same id is another token, and their logits "
            f"cannot be compared. do: compare models of one tokenizer ({choice}), without {strangers[0]}{others}"
        )


@dataclass(frozen=True)
class Trajectory:
    """The difference target - contrast (logits) over models in their order, on the cases that all of them have.

    Attributes:
        cases: one line per case, a value per model.
        means: per model, over cases.
        wrong: share of the cases in which each model does not prefer the contrast.
    """

    models: tuple[str, ...]
    cases: dict[str, tuple[float, ...]]
    means: tuple[Estimate, ...]
    wrong: tuple[Estimate, ...]


def trajectory(records: Sequence[Attributed], models: Sequence[str] = ()) -> Trajectory | None:
    """How the error comes and goes from checkpoint to checkpoint; None where no case is common to all.

    Raises:
        CaseError: as `compare`.
    """
    values = _by_model(records, models)
    first, *others = values.values()
    cases = {
        case: tuple(known[case].value for known in values.values())
        for case in first
        if all(case in other for other in others)
    }
    columns = list(zip(*cases.values(), strict=True))
    means = [made for column in columns if (made := estimate(column))]
    wrong = [made for column in columns if (made := estimate([float(value >= 0.0) for value in column]))]
    return Trajectory(tuple(values), cases, tuple(means), tuple(wrong)) if cases else None


@dataclass(frozen=True)
class OutcomeShares:
    """Relevance by part of the prompt, of the cases with one outcome; both models."""

    outcome: Outcome
    cases: int
    rows: tuple[ShareRow, ...]


def outcome_shares(records: Sequence[Attributed], comparison: Comparison) -> list[OutcomeShares]:
    """Do the corrected cases draw on other parts of the prompt? One entry per outcome that has cases."""
    both = (comparison.first, comparison.other)
    found = []
    for outcome in OUTCOMES:
        cases = {case.case for case in comparison.cases if case.outcome == outcome}
        chosen = [record for name in both for record in records if record.model == name and record.case in cases]
        if cases:
            found.append(OutcomeShares(outcome, len(cases), tuple(share_rows(chosen))))
    return found
