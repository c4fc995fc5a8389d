"""The verifiers against recorded official verdicts, and "no continuation can pass" against what does pass."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrp_hooks.cases.verify import INSTRUCTIONS, broken, instruction, language, verify, verify_loosely
from lrp_hooks.errors import CaseError, MissingExtraError

RECORD = json.loads(Path(__file__).with_name("ifeval_verdicts.json").read_text(encoding="utf-8"))
TEXTS: list[str] = RECORD["texts"]
ROWS: list[dict[str, Any]] = RECORD["rows"]
LINGUISTIC = {name for name, kind in INSTRUCTIONS.items() if kind.__module__ == language.__name__}
EXTRA = all(find_spec(name) for name in ("nltk", "punkt", "langdetect"))


def name(row: dict[str, Any]) -> str:
    return row["instruction"].partition(":")[2] + "".join(f"-{value}" for value in row["parameters"].values())


def verifier(row: dict[str, Any]) -> Any:
    if row["instruction"] in LINGUISTIC and not EXTRA:
        pytest.skip("needs the extra 'cases'")
    return instruction(row["instruction"], row["parameters"])


def test_the_record_covers_every_instruction_both_ways() -> None:
    verdicts = {key: "".join(row["strict"] for row in ROWS if row["instruction"] == key) for key in INSTRUCTIONS}
    assert all({"0", "1"} == set(digits) for digits in verdicts.values())


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_verdicts_are_the_official_ones(row: dict[str, Any]) -> None:
    verifiers = [verifier(row)]
    for text, strict, loose in zip(TEXTS, row["strict"], row["loose"], strict=True):
        assert verify(verifiers, text).passed == (strict == "1"), text
        assert verify_loosely(verifiers, text).passed == (loose == "1"), text


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_what_passes_was_never_hopeless(row: dict[str, Any]) -> None:
    made = verifier(row)
    for text, strict in zip(TEXTS, row["strict"], strict=True):
        marks = [made.hopeless(text[:i]) for i in range(0, len(text) + 1, 3)] + [made.hopeless(text)]
        assert marks == sorted(marks), text  # once hopeless, always hopeless
        assert not (marks[-1] and strict == "1"), text


PIECES = ["***", "*", "\n", "\n\n", " ", "a", '"', "```", "json", "{}", "[", "- ", "rock", "item", ",", "'", "weekend"]
QUICK = [row for row in ROWS if row["instruction"] not in LINGUISTIC]


@settings(deadline=None, database=None)
@given(st.sampled_from(QUICK), st.lists(st.sampled_from(PIECES), max_size=12), st.lists(st.sampled_from(PIECES)))
def test_no_continuation_of_a_hopeless_text_passes(row: dict[str, Any], head: list[str], tail: list[str]) -> None:
    made, text = instruction(row["instruction"], row["parameters"]), "".join(head)
    if made.hopeless(text):
        longer = text + "".join(tail)
        assert made.hopeless(longer)
        assert not made.passes(longer)


@pytest.mark.parametrize(
    ("key", "parameters", "text", "at"),
    [
        ("punctuation:no_comma", {}, "one two, three, four", 7),
        ("punctuation:no_comma", {}, "one two three", None),
        ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "a rocket on a rock.", 18),
        ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "a rocket on a rock", None),
        ("keywords:frequency", {"keyword": "go", "frequency": 2, "relation": "less than"}, "go and go on", 8),
        ("keywords:frequency", {"keyword": "go", "frequency": 2, "relation": "at least"}, "go and go on", None),
        ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "less than"}, "here", 3),
        ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "one two three four", 8),
        ("change_case:english_lowercase", {}, "all small But one", 10),
        ("change_case:english_capital", {}, "ALL LARGE bUT ONE", 10),
        ("startend:quotation", {}, ' "quoted', None),
        ("startend:quotation", {}, " quoted", 1),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say it again"}, "say It, Sam", 6),
        ("detectable_format:json_format", {}, "```json\n{", None),
        ("detectable_format:json_format", {}, "Sure! {", 0),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* a\n* b", 5),
        ("combination:two_responses", {}, "a******b******c", 14),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 1}, "a *** b", 6),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 2, "nth_paragraph": 1, "first_word": "weekend"},
            "weekdays",
            4,
        ),
    ],
)
def test_where_it_broke(key: str, parameters: dict[str, Any], text: str, at: int | None) -> None:
    assert instruction(key, parameters).broken_at(text) == at


def test_the_earliest_break_comes_first() -> None:
    made = [instruction("punctuation:no_comma"), instruction("startend:quotation"), instruction("startend:quotation")]
    assert broken(made, "no, yes") == [(0, 1), (0, 2), (2, 0)]


def test_a_blank_response_follows_nothing() -> None:
    assert not any(instruction(row["instruction"], row["parameters"]).passes(" \n") for row in QUICK)


def test_signs_are_counted_but_not_comparable() -> None:
    made = instruction("keywords:letter_frequency", {"letter": "#", "let_frequency": 2, "let_relation": "at least"})
    assert made.passes("# one # two")
    assert not made.comparable
    assert instruction("punctuation:no_comma").comparable


@pytest.mark.parametrize(
    ("key", "parameters", "words"),
    [
        ("punctuation:no_commas", {}, "unknown instruction 'punctuation:no_commas'. choices: .*punctuation:no_comma"),
        ("punctuation:no_comma", {"x": 1}, "the parameter 'x' is unknown. it takes: none"),
        ("startend:end_checker", {}, "the parameter 'end_phrase' is missing. it takes: end_phrase"),
        ("startend:end_checker", {"end_phrase": 3}, "'end_phrase' is 3, not a text"),
        ("keywords:existence", {"keywords": []}, r"'keywords' is \[\], not a list of texts"),
        ("keywords:existence", {"keywords": ["a", 1]}, "not a list of texts"),
        ("length_constraints:number_words", {"num_words": True, "relation": "at least"}, "not a whole number"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at most"}, "choices: less than, at least"),
        (
            "length_constraints:nth_paragraph_first_word",
            {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"},
            "nth_paragraph 2 is outside 1..1",
        ),
    ],
)
def test_bad_parameters_are_named(key: str, parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(CaseError, match=words):
        instruction(key, parameters)


def test_whole_numbers_and_missing_ones_of_other_tools_are_read() -> None:
    given = {"num_words": 3.0, "relation": "at least", "keywords": None}
    assert instruction("length_constraints:number_words", given).passes("one two three")


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nltk.tokenize.punkt", None)
    language._sentences.cache_clear()
    with pytest.raises(MissingExtraError, match=r"nltk, which is not installed.*lrp-hooks\[cases\]"):
        instruction("length_constraints:number_sentences", {"num_sentences": 1, "relation": "at least"}).passes("Hi.")


LACKING: list[tuple[str, dict[str, Any], str, str]] = [
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one", "*"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "none", "*"),
    ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 1}, "none", "Part"),
    ("detectable_content:number_placeholders", {"num_placeholders": 1}, "none", "["),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "none", "P.S."),
    ("detectable_format:title", {}, "none", "<<"),
    ("detectable_format:constrained_response", {}, "none", "My answer is no."),
    ("combination:two_responses", {}, "one", "******"),
    ("startend:end_checker", {"end_phrase": "That is all."}, "none", "That is all."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one", "***"),
    ("startend:quotation", {}, "none", '"'),
    ("detectable_format:json_format", {}, "one", "{"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it"}, "none", "Say it"),
    ("change_case:english_lowercase", {}, "this is the Sun and the moon", "sun"),
    ("change_case:english_capital", {}, "THIS IS the sun", "THE"),
    ("keywords:existence", {"keywords": ["sun", "moon"]}, "the sun", "moon"),
    ("keywords:frequency", {"keyword": "sun", "frequency": 2, "relation": "at least"}, "sun", "sun"),
]


WHOLE = {
    "startend:quotation": '"none"',
    "detectable_format:json_format": '{"none": 1}',
    "combination:repeat_prompt": "Say it: none",
    "change_case:english_lowercase": "this is the sun and the moon",
    "change_case:english_capital": "THIS IS THE SUN",
}
"""What would have passed, where it is not the same text with something added."""


@pytest.mark.parametrize(("key", "parameters", "text", "lacking"), LACKING, ids=[row[0] for row in LACKING])
def test_what_a_response_lacks_begins_what_would_pass(
    key: str, parameters: dict[str, Any], text: str, lacking: str
) -> None:
    made = instruction(key, parameters)
    assert not made.passes(text)
    assert lacking in made.lacks(text)
    ends = {"*": "* two *", "Part": "Part 1", "[": "[name]", "<<": "<<name>>", "******": "****** two", "***": "*** two"}
    repaired = WHOLE.get(key) or f"{text}\n{ends.get(lacking, lacking)}"
    assert made.passes(repaired)
    assert made.lacks(repaired) == ()


@pytest.mark.parametrize(
    ("key", "parameters"),
    [
        ("punctuation:no_comma", {}),
        ("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "less than"}),
        ("detectable_format:number_bullet_lists", {"num_bullets": 0}),
    ],
)
def test_what_is_too_much_lacks_nothing(key: str, parameters: dict[str, Any]) -> None:
    made = instruction(key, parameters)
    assert not made.passes("* a, b")
    assert made.lacks("* a, b") == ()
