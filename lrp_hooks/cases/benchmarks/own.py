"""A person's own prompts, each with what a right answer is."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.source import Benchmark, Row
from lrp_hooks.cases.schema import Prompted, Strict, validated
from lrp_hooks.cases.verify import instruction
from lrp_hooks.errors import CaseError

Texts = Annotated[tuple[str, ...], Field(min_length=1)]
PARAMETERS = {
    "equals": "expected",
    "contains": "texts",
    "excludes": "texts",
    "matches": "pattern",
    "number": "expected",
}
"""What the verifier of each field takes; it is called ``own:`` and the field's name."""


class Expected(Strict):
    """What a right answer is; all that is given must hold.

    Attributes:
        equals: the answer, white space around it aside.
        contains, excludes: texts that must, and must not, occur, as they stand.
        matches: a regular expression that is found in it.
        number: its last number.
    """

    equals: str | None = None
    contains: Texts | None = None
    excludes: Texts | None = None
    matches: str | None = None
    number: int | float | str | None = None

    @field_validator("*")
    @classmethod
    def _makes_a_verifier(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None:
            try:
                _ = instruction(*_verifier(str(info.field_name), value))
            except CaseError as error:
                raise ValueError(str(error)) from error
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Expected:
        if not self.verifiers:
            raise ValueError(f"at least one of {', '.join(PARAMETERS)} is needed")
        return self

    @property
    def verifiers(self) -> dict[str, dict[str, Any]]:
        """Instruction ids with their parameters."""
        given = ((name, getattr(self, name)) for name in PARAMETERS)
        return dict(_verifier(name, value) for name, value in given if value is not None)


class OwnPrompt(Prompted):
    """One line of a file of own prompts."""

    expected: Expected

    @model_validator(mode="after")
    def _is_the_users_turn(self) -> OwnPrompt:
        if self.messages is not None and self.messages[-1].role == "assistant":
            raise ValueError("messages: the last one is the assistant's own: there is nothing to answer")
        return self


def named(fields: Mapping[str, Any], number: int | str) -> dict[str, Any]:
    """The fields with an ``id``: a number becomes a text, and where there is none the line's number is it."""
    given = fields.get("id", number)
    return {**fields, "id": str(given) if isinstance(given, int) and not isinstance(given, bool) else given}


def _verifier(field: str, value: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(value, float):
        value = format(Decimal(repr(value)), "f")
    plain = list(value) if isinstance(value, tuple) else str(value)
    return f"own:{field}", {PARAMETERS[field]: plain}


def _read(row: Row) -> Problem:
    made = validated(OwnPrompt, named(row.fields, row.number), row.where)
    return Problem(
        "own",
        made.id,
        made.question,
        tuple(made.expected.verifiers),
        tuple(made.expected.verifiers.values()),
        messages=made.messages or (),
        plain=made.messages is None,
    )


OWN = Benchmark("own", _read, missing="own prompts are in no package")
