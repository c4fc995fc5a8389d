"""What other programs have recorded, as answers: judged anew, cut into tokens, searched under teacher forcing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bigrams import COMMAS, Tokenizer, loaded
from typer.testing import CliRunner

from lrp_hooks.cases.answers.run import Answer, read_answers, run_benchmark
from lrp_hooks.cases.benchmarks.registry import problems
from lrp_hooks.cases.conversion.convert import convert, convert_answers
from lrp_hooks.cases.schema import read_cases, write_cases
from lrp_hooks.cases.search.find import NO_MODEL_ANSWER, find_case, find_cases, summarize
from lrp_hooks.cases.search.forcing import tokenized
from lrp_hooks.cases.search.stages import Settings
from lrp_hooks.cli import cases as command
from lrp_hooks.cli.sweep import chosen
from lrp_hooks.errors import CaseError, ExecutionError, InputError

SETTINGS = Settings(samples=0)
PAIR: dict[str, Any] = {
    "messages": [{"role": "user", "content": "say"}],
    "completion": " sun is warm, a rock.",
    "expected": {"excludes": [","]},
    "model": "other",
}
DOC = {"key": 7, "prompt": "say", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}


def sample(**changes: Any) -> dict[str, Any]:
    row = {
        "doc_id": 3,
        "doc": DOC,
        "arguments": {"gen_args_0": {"arg_0": json.dumps(PAIR["messages"]), "arg_1": {"until": []}}},
        "resps": [[" sun is warm, a rock."]],
        "prompt_level_strict_acc": False,
    }
    return row | changes


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> list[Answer]:
    return convert_answers(write(tmp_path / "pairs.jsonl", *rows), "pairs", **options)[0]


def samples(tmp_path: Path, *rows: dict[str, Any], **options: Any) -> tuple[list[Answer], int]:
    return convert_answers(write(tmp_path / "samples_x.jsonl", *rows), "lm-eval", **options)


def test_a_pair_is_searched_as_if_the_model_had_said_it(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    (answer,) = pairs(tmp_path, PAIR)
    assert (answer.id, answer.followed, answer.written_by, answer.model) == ("line-1", (False,), "other", "")
    assert (answer.ids, answer.ended, answer.max_new_tokens) == ((), None, 160)
    (outcome,) = find_cases(model, [answer], tmp_path / "found.jsonl", settings=SETTINGS)
    own = problems("own", path=write(tmp_path / "own.jsonl", {key: PAIR[key] for key in ("messages", "expected")}))
    (generated,) = run_benchmark(model, own, tmp_path / "answers.jsonl", max_new_tokens=12)
    assert generated.response == answer.response
    expected = find_case(model, generated, SETTINGS).case
    assert outcome.case is not None
    assert expected is not None
    assert outcome.case.model_copy(update={"id": "own:1", "source": "own:1", "written_by": ""}) == expected
    assert (outcome.case.model, outcome.case.written_by) == ("bigrams", "other")
    summary = summarize([outcome])
    assert (summary.forced, summary.own_choice) == (1, 1)


def test_a_token_that_the_model_would_not_have_chosen_is_told(tmp_path: Path) -> None:
    model = loaded(**{**COMMAS, "_cold": [".", " and", ","]})
    plain = {"prompt": "say", **{key: PAIR[key] for key in ("expected",)}, "completion": " moon is cold, a rock."}
    (answer,) = pairs(tmp_path, plain)
    outcome = find_case(model, answer, Settings(samples=0, alternatives=1, min_words=3))
    assert outcome.case is not None
    assert outcome.case.target is not None
    assert (outcome.case.target.text, outcome.case.target.rank) == (",", 3)
    assert (outcome.case.prompt, outcome.case.ids) == ("say", (2, 4, 5, 9))
    assert outcome.case.written_by == "pairs.jsonl"
    assert (summarize([outcome]).forced, summarize([outcome]).own_choice) == (1, 0)


@pytest.mark.parametrize(
    ("completion", "ended", "tried"),
    [
        (" sun is warm and cold.", None, True),  # the model would end here, too
        (" sun is warm and", None, False),
        (" sun is warm and", True, True),
        (" sun is warm and cold.", False, False),
    ],
)
def test_the_end_is_tried_where_the_answer_ended_by_itself(
    tmp_path: Path, completion: str, ended: bool | None, tried: bool
) -> None:
    said = {**PAIR, "completion": completion, "expected": {"number": 7}}
    (answer,) = pairs(tmp_path, said if ended is None else said | {"ended": ended})
    outcome = find_case(loaded(**COMMAS), answer, Settings(samples=0, alternatives=1))
    assert (len(Tokenizer()(completion)["input_ids"]) in outcome.tried) is tried


def test_continuations_may_be_as_long_as_the_answer(tmp_path: Path) -> None:
    short, long = (pairs(tmp_path, PAIR, max_new_tokens=most, tokenizer=Tokenizer())[0] for most in (2, 30))
    assert (short.max_new_tokens, long.max_new_tokens) == (7, 30)
    assert short.prompt_ids == (1, 2)
    assert short.ids == (3, 5, 8, 6, 11, 12, 10)


class Lossy(Tokenizer):
    """Drops full stops."""

    def __call__(self, text: str, **options: Any) -> dict[str, list[int]]:
        return super().__call__(text.replace(".", ""), **options)


def test_an_answer_that_the_tokens_do_not_spell_is_not_searched(tmp_path: Path) -> None:
    whole = {**PAIR, "completion": " sun is warm, a rock"}
    model = loaded(**COMMAS)
    model.tokenizer.__class__ = Lossy
    answers = pairs(tmp_path, PAIR, whole)
    lost, kept = find_cases(model, answers, tmp_path / "found.jsonl", settings=SETTINGS)
    assert lost.reason.startswith("error: this tokenizer's tokens of the response read ' sun is warm, a rock', not")
    assert kept.case is not None
    with pytest.raises(CaseError, match=r"line 1: this tokenizer's tokens of the response read"):
        pairs(tmp_path, PAIR, whole, tokenizer=Lossy())
    cut = pairs(tmp_path, whole, tokenizer=Lossy())[0]
    with pytest.raises(InputError, match="another tokenizer's"):
        tokenized(Tokenizer(), cut.model_copy(update={"ids": (3, 5, 9)}))


def test_what_a_model_generated_keeps_its_tokens(tmp_path: Path) -> None:
    own = problems("own", path=write(tmp_path / "own.jsonl", {"prompt": "say", "expected": {"excludes": [","]}}))
    (answer,) = run_benchmark(loaded(**COMMAS), own, tmp_path / "answers.jsonl", max_new_tokens=12)
    assert tokenized(Lossy(), answer) is answer


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p", "completion": "c"}, "line 1: expected: missing: nothing says what a right answer is"),
        ({"prompt": "p", "completion": " ", "expected": {"number": 1}}, "line 1: completion: a text that is not empty"),
        ({"prompt": "p", "completion": "c", "expected": {}}, "line 1: expected: at least one of"),
        ({"completion": "c", "expected": {"number": 1}}, "line 1: exactly one of prompt and messages"),
    ],
)
def test_bad_pairs(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(CaseError, match=words):
        pairs(tmp_path, row)


def test_pairs_as_cases_carry_their_verifier(tmp_path: Path) -> None:
    (case,) = convert(write(tmp_path / "pairs.jsonl", PAIR), "pairs")
    assert (case.model, case.response, case.instruction_ids) == ("other", PAIR["completion"], ("own:excludes",))


def test_a_log_is_judged_by_the_benchmark_of_its_documents(tmp_path: Path) -> None:
    right = sample(doc=DOC | {"key": 8}, resps=[[" sun is warm and cold."]], prompt_level_strict_acc=True)
    wrongly = sample(doc=DOC | {"key": 9}, prompt_level_strict_acc=True)
    plain = sample(doc=DOC | {"key": 10}, arguments=[["say", {}]])
    answers, otherwise = samples(tmp_path, sample(), right, wrongly, plain)
    assert [each.id for each in answers] == ["ifeval:7", "ifeval:8", "ifeval:9", "ifeval:10"]
    assert [each.failed for each in answers] == [True, False, True, True]
    assert otherwise == 1
    assert (answers[0].written_by, answers[3].prompt) == ("samples_x", "say")
    found = find_cases(loaded(**COMMAS), answers, tmp_path / "found.jsonl", settings=SETTINGS)
    assert [(each.id, each.clear) for each in found] == [("ifeval:7", True), ("ifeval:9", True), ("ifeval:10", True)]


GSM8K = sample(doc={"question": "say", "answer": "1 + 1 #### 2"}, resps=[["so 2\n#### 2"]], exact_match=1.0)


def test_of_the_lines_of_several_filters_one_counts(tmp_path: Path) -> None:
    strict, flexible = GSM8K | {"filter": "strict", "exact_match": 0.0}, GSM8K | {"filter": "flexible"}
    del strict["prompt_level_strict_acc"], flexible["prompt_level_strict_acc"]
    answers, otherwise = samples(tmp_path, strict, flexible)
    assert ([each.id for each in answers], answers[0].passed, otherwise) == (["gsm8k:3"], True, 1)
    assert samples(tmp_path, strict, flexible, filter="flexible")[1] == 0
    path = tmp_path / "samples_x.jsonl"
    assert [len(convert(path, "lm-eval", filter=name)) for name in (None, "flexible")] == [1, 0]
    with pytest.raises(CaseError, match=r"filter: no line has 'none'. there are: strict, flexible"):
        samples(tmp_path, strict, flexible, filter="none")


def test_an_empty_answer_of_a_log_is_dropped_with_its_reason(tmp_path: Path) -> None:
    ((answer,), _) = samples(tmp_path, sample(resps=[[""]]))
    assert find_case(loaded(**COMMAS), answer, SETTINGS).reason == NO_MODEL_ANSWER


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        ({}, {"metric": "acc_norm"}, "line 1: acc_norm: missing. there are: doc_id"),
        ({"prompt_level_strict_acc": "no"}, {}, "line 1: prompt_level_strict_acc: a number or true/false is expected"),
        ({"doc": {"text": 1, "label": 2}}, {}, "line 1: doc: no benchmark has documents with the fields text, label"),
        ({"doc": "x"}, {}, "line 1: doc: an object is expected, not str"),
        ({"doc": DOC | {"kwargs": []}}, {}, "line 1: doc: a prompt, its instructions"),
        ({"doc": {"question": "q", "answer": "2"}}, {}, "line 1: doc: the field 'answer' holds no ####"),
        ({}, {"benchmark": "math"}, "line 1: doc: the field 'solution' is missing"),
        ({"arguments": [["", {}]]}, {}, "line 1: the prompt is empty"),
    ],
)
def test_bad_samples(tmp_path: Path, changes: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(CaseError, match=words):
        samples(tmp_path, sample(**changes), **options)


def test_a_log_without_a_verdict_is_judged_nonetheless(tmp_path: Path) -> None:
    row = sample()
    del row["prompt_level_strict_acc"]
    ((answer,), otherwise) = samples(tmp_path, row)
    assert (answer.failed, otherwise) == (True, 0)


def test_all_problems_of_a_log_are_told(tmp_path: Path) -> None:
    with pytest.raises(CaseError) as caught:
        samples(tmp_path, sample(resps=[[1]]), sample(doc={}), sample(), sample())
    lines = [line.partition(", ")[2] for line in str(caught.value).splitlines()]
    assert [line[:6] for line in lines] == ["line 1", "line 2", "line 4"]
    assert lines[-1] == "line 4: id: 'ifeval:7' is already that of line 3"


def test_programs_of_a_log_are_run_only_where_that_is_allowed(tmp_path: Path) -> None:
    doc = {"task_id": "a", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    assert f() == 1\n"}
    with pytest.raises(ExecutionError, match="--allow-exec"):
        samples(tmp_path, sample(doc=doc, resps=[["    return 1\n"]]))


@pytest.mark.parametrize(
    ("form", "options", "words"),
    [
        ("trace", {}, "a trace holds its error token: it is a case already. do: --to cases"),
        ("pairs", {"metric": "acc"}, "a metric belongs to lm-eval's logs alone"),
        ("pairs", {"benchmark": "ifeval"}, "a benchmark belongs to lm-eval's logs alone"),
        ("csv", {}, "unknown format 'csv'"),
        ("lm-eval", {"benchmark": "x"}, "unknown benchmark 'x'"),
    ],
)
def test_options_are_checked(tmp_path: Path, form: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        convert_answers(write(tmp_path / "file.jsonl", sample()), form, **options)


def test_a_sweep_of_cases_without_error_tokens_says_how_to_find_them(tmp_path: Path) -> None:
    write_cases(tmp_path / "cases.jsonl", convert(write(tmp_path / "pairs.jsonl", PAIR), "pairs"))
    with pytest.raises(CaseError, match=r"none has target and contrast\. do: cases find looks for them in answers"):
        chosen(tmp_path / "cases.jsonl", None, None)


def test_from_a_log_to_cases_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_load", lambda *_, **__: loaded(**COMMAS))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "log.jsonl", sample(), sample(doc=DOC | {"key": 8}, prompt_level_strict_acc=True))
    calls = (
        "convert log.jsonl --from lm-eval --to answers -o answers.jsonl",
        "find made answers.jsonl -o found.jsonl --cases cases.jsonl --samples 0",
        "find made answers.jsonl -o found.jsonl --samples 0",
    )
    made, found, again = (CliRunner().invoke(command.app, call.split()) for call in calls)
    assert made.exit_code == found.exit_code == again.exit_code == 0, made.output + found.output + again.output
    told = {" ".join(line.split()) for line in (made.output + found.output).splitlines()}
    assert {"answers 2", "fail 2", "judged otherwise by lm-eval 1"} <= told
    assert {"of answers written elsewhere (teacher-forced) 2", "whose target is the model's choice, too 2"} <= told
    assert len(read_answers("answers.jsonl")) == len(read_cases("cases.jsonl")) == 2
    for words, text in (("--to nothing", "choices: cases, answers"), ("--benchmark math", "do: --to answers")):
        done = CliRunner().invoke(command.app, [*calls[0].replace("--to answers", "").split(), *words.split()])
        assert isinstance(done.exception, InputError)
        assert text in str(done.exception)
