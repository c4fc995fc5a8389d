"""Benchmarks that ask for one answer: a number (GSM8K), an expression in a box (MATH)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction

from lrp_hooks.cases.verify.base import Instruction
from lrp_hooks.cases.verify.latex import boxed, normalized
from lrp_hooks.errors import CaseError

_MINUS = "\u2212"
"""The sign that typeset numbers have, beside the hyphen."""
_NUMBER = rf"[-+{_MINUS}]?\s?\$?\d[\d,]*(?:\.\d+)?|[-+{_MINUS}]?\s?\$?\.\d+"
_MARKED = re.compile(rf"####\s*({_NUMBER})")
_FRACTION = re.compile(r"(-?)\\frac\{(\d+)\}\{(\d+)\}")


def number(text: str) -> Decimal | None:
    """A number as people write it: with a sign, a dollar sign, commas between thousands, decimals."""
    plain = re.sub(r"[,$\s]", "", text).replace(_MINUS, "-").rstrip(".")
    if not re.fullmatch(r"[-+]?(\d+(\.\d+)?|\.\d+)", plain, re.ASCII):
        return None
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None


def last_number(text: str) -> Decimal | None:
    """The last number of a text; a hyphen after a digit or a letter is no sign."""
    found = re.findall(rf"(?<![\w.])(?:{_NUMBER})|(?<![\d.])\d[\d,]*(?:\.\d+)?", text)
    return number(found[-1]) if found else None


@dataclass(frozen=True)
class Number(Instruction):
    """The right number (GSM8K, arXiv 2110.14168): the one after the first ``####``; loosely, the last of the response.

    Numbers are compared as numbers: 1,000 is 1000.00.
    """

    expected: str

    def __post_init__(self) -> None:
        if number(self.expected) is None:
            raise CaseError(f"the expected answer {self.expected!r} is no number")

    def holds(self, text: str) -> bool:
        found = _MARKED.search(text)
        return found is not None and number(found.group(1)) == number(self.expected)

    def passes_loosely(self, text: str) -> bool:
        return self.passes(text) or last_number(text) == number(self.expected)


@dataclass(frozen=True)
class Boxed(Instruction):
    """The right expression in the last box (MATH, arXiv 2103.03874), in the form of `normalized`.

    Loosely, equal values are equal (``1,000`` and ``1000``, ``\\frac{3}{4}`` and ``0.75``), and a response without a
    box answers with its last formula between dollar signs, or its last number.
    """

    expected: str

    def holds(self, text: str) -> bool:
        found = boxed(text)
        return found is not None and normalized(found) == normalized(self.expected)

    def passes_loosely(self, text: str) -> bool:
        found = boxed(text)
        formulas = re.findall(r"\$([^$]+)\$", text)
        said = [found] if found is not None else formulas[-1:]
        if any(_equal(each, self.expected) for each in said):
            return True
        value = _value(self.expected)
        last = last_number(text) if found is None else None
        return value is not None and last is not None and Fraction(last) == value


def _equal(one: str, other: str) -> bool:
    value = _value(one)
    return normalized(one) == normalized(other) or (value is not None and value == _value(other))


def _value(text: str) -> Fraction | None:
    plain = normalized(text)
    ratio = _FRACTION.fullmatch(plain)
    if ratio and int(ratio.group(3)):
        return Fraction(int(ratio.group(1) + ratio.group(2)), int(ratio.group(3)))
    found = number(plain)
    return None if found is None else Fraction(found)
