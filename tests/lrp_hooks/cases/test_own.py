"""A person's own prompts: what a right answer is, how the file is checked, and their way through run and find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from bigrams import COMMAS, loaded
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lrp_hooks.cases.answers.run import read_answers, run_benchmark
from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.registry import problems
from lrp_hooks.cases.judge import Judge
from lrp_hooks.cases.schema import Case, Message, case_from, read_cases
from lrp_hooks.cases.search.find import find_case
from lrp_hooks.cases.search.stages import ONLY_TRIVIAL, Settings
from lrp_hooks.cases.sweep.records import Validated
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.cases.sweep.sweep import Plan, sweep
from lrp_hooks.cases.validation.validate import Rules
from lrp_hooks.cases.verify import instruction
from lrp_hooks.cases.verify import own as own_module
from lrp_hooks.cli import cases as command
from lrp_hooks.errors import CaseError, InputError

SPEC: dict[str, Any] = {"prompt": "say", "expected": {"excludes": [","]}}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def own(tmp_path: Path, *rows: dict[str, Any]) -> list[Problem]:
    return problems("own", path=write(tmp_path / "own.jsonl", *rows))


@pytest.mark.parametrize(
    ("field", "value", "text", "strict", "loose", "hopeless"),
    [
        ("equals", "New York", " New York\n", True, True, False),
        ("equals", "New York", "New", False, False, False),
        ("equals", "New York", "new york.", False, True, True),
        ("equals", "New York", "New York City", False, False, True),
        ("equals", "caf\u00e9", "caf\ufffd", False, False, False),  # half of the last character
        ("contains", ["Mary", "John"], "John and Mary", True, True, False),
        ("contains", ["Mary", "John"], "john and mary", False, True, False),
        ("contains", ["Mary", "John"], "John", False, False, False),
        ("excludes", ["sorry", "!"], "All is well", True, True, False),
        ("excludes", ["sorry", "!"], "I am sorry", False, False, True),
        ("matches", r"^\d+ apples$", "12 apples", True, True, False),
        ("matches", r"^\d+ apples$", "12 pears", False, False, False),
        ("matches", r"(?i)YES", "oh yes", True, True, False),
        ("number", 1000, "3 + 997 = 1,000.00.", True, True, False),
        ("number", -0.5, "it is -0.5", True, True, False),
        ("number", 1e-7, "0.0000001", True, True, False),
        ("number", "18", "18 of 20", False, False, False),
    ],
)
def test_what_is_expected(
    tmp_path: Path, field: str, value: Any, text: str, strict: bool, loose: bool, hopeless: bool
) -> None:
    (made,) = own(tmp_path, {"prompt": "p", "expected": {field: value}})
    (verifier,) = made.instructions
    assert (verifier.passes(text), verifier.passes_loosely(text)) == (strict, loose)
    assert verifier.hopeless(text) is hopeless
    assert not verifier.passes(" ")


@settings(deadline=None, database=None, max_examples=200)
@given(begun=st.text("ab ,", max_size=5), rest=st.text("ab ,", max_size=5))
def test_what_can_still_pass_is_not_given_up_and_what_cannot_stays_so(begun: str, rest: str) -> None:
    for name, parameters in (("own:equals", {"expected": "ab a"}), ("own:excludes", {"texts": ["b,", "aa"]})):
        verifier = instruction(name, parameters)
        assert not (verifier.hopeless(begun) and verifier.passes(begun + rest))
        assert verifier.hopeless(begun) <= verifier.hopeless(begun + rest)


def test_the_character_that_breaks_it() -> None:
    assert instruction("own:excludes", {"texts": ["no way"]}).broken_at("Oh, no way!") == 9
    assert instruction("own:equals", {"expected": "yes"}).broken_at("yet") == 2


def test_a_missing_text_that_was_nearly_said_is_found(tmp_path: Path) -> None:
    assert instruction("own:contains", {"texts": ["sun", "moon", "rock"]}).lacks("the sun") == ("moon", "rock")
    odds = {"_sun": [" is", " et", " x"], "_is": [" warm", " a"], "_warm": [" and"], "_a": [" x", " rock"], "_x": ["."]}
    model = loaded(**{**COMMAS, **odds})
    asked = own(tmp_path, {"prompt": "say", "expected": {"contains": ["rock"]}})
    (answer,) = run_benchmark(model, asked, tmp_path / "answers.jsonl", max_new_tokens=12)
    forced = answer.model_copy(update={"ids": (), "response": " sun is a x.", "written_by": "someone"})
    case = find_case(model, forced, Settings(samples=0, alternatives=2)).case
    assert case is not None
    assert case.contrast is not None
    assert (case.kind, case.completion, case.contrast.text) == ("marker", " sun is a", " rock")


def test_everything_expected_must_hold(tmp_path: Path) -> None:
    (made,) = own(tmp_path, {"prompt": "p", "expected": {"number": 7, "excludes": ["eight"], "matches": "so"}})
    assert made.instruction_ids == ("own:excludes", "own:matches", "own:number")
    assert made.verify("so it is 7").passed
    assert made.verify("so not eight but 7").followed == (False, True, True)


def test_a_right_answer_may_be_short_or_stand_in_the_prompt() -> None:
    right, polite = instruction("own:contains", {"texts": ["Paris"]}), instruction("own:excludes", {"texts": ["!"]})
    assert Judge([right], [False], prompt="Is it Paris?").good("Paris")
    assert not Judge([right, polite], [False, False], prompt="").good("Rome")
    assert not Judge([polite], [False], prompt="").good("Paris")


def test_a_pattern_that_takes_too_long_is_one_bad_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_module, "SECONDS", 0.05)
    endless = instruction("own:matches", {"pattern": "(a|aa)+$"})
    with pytest.raises(CaseError, match=r"'\(a\|aa\)\+\$' takes more than 0.05 s. do: leave out repeats inside"):
        endless.passes("a" * 90 + "b")
    model = loaded(**{**COMMAS, "_warm": [" a"], "_a": [" a"]})
    rows = ({**SPEC, "expected": {"matches": "( a| a a)+[xz]$"}}, SPEC)
    bad, good = run_benchmark(model, own(tmp_path, *rows), tmp_path / "answers.jsonl", max_new_tokens=60)
    assert str(bad.error).startswith("verifier: the pattern")
    assert good.passed


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"expected": {"equals": "a"}}, "line 2: exactly one of prompt and messages is needed"),
        ({"prompt": "p"}, "line 2: expected: Field required"),
        (
            {"prompt": "p", "expected": {}},
            "line 2: expected: at least one of equals, contains, excludes",
        ),
        ({"prompt": "p", "expected": {"contains": []}}, "line 2: expected.contains: Tuple should have at least 1"),
        ({"prompt": "p", "expected": {"contains": "a"}}, "line 2: expected.contains: Input should be a valid"),
        ({"prompt": "p", "expected": {"excludes": [""]}}, "line 2: expected.excludes: an empty text occurs everywhere"),
        ({"prompt": "p", "expected": {"equals": " "}}, "line 2: expected.equals: the expected text is empty"),
        ({"prompt": "p", "expected": {"number": "x"}}, "line 2: expected.number: the expected answer 'x' is no number"),
        ({"prompt": "p", "expected": {"matches": "("}}, "line 2: expected.matches: the pattern '(' is no regular"),
        (
            {"prompt": "p", "expected": {"matches": "((a{99}){99}){99}"}},
            "line 2: expected.matches: the pattern '((a{99}){99}){99}' repeats more than 10,000 times",
        ),
        ({"prompt": "p", "expected": {"equal": "a"}}, "line 2: expected.equal: Extra inputs are not permitted"),
        ({"prompt": "p", "expect": {"equals": "a"}}, "line 2: expect: Extra inputs are not permitted"),
        ({"id": [1], "prompt": "p", "expected": {"equals": "a"}}, "line 2: id: Input should be a valid string"),
        ({"id": 1, "prompt": "p", "expected": {"equals": "a"}}, "line 2: id: 'own:1' is already that of line 1"),
        (
            {"messages": [{"role": "assistant", "content": "a"}], "expected": {"equals": "a"}},
            "line 2: messages: the last one is the assistant's own",
        ),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(CaseError) as caught:
        own(tmp_path, SPEC, row)
    assert words in str(caught.value)


def test_all_problems_of_a_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(CaseError) as caught:
        own(tmp_path, {"prompt": "p"}, SPEC, {"expected": {"matches": "("}})
    assert [line.split(", ")[1][:6] for line in str(caught.value).splitlines()] == ["line 1", "line 3"]
    with pytest.raises(InputError, match=r"own prompts are in no package. do: give a local file with --data"):
        problems("own")


def test_prompts_are_given_as_they_stand_and_chats_through_the_template(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "say"}, {"role": "user", "content": "say"}]
    rows = ({"id": "plain", **SPEC}, {"id": "chat", "messages": chat, "expected": {"equals": "x"}})
    made = run_benchmark(loaded(**COMMAS), own(tmp_path, *rows), tmp_path / "answers.jsonl", max_new_tokens=12)
    plain, chatted = made
    assert (plain.id, plain.prompt, plain.messages, plain.prompt_ids) == ("own:plain", "say", None, (2,))
    assert (chatted.id, chatted.prompt, chatted.prompt_ids) == ("own:chat", None, (1, 2))
    assert chatted.messages == tuple(Message(**each) for each in chat)
    assert read_answers(tmp_path / "answers.jsonl") == made


def test_what_was_forbidden_is_found_one_way(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    (answer,) = run_benchmark(model, own(tmp_path, SPEC), tmp_path / "answers.jsonl", max_new_tokens=12)
    case = find_case(model, answer, Settings(samples=0)).case
    assert case is not None
    assert case.target is not None
    assert case.contrast is not None
    assert (case.kind, case.prompt, case.completion) == ("one-way", "say", " sun is warm")
    assert (case.target.text, case.contrast.text, case.ids) == (",", " and", (2, 3, 5, 8))
    assert (case.segments, case.written_by, case.source) == ((), "", "own:1")


SHORT = {"user": [" sun", " moon"], "_sun": ["."], "_moon": ["<end>"], "stop": ["<end>"]}


@pytest.mark.parametrize(
    ("expected", "contrast"),
    [({"equals": "moon"}, " moon"), ({"excludes": ["sun"]}, None)],
)
def test_a_short_answer_counts_where_it_is_the_right_one(
    tmp_path: Path, expected: dict[str, Any], contrast: str | None
) -> None:
    model = loaded(**SHORT)
    asked = own(tmp_path, {"prompt": "say", "expected": expected})
    (answer,) = run_benchmark(model, asked, tmp_path / "answers.jsonl", max_new_tokens=12)
    outcome = find_case(model, answer, Settings(samples=0, alternatives=1))
    if contrast is None:
        assert outcome.reason == ONLY_TRIVIAL
        return
    assert outcome.case is not None
    assert outcome.case.contrast is not None
    assert outcome.case.contrast.text == contrast


def test_a_case_carries_its_verifier(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    (answer,) = run_benchmark(model, own(tmp_path, SPEC), tmp_path / "answers.jsonl", max_new_tokens=12)
    case = find_case(model, answer, Settings(samples=0)).case
    assert case is not None
    carried = Problem.of(case)
    assert carried is not None
    assert (carried.id, carried.prompt, carried.plain) == ("own:1", "say", True)
    assert not carried.verify(" sun is warm, a rock.").passed
    assert carried.verify(" sun is warm and cold.").passed
    assert Problem.of(Case(id="a", prompt="p", source="own:1")) is None


def test_a_sweep_judges_by_the_verifier_that_the_case_carries(tmp_path: Path) -> None:
    model = tiny.loaded()
    model.model.config.max_position_embeddings = 512  # room for an answer
    bare = tiny.cases(model, 1)[0].model_copy(update={"response": "so it goes"})
    carried = {"instruction_ids": ("own:contains",), "parameters": ({"texts": ["yes"]},), "id": "carries"}
    store = Store(tmp_path)
    plan = Plan(("tiny",), ("attnlrp",), Rules(most=8, draws=0))
    sweep([bare, bare.model_copy(update=carried)], plan, store, lambda _: model)
    without, judged = (each.validation for each in store.records(Validated))
    assert without is not None
    assert judged is not None
    assert [flip.changed is not None for flip in judged.flips] == [True]
    assert [flip.passes for flip in without.flips] == [None]
    assert [flip.passes for flip in judged.flips] == [False]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"instruction_ids": ["own:equals"]}, "here: as many parameters as instruction_ids are needed"),
        ({"instruction_ids": ["own:no"], "parameters": [{}]}, "here: unknown instruction 'own:no'"),
        ({"instruction_ids": ["own:equals"], "parameters": [{}]}, "own:equals: the parameter 'expected' is missing"),
    ],
)
def test_verifiers_of_a_case_are_checked(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(CaseError, match=words):
        case_from({"id": "a", "prompt": "p", **fields}, "here")


def test_own_prompts_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_load", lambda *_, **__: loaded(**COMMAS))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "own.jsonl", SPEC, {"id": "b", "prompt": "say", "expected": {"contains": ["rock"]}})
    calls = (
        "run made --benchmark own --data own.jsonl -o answers.jsonl --max-new-tokens 12",
        "find made answers.jsonl -o found.jsonl --cases cases.jsonl --samples 0",
    )
    ran, found = (CliRunner().invoke(command.app, call.split()) for call in calls)
    assert ran.exit_code == found.exit_code == 0, ran.output + found.output
    assert "pass (strict)              1" in ran.output
    (case,) = read_cases("cases.jsonl")
    assert (case.id, case.instruction_ids, case.parameters) == ("own:1", ("own:excludes",), ({"texts": [","]},))
