"""Several models or checkpoints on the same cases: who still makes the error, and from which parts of the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lrp_hooks.cases.records import Attributed
from lrp_hooks.errors import CaseError


@dataclass(frozen=True)
class Compared:
    """One case with the first model and another one; logits are differences target - contrast.

    Attributes:
        corrected: the other model prefers the contrast.
    """

    case: str
    first: float
    other: float

    @property
    def corrected(self) -> bool:
        return self.other < 0.0


@dataclass(frozen=True)
class Comparison:
    """The cases that two models have in common."""

    first: str
    other: str
    cases: tuple[Compared, ...]

    @property
    def corrected(self) -> int:
        return sum(case.corrected for case in self.cases)


def compare(records: Sequence[Attributed], models: Sequence[str] = ()) -> list[Comparison]:
    """The first model with each of the others, on the cases that both have.

    Args:
        models: which, and in which order (a training trajectory, say). Default: as they come.

    Raises:
        CaseError: an unknown model, fewer than two, or tokenizers that differ: the same id would mean another token.
    """
    good = [record for record in records if not record.error]
    known = list(dict.fromkeys(record.model for record in good))
    wanted = list(models) or known
    missing = [name for name in wanted if name not in known]
    if missing:
        raise CaseError(f"no attribution with the model {missing[0]!r}. choices: {', '.join(known) or 'none'}")
    if len(wanted) < 2:
        raise CaseError("a comparison needs two models on the same cases. do: sweep with --model A --model B")
    check_tokenizers([record for record in good if record.model in wanted])
    values = {name: {record.case: record.value for record in good if record.model == name} for name in wanted}
    first = wanted[0]
    return [
        Comparison(
            first,
            other,
            tuple(
                Compared(case, value, values[other][case])
                for case, value in values[first].items()
                if case in values[other]
            ),
        )
        for other in wanted[1:]
    ]


def check_tokenizers(records: Sequence[Attributed]) -> None:
    """Raise where models have different tokenizers."""
    kinds = {record.model: record.tokenizer for record in records}
    strangers = [name for name, kind in kinds.items() if kind != next(iter(kinds.values()))]
    if strangers:
        raise CaseError(
            f"{strangers[0]} has another tokenizer than {next(iter(kinds))}: their tokens cannot be compared. "
            "do: compare models of one tokenizer"
        )
