"""Instructions about form: lists, sections, titles, JSON, quotation marks, how a response starts and ends."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from lrp_hooks.cases.verify.base import Instruction

_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_FENCES = ("```json", "```Json", "```JSON", "```")
_JSON_STARTS = '{["-0123456789tfnNI`'  # Python's parser takes NaN and Infinity; fences may be doubled
_SEPARATOR = "******"


@dataclass(frozen=True)
class NumberBullets(Instruction):
    """Exactly so many Markdown bullet points, ``*`` or ``-``."""

    num_bullets: int

    def _count(self, text: str) -> int:
        stars = re.findall(r"^\s*\*[^\*].*$", text, flags=re.MULTILINE)
        return len(stars) + len(re.findall(r"^\s*-.*$", text, flags=re.MULTILINE))

    def holds(self, text: str) -> bool:
        return self._count(text) == self.num_bullets

    def hopeless(self, text: str) -> bool:
        return self._count(text) > self.num_bullets

    def lacks(self, text: str) -> tuple[str, ...]:
        return ("*", "-") if self._count(text) < self.num_bullets else ()


@dataclass(frozen=True)
class NumberHighlights(Instruction):
    """At least so many ``*highlighted*`` parts; ``**double**`` ones are counted, too."""

    num_highlights: int

    def holds(self, text: str) -> bool:
        single = [part.strip("*") for part in re.findall(r"\*[^\n\*]*\*", text)]
        double = [part[2:-2] for part in re.findall(r"\*\*[^\n\*]*\*\*", text)]
        return sum(bool(part.strip()) for part in (*single, *double)) >= self.num_highlights

    def lacks(self, text: str) -> tuple[str, ...]:
        return () if self.holds(text) else ("*", "**")


@dataclass(frozen=True)
class MultipleSections(Instruction):
    """At least so many sections that start with a word and a number."""

    section_spliter: str
    num_sections: int

    def holds(self, text: str) -> bool:
        return len(re.findall(rf"\s?{self.section_spliter.strip()}\s?\d+\s?", text)) >= self.num_sections

    def lacks(self, text: str) -> tuple[str, ...]:
        return () if self.holds(text) else (self.section_spliter.strip(),)


@dataclass(frozen=True)
class Placeholders(Instruction):
    """At least so many ``[placeholders]``."""

    num_placeholders: int

    def holds(self, text: str) -> bool:
        return len(re.findall(r"\[.*?\]", text)) >= self.num_placeholders

    def lacks(self, text: str) -> tuple[str, ...]:
        return () if self.holds(text) else ("[",)


@dataclass(frozen=True)
class Postscript(Instruction):
    """A postscript that starts with a marker."""

    postscript_marker: str

    def holds(self, text: str) -> bool:
        marker = self.postscript_marker.strip()
        known = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
        pattern = known.get(marker, rf"\s*{marker.lower()}.*$")
        return re.search(pattern, text.lower(), flags=re.MULTILINE) is not None

    def lacks(self, text: str) -> tuple[str, ...]:
        return () if self.holds(text) else (self.postscript_marker.strip(),)


@dataclass(frozen=True)
class Title(Instruction):
    """A title in double angular brackets."""

    def holds(self, text: str) -> bool:
        return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))

    def lacks(self, text: str) -> tuple[str, ...]:
        return () if self.holds(text) else ("<<",)


@dataclass(frozen=True)
class ConstrainedResponse(Instruction):
    """One of three given answers."""

    def holds(self, text: str) -> bool:
        return any(answer in text for answer in _ANSWERS)

    def lacks(self, text: str) -> tuple[str, ...]:
        return () if self.holds(text) else _ANSWERS


@dataclass(frozen=True)
class JsonFormat(Instruction):
    """JSON and nothing else; Markdown fences are allowed."""

    def _bare(self, text: str) -> str:
        text = text.strip()
        for fence in _FENCES:
            text = text.removeprefix(fence)
        return text

    def holds(self, text: str) -> bool:
        try:
            json.loads(self._bare(text).removesuffix("```").strip())
        except (ValueError, RecursionError):
            return False
        return True

    def hopeless(self, text: str) -> bool:
        """The first character after an opening fence starts no JSON value."""
        opening = text.strip()
        if any(fence.startswith(opening) for fence in _FENCES):
            return False
        bare = self._bare(text).strip()
        return bool(bare) and bare[0] not in _JSON_STARTS

    def lacks(self, text: str) -> tuple[str, ...]:
        return ("{", "[", "```json") if self.hopeless(text) else ()


@dataclass(frozen=True)
class Quotation(Instruction):
    """The whole response in double quotation marks."""

    def holds(self, text: str) -> bool:
        text = text.strip()
        return len(text) > 1 and text[0] == text[-1] == '"'

    def hopeless(self, text: str) -> bool:
        return text.strip()[:1] not in ("", '"')

    def lacks(self, text: str) -> tuple[str, ...]:
        return ('"',) if self.hopeless(text) else ()


@dataclass(frozen=True)
class TwoResponses(Instruction):
    """Two different responses, separated by six asterisks."""

    def _parts(self, text: str) -> tuple[list[str], bool]:
        parts = [part.strip() for part in text.split(_SEPARATOR)]
        return [part for part in parts if part], not all(parts[1:-1])

    def holds(self, text: str) -> bool:
        responses, blank = self._parts(text)
        return not blank and len(responses) == 2 and responses[0] != responses[1]

    def hopeless(self, text: str) -> bool:
        responses, blank = self._parts(text)
        return blank or len(responses) > 2

    def lacks(self, text: str) -> tuple[str, ...]:
        return (_SEPARATOR,) if len(self._parts(text)[0]) < 2 else ()


@dataclass(frozen=True)
class RepeatPrompt(Instruction):
    """The response starts with the request, word for word."""

    prompt_to_repeat: str

    def holds(self, text: str) -> bool:
        return text.strip().lower().startswith(self.prompt_to_repeat.strip().lower())

    def hopeless(self, text: str) -> bool:
        said, wanted = text.lstrip().lower(), self.prompt_to_repeat.strip().lower()
        return not (said.startswith(wanted) or wanted.startswith(said))

    def lacks(self, text: str) -> tuple[str, ...]:
        return (self.prompt_to_repeat.strip(),) if self.hopeless(text) else ()


@dataclass(frozen=True)
class EndPhrase(Instruction):
    """The response ends with a phrase."""

    end_phrase: str

    def holds(self, text: str) -> bool:
        return text.strip().strip('"').lower().endswith(self.end_phrase.strip().lower())

    def lacks(self, text: str) -> tuple[str, ...]:
        return () if self.holds(text) else (self.end_phrase.strip(),)
