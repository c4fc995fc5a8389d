"""What kind of failure a case may be: suggestions with their evidence, for a person to confirm or refuse.

Two patterns of arXiv 2604.17761: a relevant part of the prompt had too little weight ("underweighted relevant"), or a
token that does not matter had too much ("overweighted irrelevant").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lrp_hooks.cases.jsonl import Appender, read_objects
from lrp_hooks.cases.schema import Strict, to_line, validated
from lrp_hooks.cases.sweep.breakdown import Share
from lrp_hooks.cases.validation.validate import Flip

LABELS = "labels.jsonl"
"""Where a sweep's folder holds what a person says about its cases."""
Pattern = Literal["underweighted relevant", "overweighted irrelevant"]
RELEVANT = "instruction"
FEW = 2
"""Masking so many words is taken for evidence that just they were decisive."""


class Suggestion(Strict):
    """A pattern and why it is suggested."""

    pattern: Pattern
    evidence: str


class Label(Strict):
    """What a person says about a case."""

    case: Annotated[str, Field(min_length=1)]
    label: Annotated[str, Field(min_length=1)]
    note: str = ""


def suggestions(shares: Sequence[Share], flips: Sequence[Flip], ranking: str) -> tuple[Suggestion, ...]:
    """Patterns that one model's attribution by one composite and its validation speak for.

    Underweighted: the instruction's tokens carry less than their part of sum |R|, or speak for the target on the
    whole. Overweighted: masking one or two words by this ranking changes the prediction.
    """
    found: list[Suggestion] = []
    tokens = sum(share.tokens for share in shares) or 1
    for share in shares:
        part = share.tokens / tokens
        if share.name == RELEVANT and (share.absolute < part or share.signed > 0):
            words = (
                f"the instruction has {part:.0%} of the tokens, {share.absolute:.0%} of sum |R| and speaks for the "
                f"{'target' if share.signed > 0 else 'contrast'} on the whole ({share.signed:+.1%})"
            )
            found.append(Suggestion(pattern="underweighted relevant", evidence=words))
    few = [f for f in flips if f.ranking == ranking and f.changed is not None and f.changed <= FEW]
    for flip in few[:1]:
        masked = ", ".join(repr(word) for word in flip.words[: flip.changed])
        words = f"without {masked} ({flip.replacement}) the model says something else"
        found.append(Suggestion(pattern="overweighted irrelevant", evidence=words))
    return tuple(found)


def read_labels(path: Path) -> dict[str, Label]:
    """Labels by case from lines ``{"case", "label", "note"}``; none without the file. A later line replaces an earlier.

    Raises:
        CaseError: names line and field.
    """
    if not path.exists():
        return {}
    rows = [validated(Label, row, f"{path}, line {number}") for number, row in read_objects(path)]
    return {label.case: label for label in rows}


def add_label(path: Path, label: Label) -> None:
    """Write down what a person says about a case; it replaces what was said before.

    Raises:
        CaseError: the file cannot be written.
    """
    with Appender(path) as lines:
        lines.append(to_line(label))
