"""Runs and searches on a tiny model with planted preferences: every outcome is known beforehand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bigrams import COMMAS, WORDS, loaded

from lrp_hooks.cases.answers import run as run_module
from lrp_hooks.cases.answers.run import Answer, Pace, read_answers, run_benchmark
from lrp_hooks.cases.benchmarks.ifeval import ifeval_prompts
from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.judge import Grade
from lrp_hooks.cases.schema import Message
from lrp_hooks.cases.search import find as find_module
from lrp_hooks.cases.search.find import Outcome, find_case, find_cases, read_outcomes, summarize
from lrp_hooks.cases.search.reference import Reference
from lrp_hooks.cases.search.stages import NONE_ENDS, NONE_PASSES, ONLY_TRIVIAL, Settings
from lrp_hooks.errors import CaseError, InputError
from lrp_hooks.loading.loaded import LoadedModel


def prompt(key: int = 1, ids: Sequence[str] = ("punctuation:no_comma",), *kwargs: dict[str, Any]) -> Problem:
    return Problem("ifeval", key, "say", tuple(ids), kwargs or ({},) * len(ids))


def answer(model: LoadedModel, tmp_path: Path, asked: Problem | None = None, limit: int = 12) -> Answer:
    (made,) = run_benchmark(model, [asked or prompt()], tmp_path / "answers.jsonl", max_new_tokens=limit)
    return made


def test_answers_are_judged(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    first = answer(model, tmp_path)
    assert first.response == " sun is warm, a rock."
    assert (first.ended, first.followed, first.failed, first.passed) == (True, (False,), True, False)
    assert first.prompt_ids == (1, 2)
    assert read_answers(tmp_path / "answers.jsonl") == [first]


def test_the_comma_is_the_target_and_the_best_repair_the_contrast(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    outcome = find_case(model, answer(model, tmp_path), Settings(samples=0))
    case = outcome.case
    assert case is not None
    assert case.target is not None
    assert case.contrast is not None
    assert (case.kind, case.position, case.completion) == ("one-way", 3, " sun is warm")
    assert (case.target.text, case.target.rank) == (",", 1)
    assert (case.contrast.text, case.contrast.rank) == (" and", 2)  # "." ends after three words: trivial
    assert case.delta_logit == pytest.approx(1.5)
    assert case.ids == (1, 2, 3, 5, 8)
    assert case.passes
    assert outcome.clear


def test_the_token_before_is_tried_when_the_break_itself_has_no_way_out(tmp_path: Path) -> None:
    odds = {**COMMAS, "_is": [" a"], "_a": [" rock", " cold"], "_cold": [" and"], "_and": [" moon"], "_moon": ["."]}
    model = loaded(**odds)
    asked = prompt(1, ["keywords:forbidden_words"], {"forbidden_words": ["rock"]})
    failed = answer(model, tmp_path, asked)
    assert failed.response == " sun is a rock."
    outcome = find_case(model, failed, Settings(samples=0, alternatives=1))
    assert outcome.case is not None
    assert outcome.case.contrast is not None
    assert (outcome.case.kind, outcome.case.completion) == ("before-one-way", " sun is a")
    assert outcome.case.contrast.text == " cold"
    assert set(outcome.tried) == {4, 3}


NO_CHOICE = {**COMMAS, "user": [" sun", ","], "_is": [" warm", ","], "_warm": [",", ".", " and"]}
"""Of the best other choice at any place nothing comes: another comma, or an answer of three words."""


def test_where_no_choice_of_its_own_repairs_the_answer_the_reference_model_is_asked(tmp_path: Path) -> None:
    model, settings = loaded(**NO_CHOICE), Settings(samples=0, alternatives=1)
    failed = answer(model, tmp_path)
    reference = Reference(replace(loaded(**{**COMMAS, "_warm": [" and"]}), name="larger"), model)
    alone = find_case(model, failed, settings)
    assert (alone.case, alone.reason) == (None, ONLY_TRIVIAL)
    outcome = find_case(model, failed, settings, reference)
    case = outcome.case
    assert case is not None
    assert case.contrast is not None
    assert (case.kind, case.position, case.proposed_by) == ("one-way", 3, "larger")
    assert (case.contrast.text, case.contrast.rank) == (" and", 3)
    assert case.delta_logit == pytest.approx(3.0)
    assert outcome.tried == alone.tried
    assert summarize([outcome, alone]).proposed == 1


def test_a_reference_is_not_asked_where_the_models_own_choice_does(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    failed = answer(model, tmp_path)
    asked = Reference(replace(loaded(**NO_CHOICE), name="larger"), model)
    own, with_reference = (find_case(model, failed, Settings(samples=0), each) for each in (None, asked))
    assert own.case is not None
    assert own.case == with_reference.case
    assert own.tokens == with_reference.tokens


def test_a_reference_that_helps_nothing_leaves_the_reason(tmp_path: Path) -> None:
    model = loaded(**NO_CHOICE)
    asked = Reference(replace(model, name="twin"), model)
    outcome = find_case(model, answer(model, tmp_path), Settings(samples=0, alternatives=1), asked)
    assert (outcome.case, outcome.reason) == (None, ONLY_TRIVIAL)


def test_a_reference_of_other_tokens_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = loaded(**COMMAS), loaded(**COMMAS)
    monkeypatch.setattr(other.tokenizer, "get_vocab", dict, raising=False)
    with pytest.raises(InputError, match="another tokenizer than"):
        find_cases(model, [answer(model, tmp_path)], tmp_path / "o.jsonl", reference=other)


DROP = {
    "user": [" sun", " moon"],
    "_sun": [" is"],
    "_is": [" warm"],
    "_warm": [" and"],
    "_and": [" cold", " moon"],  # after " cold" there is no " rock"; after " moon" there is
    "_cold": ["."],
    "_moon": [" rock"],
    "_rock": ["."],
    "stop": ["<end>"],
}


def test_what_is_missing_is_found_by_the_fall_of_success(tmp_path: Path) -> None:
    model = loaded(**DROP)
    asked = prompt(1, ["keywords:existence"], {"keywords": ["rock"]})
    failed = answer(model, tmp_path, asked)
    assert failed.response == " sun is warm and cold."
    outcome = find_case(model, failed, Settings(samples=64, temperature=1.5, alternatives=1, near=0))
    case = outcome.case
    assert case is not None
    assert case.target is not None
    assert case.contrast is not None
    assert (case.kind, case.completion) == ("success-drop", " sun is warm and")
    assert (case.target.text, case.contrast.text) == (" cold", " moon")


def test_what_is_missing_is_found_where_it_was_nearly_said(tmp_path: Path) -> None:
    odds = {"_sun": [" is", " a"], "_is": [" warm", " x", " rock"], "_warm": [" and", " a"], "_and": [" cold", " rock"]}
    model = loaded(**{**DROP, **odds, "_cold": [".", " a"]})
    failed = answer(model, tmp_path, prompt(1, ["keywords:existence"], {"keywords": ["rock"]}))
    outcome = find_case(model, failed, Settings(samples=0, alternatives=1, near=2))
    case = outcome.case
    assert case is not None
    assert case.contrast is not None
    assert (case.kind, case.completion) == ("marker", " sun is warm and")  # after " is" it is the third choice
    assert (case.contrast.text, case.contrast.rank) == (" rock", 2)
    assert outcome.tried == (4,)
    assert outcome.repairs == {"marker": (1, 1)}
    wider = find_case(model, failed, Settings(samples=0, alternatives=1, near=3))
    assert wider.tried[0] == 4  # the better rank first
    assert 2 in wider.tried
    nothing = find_case(model, failed, Settings(samples=0, alternatives=1, near=0))
    assert "marker" not in nothing.repairs


def test_an_answer_that_cannot_be_right_from_its_first_token_may_begin_with_what_it_lacks(tmp_path: Path) -> None:
    odds = {"user": [" sun", " moon", " et", " rock"], "_rock": [" is"], "_warm": [" and"], "_cold": ["."]}
    model = loaded(**{**COMMAS, **odds})
    asked = prompt(1, ["combination:repeat_prompt"], {"prompt_to_repeat": " rock is"})
    failed = answer(model, tmp_path, asked)
    outcome = find_case(model, failed, Settings(samples=0, alternatives=1, near=4))
    case = outcome.case
    assert case is not None
    assert case.contrast is not None
    assert (case.kind, case.position, case.contrast.text, case.contrast.rank) == ("first", 0, " rock", 4)
    assert outcome.repairs["first"] == (2, 1)
    assert find_case(model, failed, Settings(samples=0, alternatives=1, near=3)).case is None


def test_an_answer_that_went_on_too_long_has_the_end_as_contrast(tmp_path: Path) -> None:
    odds = {"_warm": [" and"], "_and": [" cold"], "_cold": [".", "<end>"], "stop": [" a", "<end>"], "_a": [" rock"]}
    model = loaded(**{**COMMAS, **odds, "_rock": [",", " x"], "_x": [","], "comma": ["<end>"]})
    failed = answer(model, tmp_path)
    assert failed.response == " sun is warm and cold. a rock,"
    outcome = find_case(model, failed, Settings(samples=0, alternatives=1, near=2))
    case = outcome.case
    assert case is not None
    assert case.contrast is not None
    assert (case.kind, case.completion) == ("stop", " sun is warm and cold")  # the first of two of one rank
    assert (case.contrast.id, case.contrast.rank, case.delta_logit) == (0, 2, pytest.approx(1.5))
    assert outcome.repairs["stop"] == (5, 2)  # three more would have been too short
    assert outcome.tried == (8, 7)  # ending is tried without writing anything
    early = find_case(model, failed, Settings(samples=0, alternatives=1, near=2, min_words=9))
    assert early.case is None


def test_a_pair_without_a_clear_lead_waits_for_a_clear_one(tmp_path: Path) -> None:
    model = loaded(**{**COMMAS, "_is": [" warm", " cold"], "_cold": [" and"], "_and": [" x"], "_x": ["."]})
    with torch.no_grad():
        model.model.table[WORDS.index(" warm"), WORDS.index(" and")] = 5.5  # half a logit below the comma
    failed = answer(model, tmp_path)
    outcome = find_case(model, failed, Settings(samples=0))
    case = outcome.case
    assert case is not None
    assert (case.kind, case.completion, case.delta_logit) == ("before-one-way", " sun is", pytest.approx(1.5))
    with torch.no_grad():
        model.model.table[WORDS.index(" is"), WORDS.index(" cold")] = 5.5
        model.model.table[WORDS.index("say"), WORDS.index(" moon")] = -9.0
    outcome = find_case(model, failed, Settings(samples=0))
    case = outcome.case
    assert case is not None
    assert (case.kind, case.delta_logit, outcome.clear) == ("one-way", pytest.approx(0.5), False)
    assert outcome.tried == (3, 2, 0)  # every stage has had its turn


def test_random_positions_are_a_control_and_give_no_pair(tmp_path: Path) -> None:
    model = loaded(**{**DROP, "_and": [" cold", " rock"], "user": [" sun"]})
    failed = answer(model, tmp_path, prompt(1, ["keywords:existence"], {"keywords": ["rock"]}))
    settings = Settings(samples=0, alternatives=1, near=0, control=9)
    plain, outcome = (find_case(model, failed, each) for each in (replace(settings, control=0), settings))
    assert plain.case is None
    assert outcome.case is None
    assert outcome.reason == plain.reason
    assert plain.tried == (6, 5, 0)
    assert outcome.tried == (6, 5, 0, 1, 2, 3, 4)
    assert outcome.repairs["random"] == (4, 1)  # " rock" after " and"
    some = [find_case(model, failed, replace(settings, control=2)).tried for _ in range(2)]
    assert len(some[0]) == 5
    assert some[0] == some[1]


def test_an_answer_that_ends_too_soon_has_its_end_as_target(tmp_path: Path) -> None:
    model = loaded(**{**DROP, "_and": [" cold"], "stop": ["<end>", " rock"], "_rock": [" x"], "_x": ["<end>"]})
    failed = answer(model, tmp_path, prompt(1, ["keywords:existence"], {"keywords": ["rock"]}))
    assert failed.ended
    case = find_case(model, failed, Settings(samples=0, alternatives=1, near=0)).case
    assert case is not None
    assert case.target is not None
    assert case.contrast is not None
    assert (case.kind, case.completion, case.position) == ("end", failed.response, len(failed.ids))
    assert (case.target.id, case.contrast.text) == (0, " rock")


def test_an_answer_that_is_wrong_from_its_first_token_is_another_answer_altogether(tmp_path: Path) -> None:
    model = loaded(**{**COMMAS, "user": [",", " sun"], "_warm": [" and"]})
    failed = answer(model, tmp_path)
    assert failed.response.startswith(",")
    outcome = find_case(model, failed, Settings(samples=8))
    assert outcome.case is not None
    assert outcome.case.contrast is not None
    assert (outcome.case.kind, outcome.case.position, outcome.case.contrast.text) == ("first", 0, " sun")
    assert outcome.tried == (0,)


@pytest.mark.parametrize(
    ("odds", "samples", "reason"),
    [
        ({**DROP, "user": [" sun"], "_and": [" cold"]}, 4, NONE_PASSES),
        ({**DROP, "user": [" sun"], "_and": [" cold"]}, 0, NONE_PASSES),
        ({**DROP, "user": [" sun", " rock"], "_and": [" cold"]}, 0, ONLY_TRIVIAL),
        (
            {**DROP, "user": [" sun", " rock"], "_and": [" cold"], "_rock": [" and"], "_cold": [" and", "."]},
            0,
            NONE_ENDS,
        ),
    ],
)
def test_reasons_for_dropping(tmp_path: Path, odds: dict[str, list[str]], samples: int, reason: str) -> None:
    model = loaded(**odds)
    asked = prompt(1, ["keywords:existence"], {"keywords": ["rock"]})
    settings = Settings(samples=samples, alternatives=1, temperature=0.5, near=0)
    outcome = find_case(model, answer(model, tmp_path, asked), settings)
    assert outcome.case is None
    assert outcome.reason == reason
    assert not outcome.clear


def test_random_official_verdicts_are_left_out(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    asked = prompt(1, ["keywords:letter_frequency"], {"letter": "#", "let_frequency": 1, "let_relation": "at least"})
    assert find_case(model, answer(model, tmp_path, asked), Settings()).reason == find_module.NOT_COMPARABLE


def test_an_empty_answer_has_no_error_token(tmp_path: Path) -> None:
    model = loaded(**{**COMMAS, "user": ["<end>"]})
    empty = answer(model, tmp_path)
    assert empty.failed
    assert find_case(model, empty, Settings()).reason == find_module.NO_MODEL_ANSWER


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    model, path = loaded(**COMMAS), tmp_path / "answers.jsonl"
    prompts = [prompt(key) for key in (3, 1, 2)]
    whole = run_benchmark(model, prompts, path, max_new_tokens=12)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:30])
    paces: list[Pace] = []
    assert run_benchmark(model, prompts, path, max_new_tokens=12, tell=paces.append) == whole
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines)
    assert [(p.done, p.total) for p in paces] == [(2, 3), (3, 3)]
    assert paces[-1].left == 0
    before = path.read_bytes()
    assert run_benchmark(model, prompts, path, max_new_tokens=12, tell=paces.append) == whole
    assert path.read_bytes() == before
    assert len(paces) == 2


def test_a_killed_search_goes_on_where_it_was(tmp_path: Path) -> None:
    model, path = loaded(**COMMAS), tmp_path / "found.jsonl"
    answers = run_benchmark(model, [prompt(key) for key in (1, 2)], tmp_path / "answers.jsonl", max_new_tokens=12)
    whole = find_cases(model, answers, path, settings=Settings(samples=0))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1][:-5])
    again = find_cases(model, answers, path, settings=Settings(samples=0))
    assert [o.case for o in again] == [o.case for o in whole]
    assert path.read_bytes().startswith(lines[0])
    assert len(read_outcomes(path)) == 2


def test_a_verifier_that_raises_is_one_bad_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RecursionError("too deep")

    model = loaded(**COMMAS)
    monkeypatch.setattr(run_module, "verify_loosely", broken)
    failed = answer(model, tmp_path)
    assert failed.error == "verifier: too deep"
    assert not failed.failed
    assert not failed.passed


def test_a_prompt_that_does_not_fit_is_one_bad_case(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    long = Problem("ifeval", 9, "say" * 60, ("punctuation:no_comma",), ({},))
    first, second = run_benchmark(model, [long, prompt()], tmp_path / "answers.jsonl", max_new_tokens=12)
    assert first.error == "61 tokens of prompt and 12 new ones are more than the model's 64"
    assert second.failed


def test_answers_of_another_run_are_not_mixed(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    failed = answer(model, tmp_path)
    with pytest.raises(CaseError, match="answers of bigrams with at most 12 tokens, not of bigrams with 13"):
        run_benchmark(model, [prompt()], tmp_path / "answers.jsonl", max_new_tokens=13)
    other = LoadedModel(model.model, model.tokenizer, "made", "other")
    with pytest.raises(CaseError, match="answers of bigrams cannot be searched with other"):
        find_cases(other, [failed], tmp_path / "found.jsonl")


def test_two_prompts_with_one_key_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="the same key"):
        run_benchmark(loaded(**COMMAS), [prompt(), prompt()], tmp_path / "answers.jsonl")


def test_a_search_that_fails_is_one_bad_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise InputError("branches cannot be masked")

    model = loaded(**COMMAS)
    monkeypatch.setattr(find_module, "Search", fail)
    assert find_case(model, answer(model, tmp_path), Settings()).reason == "error: branches cannot be masked"


def test_a_summary_counts(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    kept = find_case(model, answer(model, tmp_path), Settings(samples=0))
    summary = summarize([kept, Outcome(id="b", reason=NONE_PASSES, tokens=5), Outcome(id="c", reason=NONE_PASSES)])
    assert (summary.searched, summary.kept, summary.clear, summary.passing, summary.first) == (3, 1, 1, 1, 0)
    assert summary.kinds == {"one-way": 1}
    assert summary.reasons == {NONE_PASSES: 2}
    assert summary.tokens == kept.tokens + 5


@pytest.mark.parametrize(
    "wrong", [{"goal": Grade.NO_BETTER}, {"alternatives": 0}, {"samples": -1}, {"temperature": 0.0}, {"budget": 0}]
)
def test_settings_are_checked(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Settings(**wrong)


ROW = {"key": 1, "prompt": "say", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


def test_prompts_of_a_local_file(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    other = ROW | {"key": 2, "instruction_id_list": ["detectable_format:title"]}
    path.write_text(json.dumps(ROW) + "\n" + json.dumps(other) + "\n")
    assert [p.key for p in ifeval_prompts(path=path)] == [1, 2]
    assert [p.key for p in ifeval_prompts("detectable_format:title", path=path)] == [2]
    assert [p.key for p in ifeval_prompts(path=path, limit=1)] == [1]
    with pytest.raises(CaseError, match="unknown instruction 'title'"):
        ifeval_prompts("title", path=path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"key": "1"}, "line 1: the field 'key' is str, not int"),
        ({"kwargs": []}, "line 1: a prompt, its instructions"),
        ({"kwargs": [5]}, "line 1: a prompt, its instructions"),
        ({"prompt": " "}, "line 1: a prompt, its instructions"),
        ({"kwargs": [{"x": 1}]}, "line 1: the field 'kwargs': punctuation:no_comma: the parameter 'x' is unknown"),
        ({"instruction_id_list": ["no"]}, "line 1: the field 'kwargs': unknown instruction 'no'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(ROW | changes))
    with pytest.raises(CaseError, match=words):
        ifeval_prompts(path=path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"key": 1}')
    with pytest.raises(CaseError, match="line 1: the field 'prompt' is missing"):
        ifeval_prompts(path=path)


def test_messages_are_stored() -> None:
    made = Answer(id="a", messages=(Message(role="user", content="say"),), max_new_tokens=1)
    assert made.instructions == ()
