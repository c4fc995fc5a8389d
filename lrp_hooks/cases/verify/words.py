"""Instructions about which words, letters and signs occur: keywords, forbidden words, letters, commas.

Keywords are regular expressions without regard to case, as in the official verifiers; those of the benchmark are plain
words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lrp_hooks.cases.verify.base import Instruction, check_relation, compare, too_many
from lrp_hooks.errors import CaseError


def _pattern(word: str) -> re.Pattern[str]:
    try:
        return re.compile(word, re.IGNORECASE)
    except re.error as error:
        raise CaseError(f"the keyword {word!r} is no regular expression: {error}") from error


@dataclass(frozen=True)
class Existence(Instruction):
    """Every keyword occurs."""

    keywords: tuple[str, ...]

    def holds(self, text: str) -> bool:
        return not self.lacks(text)

    def lacks(self, text: str) -> tuple[str, ...]:
        return tuple(word for word in self.keywords if not _pattern(word).search(text))


@dataclass(frozen=True)
class Frequency(Instruction):
    """A keyword occurs less than, or at least, so many times."""

    keyword: str
    frequency: int
    relation: str

    def __post_init__(self) -> None:
        check_relation(self.relation)

    def _count(self, text: str) -> int:
        return len(_pattern(self.keyword.strip()).findall(text))

    def holds(self, text: str) -> bool:
        return compare(self._count(text), self.relation, self.frequency)

    def hopeless(self, text: str) -> bool:
        return too_many(self._count(text), self.relation, self.frequency)

    def lacks(self, text: str) -> tuple[str, ...]:
        return () if self.relation == "less than" or self.holds(text) else (self.keyword.strip(),)


@dataclass(frozen=True)
class ForbiddenWords(Instruction):
    """None of the words occurs as a whole word."""

    forbidden_words: tuple[str, ...]

    def _found(self, text: str) -> list[re.Match[str]]:
        patterns = (_pattern(rf"\b{word}\b") for word in self.forbidden_words)
        return [match for pattern in patterns for match in pattern.finditer(text)]

    def holds(self, text: str) -> bool:
        return not self._found(text)

    def hopeless(self, text: str) -> bool:
        """A word at the very end does not count yet: "rock" may become "rocket"."""
        return any(match.end() < len(text) for match in self._found(text))


@dataclass(frozen=True)
class LetterFrequency(Instruction):
    """A letter occurs less than, or at least, so many times, whatever its case."""

    letter: str
    let_frequency: int
    let_relation: str

    def __post_init__(self) -> None:
        check_relation(self.let_relation)
        if len(self.letter) != 1:
            raise CaseError(f"letter is one character, not {self.letter!r}")

    @property
    def comparable(self) -> bool:
        """The official verifier replaces "#" and "!" by a random letter; here the sign itself is counted."""
        return "a" <= self.letter.lower() <= "z"

    def _count(self, text: str) -> int:
        return text.lower().count(self.letter.lower())

    def holds(self, text: str) -> bool:
        return compare(self._count(text), self.let_relation, self.let_frequency)

    def hopeless(self, text: str) -> bool:
        return too_many(self._count(text), self.let_relation, self.let_frequency)


@dataclass(frozen=True)
class NoComma(Instruction):
    """No comma."""

    def holds(self, text: str) -> bool:
        return "," not in text

    def hopeless(self, text: str) -> bool:
        return "," in text
