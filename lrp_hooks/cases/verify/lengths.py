"""Instructions about length and paragraphs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lrp_hooks.cases.verify.base import Instruction, check_relation, compare, too_many
from lrp_hooks.errors import CaseError

_DIVIDER = re.compile(r"\s?\*\*\*\s?")
_WORD_END = frozenset(".,?!'\"")


@dataclass(frozen=True)
class NumberWords(Instruction):
    """Less than, or at least, so many runs of word characters."""

    num_words: int
    relation: str

    def __post_init__(self) -> None:
        check_relation(self.relation)

    def _count(self, text: str) -> int:
        return len(re.findall(r"\w+", text))

    def holds(self, text: str) -> bool:
        return compare(self._count(text), self.relation, self.num_words)

    def hopeless(self, text: str) -> bool:
        return too_many(self._count(text), self.relation, self.num_words)


@dataclass(frozen=True)
class NumberParagraphs(Instruction):
    """Exactly so many paragraphs between dividers ``***``; none in the middle may be blank."""

    num_paragraphs: int

    def _parts(self, text: str) -> tuple[int, bool]:
        """How many paragraphs are not blank, and whether one in the middle is."""
        parts = [part.strip() for part in _DIVIDER.split(text)]
        return sum(map(bool, parts)), not all(parts[1:-1])

    def holds(self, text: str) -> bool:
        return self._parts(text) == (self.num_paragraphs, False)

    def hopeless(self, text: str) -> bool:
        count, blank = self._parts(text)
        return blank or count > self.num_paragraphs

    def lacks(self, text: str) -> tuple[str, ...]:
        return ("***",) if self._parts(text)[0] < self.num_paragraphs else ()


@dataclass(frozen=True)
class NthParagraphFirstWord(Instruction):
    """Exactly so many paragraphs between blank lines, one of which starts with a word."""

    num_paragraphs: int
    nth_paragraph: int
    first_word: str

    def __post_init__(self) -> None:
        if not 1 <= self.nth_paragraph <= self.num_paragraphs:
            raise CaseError(f"nth_paragraph {self.nth_paragraph} is outside 1..{self.num_paragraphs}")

    def holds(self, text: str) -> bool:
        paragraphs = text.split("\n\n")
        count = sum(bool(part.strip()) for part in paragraphs)
        if count != self.num_paragraphs:
            return False
        paragraph = paragraphs[self.nth_paragraph - 1]  # blank ones are counted here, as the official verifier does
        return bool(paragraph.strip()) and _first_word(paragraph)[0] == self.first_word.lower()

    def hopeless(self, text: str) -> bool:
        paragraphs = text.split("\n\n")
        if sum(bool(part.strip()) for part in paragraphs) > self.num_paragraphs:
            return True
        if len(paragraphs) < self.nth_paragraph:
            return False
        paragraph, closed = paragraphs[self.nth_paragraph - 1], len(paragraphs) > self.nth_paragraph
        word, ended = _first_word(paragraph) if paragraph.strip() else ("", False)
        wanted = self.first_word.lower()
        return word != wanted if ended or closed else not wanted.startswith(word)


def _first_word(paragraph: str) -> tuple[str, bool]:
    """The first word of a paragraph in small letters, up to the first sign, and whether it can still grow."""
    rest = paragraph.lstrip()
    raw = rest.split()[0]
    word = raw.lstrip("'").lstrip('"')
    letters = next((word[:i] for i, letter in enumerate(word) if letter in _WORD_END), word)
    return "".join(letter.lower() for letter in letters), len(letters) < len(word) or len(raw) < len(rest)
