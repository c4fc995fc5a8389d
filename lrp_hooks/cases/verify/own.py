"""What a person's own prompts ask for: a text, texts that must or must not occur, a pattern, a number."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache

import regex

from lrp_hooks.cases.verify.answers import last_number, number
from lrp_hooks.cases.verify.base import Instruction
from lrp_hooks.errors import CaseError

SECONDS = 1.0
"""Processor time that a pattern may take for one response."""
MOST_REPEATS = 10_000
"""Repeats are written out when a pattern is read: counts inside counts multiply."""
_COUNT = re.compile(r"\{(?:\d*,)?(\d+)\}")
_UNFINISHED = "\ufffd"
"""What a character decodes to whose last bytes are still to come."""


@dataclass(frozen=True)
class Equals(Instruction):
    """The response is the expected text, white space around it aside; loosely, in any case and without a full stop.

    No continuation can pass once the response is no beginning of that text.
    """

    expected: str

    def __post_init__(self) -> None:
        if not self.expected.strip():
            raise CaseError("the expected text is empty")

    @property
    def states_answer(self) -> bool:
        return True

    def holds(self, text: str) -> bool:
        return text.strip() == self.expected.strip()

    def passes_loosely(self, text: str) -> bool:
        return super().passes_loosely(text) or _plain(text) == _plain(self.expected)

    def hopeless(self, text: str) -> bool:
        said, wanted = text.lstrip().rstrip(_UNFINISHED), self.expected.strip()
        return not (wanted.startswith(said) or (said.startswith(wanted) and not said[len(wanted) :].strip()))


@dataclass(frozen=True)
class Contains(Instruction):
    """Every text occurs, as it stands; loosely, in whatever case."""

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_texts(self.texts)

    @property
    def states_answer(self) -> bool:
        return True

    def holds(self, text: str) -> bool:
        return not self.lacks(text)

    def lacks(self, text: str) -> tuple[str, ...]:
        return tuple(each for each in self.texts if each not in text)

    def passes_loosely(self, text: str) -> bool:
        folded = text.casefold()
        return super().passes_loosely(text) or all(each.casefold() in folded for each in self.texts)


@dataclass(frozen=True)
class Excludes(Instruction):
    """None of the texts occurs, as it stands. Once one does, no continuation can pass."""

    texts: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_texts(self.texts)

    def holds(self, text: str) -> bool:
        return not any(each in text for each in self.texts)

    def hopeless(self, text: str) -> bool:
        return not self.holds(text)


@dataclass(frozen=True)
class Matches(Instruction):
    """The pattern is found in the response: a regular expression of Python, as the package regex reads it."""

    pattern: str

    def __post_init__(self) -> None:
        _compiled(self.pattern)

    @property
    def states_answer(self) -> bool:
        return True

    def holds(self, text: str) -> bool:
        """Whether it is found.

        Raises:
            CaseError: it takes too long, as patterns do that can match one text in very many ways.
        """
        try:
            return _compiled(self.pattern).search(text, timeout=SECONDS) is not None
        except TimeoutError as error:
            raise CaseError(
                f"the pattern {self.pattern!r} takes more than {SECONDS:g} s. "
                "do: leave out repeats inside repeats, such as (a+)+"
            ) from error


@dataclass(frozen=True)
class LastNumber(Instruction):
    """The last number of the response is the expected one. Numbers are compared as numbers: 1,000 is 1000.00."""

    expected: str

    def __post_init__(self) -> None:
        if number(self.expected) is None:
            raise CaseError(f"the expected answer {self.expected!r} is no number")

    @property
    def states_answer(self) -> bool:
        return True

    def holds(self, text: str) -> bool:
        return last_number(text) == number(self.expected)


def _plain(text: str) -> str:
    return " ".join(text.split()).rstrip(".").casefold()


def _check_texts(texts: tuple[str, ...]) -> None:
    if not all(texts):
        raise CaseError("an empty text occurs everywhere. do: leave it out")


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> regex.Pattern[str]:
    """The pattern, ready to search.

    Raises:
        CaseError: no regular expression, or one whose repeats would fill the memory.
    """
    if math.prod(int(count) for count in _COUNT.findall(pattern)) > MOST_REPEATS:
        raise CaseError(
            f"the pattern {pattern!r} repeats more than {MOST_REPEATS:,} times. do: use smaller counts, or +"
        )
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError) as error:
        raise CaseError(f"the pattern {pattern!r} is no regular expression: {error}") from error
