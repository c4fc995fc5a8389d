"""What counts as a better answer, and which words of a prompt state an instruction."""

from __future__ import annotations

import pytest

from lrp_hooks.cases.judge import Grade, Judge
from lrp_hooks.cases.schema import Case, Message, Span
from lrp_hooks.cases.segments import instruction_spans
from lrp_hooks.cases.verify import instruction

NO_COMMA = instruction("punctuation:no_comma")
QUOTED = instruction("startend:quotation")
FEW = instruction("length_constraints:number_words", {"num_words": 8, "relation": "less than"})


def judge(goal: Grade = Grade.REPAIRS, before: tuple[bool, ...] = (False, False, True)) -> Judge:
    return Judge((NO_COMMA, QUOTED, FEW), before, goal, prompt="Say why you like the sea so much")


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ('"It is wide and blue"', Grade.PASSES),
        ("It is wide and blue", Grade.REPAIRS),
        ('"It is wide, and blue"', Grade.REPAIRS),
        ("It is wide, and blue", Grade.NO_BETTER),
        ('"It is wide and blue and salty and deep"', Grade.NO_BETTER),  # two repaired, but too many words now
    ],
)
def test_grades(text: str, grade: Grade) -> None:
    assert judge().grade(text) is grade
    assert judge().good(text) == (grade >= Grade.REPAIRS)
    assert judge(Grade.PASSES).good(text) == (grade is Grade.PASSES)


@pytest.mark.parametrize("text", ["", "A", '"*****"', '"la la la la la la"', '"why you like the sea"'])
def test_trivial_answers_are_not_good(text: str) -> None:
    assert judge().trivial(text)
    assert not judge().good(text)


def test_an_answer_may_quote_the_prompt_and_say_more() -> None:
    assert judge().good('"I like the sea so much"')


@pytest.mark.parametrize(
    ("text", "repair", "everything"),
    [
        ('"It is', False, False),
        ("It is", False, True),  # the comma can still be avoided
        ('"It, is', False, True),
        ("It, is", True, True),
        ('"one two three four five six seven eight', True, True),  # spoils what was followed
    ],
)
def test_hopeless_is_about_the_goal(text: str, repair: bool, everything: bool) -> None:
    assert judge().hopeless(text) is repair
    assert judge(Grade.PASSES).hopeless(text) is everything


@pytest.mark.parametrize(
    ("prompt", "ids", "phrases"),
    [
        ("Write a poem. Do not use any commas.", ["punctuation:no_comma"], ["Do not use any commas."]),
        (
            "Describe e.g. a cat.\nNo commas! Wrap it in double quotation marks. Be kind.",
            ["punctuation:no_comma", "startend:quotation"],
            ["No commas! Wrap it in double quotation marks."],
        ),
        (
            "No commas, please. Write a poem. It should end with: Bye.",
            ["startend:end_checker"],
            ["It should end with: Bye."],
        ),
        ("Write a poem.", ["punctuation:no_comma"], []),
    ],
)
def test_phrases_that_state_an_instruction(prompt: str, ids: list[str], phrases: list[str]) -> None:
    spans = instruction_spans(prompt, ids, 0)
    assert [prompt[span.start : span.stop] for span in spans] == phrases
    assert {span.name for span in spans} <= {"instruction"}
    Case(id="a", messages=(Message(role="user", content=prompt),), segments=spans)  # they lie inside


def test_spans_without_messages_are_for_prompts() -> None:
    assert instruction_spans("No commas.", ["punctuation:no_comma"]) == (Span(name="instruction", start=0, stop=10),)
