"""Names of instructions, IFEval's, other benchmarks' and own prompts', and the verifiers that they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lrp_hooks.cases.verify import answers, code, formats, language, lengths, own, words
from lrp_hooks.cases.verify.base import Instruction
from lrp_hooks.errors import CaseError

INSTRUCTIONS: Mapping[str, type[Instruction]] = {
    "keywords:existence": words.Existence,
    "keywords:frequency": words.Frequency,
    "keywords:forbidden_words": words.ForbiddenWords,
    "keywords:letter_frequency": words.LetterFrequency,
    "language:response_language": language.ResponseLanguage,
    "length_constraints:number_sentences": language.NumberSentences,
    "length_constraints:number_paragraphs": lengths.NumberParagraphs,
    "length_constraints:number_words": lengths.NumberWords,
    "length_constraints:nth_paragraph_first_word": lengths.NthParagraphFirstWord,
    "detectable_content:number_placeholders": formats.Placeholders,
    "detectable_content:postscript": formats.Postscript,
    "detectable_format:number_bullet_lists": formats.NumberBullets,
    "detectable_format:constrained_response": formats.ConstrainedResponse,
    "detectable_format:number_highlighted_sections": formats.NumberHighlights,
    "detectable_format:multiple_sections": formats.MultipleSections,
    "detectable_format:json_format": formats.JsonFormat,
    "detectable_format:title": formats.Title,
    "combination:two_responses": formats.TwoResponses,
    "combination:repeat_prompt": formats.RepeatPrompt,
    "startend:end_checker": formats.EndPhrase,
    "startend:quotation": formats.Quotation,
    "change_case:capital_word_frequency": language.CapitalWordFrequency,
    "change_case:english_capital": language.EnglishCapital,
    "change_case:english_lowercase": language.EnglishLowercase,
    "punctuation:no_comma": words.NoComma,
}

ANSWERS: Mapping[str, type[Instruction]] = {
    "gsm8k:number": answers.Number,
    "math:boxed": answers.Boxed,
    "code:tests": code.UnitTests,
}
"""What other benchmarks ask for; each has one."""

OWN: Mapping[str, type[Instruction]] = {
    "own:equals": own.Equals,
    "own:contains": own.Contains,
    "own:excludes": own.Excludes,
    "own:matches": own.Matches,
    "own:number": own.LastNumber,
}
"""What a person's own prompts ask for."""

_KINDS: dict[str, type] = {"int": int, "str": str, "tuple[str, ...]": list}


def instruction(name: str, parameters: Mapping[str, Any] | None = None) -> Instruction:
    """The verifier of an instruction id with IFEval's own parameter names.

    Parameters that the instruction does not have may be there when they are None (lm-eval writes all of them).

    Raises:
        CaseError: an unknown id; a parameter that is missing, unknown or of another type.
    """
    known = INSTRUCTIONS.get(name) or ANSWERS.get(name) or OWN.get(name)
    if known is None:
        raise CaseError(f"unknown instruction {name!r}. choices: {', '.join(INSTRUCTIONS)}")
    given = {key: value for key, value in (parameters or {}).items() if value is not None}
    kinds = {field.name: str(field.type) for field in fields(known)}
    wrong = sorted(given.keys() ^ kinds.keys())
    if wrong:
        state = "unknown" if wrong[0] in given else "missing"
        raise CaseError(f"{name}: the parameter {wrong[0]!r} is {state}. it takes: {', '.join(kinds) or 'none'}")
    return known(**{key: _checked(name, key, given[key], kind) for key, kind in kinds.items()})


def _checked(name: str, key: str, value: Any, kind: str) -> Any:
    if kind == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)  # tables store whole numbers beside missing ones as 3.0
    good = isinstance(value, _KINDS[kind]) and not isinstance(value, bool)
    if kind.startswith("tuple"):
        good = good and value and all(isinstance(part, str) for part in value)
    if not good:
        wanted = {"int": "a whole number", "str": "a text"}.get(kind, "a list of texts")
        raise CaseError(f"{name}: the parameter {key!r} is {value!r}, not {wanted}")
    return tuple(value) if kind.startswith("tuple") else value
