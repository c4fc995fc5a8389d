"""Traces of agents: messages, the place of the error, the tokens there; every problem with its place and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import loaded
from typer.testing import CliRunner

from lrp_hooks.cases.conversion.convert import convert
from lrp_hooks.cases.conversion.traces import from_traces
from lrp_hooks.cases.inputs import case_input
from lrp_hooks.cases.schema import read_cases
from lrp_hooks.cli.app import app
from lrp_hooks.errors import CaseError, InputError

ARGUMENTS = '{"day": "2024-01-05"}'
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "be short"},
    {"role": "user", "content": [{"type": "text", "text": "book it "}, {"type": "text", "text": "for me"}]},
    {
        "role": "assistant",
        "content": None,
        "reasoning": "a field of another program",
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": {"q": "é"}}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "free: 2024-01-07"},
    {
        "role": "assistant",
        "content": "sure",
        "tool_calls": [
            {"id": "c2", "type": "function", "function": {"name": "note", "arguments": "{}"}},
            {"id": "c3", "type": "function", "function": {"name": "book", "arguments": ARGUMENTS}},
        ],
    },
    {"role": "tool", "tool_call_id": "c3", "content": "done"},
]
SAID = (
    'sure\n<tool_call>\n{"name": "note", "arguments": {}}\n</tool_call>'
    '\n<tool_call>\n{"name": "book", "arguments": {"day": "2024-01-05"}}\n</tool_call>'
)
IN_CALL = {"message": 4, "tool_call": 1, "text": "2024-01-05"}


def trace(**changes: Any) -> dict[str, Any]:
    return {"messages": MESSAGES, "error": IN_CALL, "expected": "2024-01-07", "id": "a", "score": 0.0} | changes


def written(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_trace_becomes_a_case(tmp_path: Path) -> None:
    (case,) = from_traces(written(tmp_path, trace(model="agent")))
    assert case.messages is not None
    assert [(m.role, m.content) for m in case.messages] == [
        ("system", "be short"),
        ("user", "book it for me"),
        ("assistant", '<tool_call>\n{"name": "find", "arguments": {"q": "é"}}\n</tool_call>'),
        ("tool", "free: 2024-01-07"),
    ]
    assert case.response == SAID
    assert case.completion == SAID[: SAID.index("05")] + "0"
    assert (case.target.text, case.contrast.text) == ("5", "7")  # type: ignore[union-attr]
    assert (case.id, case.kind, case.model, case.source) == ("a", "given", "agent", "traces.jsonl")
    named = [(s.name, s.message, case.messages[s.message or 0].content[s.start : s.stop]) for s in case.segments]
    assert named == [
        ("system", 0, "be short"),
        ("user", 1, "book it for me"),
        ("assistant", 2, case.messages[2].content),
        ("tool (find)", 3, "free: 2024-01-07"),
    ]


def test_a_role_that_comes_again_is_numbered(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": ""},
        {"role": "user", "content": "c"},
        {"role": "assistant", "content": "it is so"},
    ]
    (case,) = from_traces(written(tmp_path, trace(messages=turns, error={"message": 4, "text": "is"}, expected="was")))
    assert [(s.name, s.message) for s in case.segments] == [("user 0", 0), ("assistant", 1), ("user 3", 3)]
    assert (case.completion, case.target.text, case.contrast.text) == ("it ", "is", "was")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("error", "before"),
    [
        ({"message": 4, "text": "2024-01-05"}, SAID[: SAID.index("5")]),
        ({"message": 4, "start": SAID.index("2024"), "text": "2024-01-05"}, SAID[: SAID.index("5")]),
        (
            {"message": 4, "tool_call": 1, "start": ARGUMENTS.index("2024"), "text": "2024-01-05"},
            SAID[: SAID.index("5")],
        ),
        ({"message": 4, "tool_call": 1, "start": ARGUMENTS.index("day"), "text": "day"}, SAID[: SAID.index("day")]),
        ({"message": 4, "tool_call": 0, "start": 0, "text": "{}"}, SAID[: SAID.index("{}")]),
        ({"message": 4, "start": 0, "text": "sure"}, ""),
    ],
)
def test_the_place_of_the_error(tmp_path: Path, error: dict[str, Any], before: str) -> None:
    (case,) = from_traces(written(tmp_path, trace(error=error)))
    assert case.completion == before


def test_with_a_tokenizer_target_and_contrast_are_single_tokens(tmp_path: Path) -> None:
    model = loaded()
    turns = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "it was abc"}]
    rows = trace(messages=turns, error={"message": 1, "start": 7}, expected="axe")
    (case,) = from_traces(written(tmp_path, rows), model.tokenizer)
    token = model.tokenizer.convert_tokens_to_ids
    assert (case.completion, case.position) == ("it was a", 8)
    assert (case.target.id, case.contrast.id) == (token("b"), token("x"))  # type: ignore[union-attr]
    given = case_input(model, case)
    assert "".join(text.text for text in given.texts) == "<user>say<answer>it was a"
    assert given.names == ["special", "user", "user", "user", "special", *["answer"] * 8]


def test_a_token_that_holds_the_common_beginning_is_not_split(tmp_path: Path) -> None:
    """`ab` and `ax` are one token each: the pair is these, and `a` is not part of the answer so far."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["<unk>", "it ", "ab", "ax", "q"])}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("it |ab|ax|q"), "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "it ab"}]
    row = trace(messages=turns, error={"message": 1, "start": 3}, expected="ax")
    (case,) = from_traces(written(tmp_path, row), fast)
    assert (case.completion, case.ids) == ("it ", (4, 1))
    assert (case.target.text, case.contrast.text) == ("ab", "ax")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expected": None}, "expected: Input should be a valid string"),
        ({"error": {"message": 9, "text": "x"}}, "error.message: 9 is none of 6 messages"),
        ({"error": {"message": 1, "text": "x"}}, "error.message: message 1 is no answer ('user')"),
        ({"error": {"message": 4}}, "error: start or text is needed"),
        ({"error": {**IN_CALL, "wher": 1}}, "error.wher: Extra inputs are not permitted"),
        ({"error": {**IN_CALL, "tool_call": 2}}, "error.tool_call: 2 is none of 2 calls"),
        ({"error": {**IN_CALL, "text": "2"}}, "error.text: '2' is there 2 times. do: give error.start"),
        ({"error": {**IN_CALL, "text": "never"}}, "error.text: 'never' is there 0 times"),
        ({"error": {**IN_CALL, "start": 3}}, "error.text: '2024-01-05' does not stand at 3"),
        ({"error": {"message": 4, "start": 999}}, "error.start: 999 is outside the text of"),
        ({"error": {"message": 4, "start": 0}}, "expected: without a tokenizer error.text is needed"),
        ({"error": {**IN_CALL, "text": "2024-"}}, "expected: '2024-01-07' differs only behind error.text"),
        ({"expected": "2024"}, "expected: '2024' does not differ from what was said"),
        ({"messages": [MESSAGES[0], {"role": "bot", "content": "x"}]}, "messages.1.role: Input should be 'system'"),
        ({"messages": [MESSAGES[0], {"role": "user"}]}, "messages.1: content or tool_calls is needed"),
        ({"messages": [{**MESSAGES[2], "role": "user"}] * 2}, "messages.0: only the assistant calls tools, not 'user'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "text": ""}]}] * 2},
            "type: Input should be 'text'",
        ),
    ],
)
def test_problems_are_named_with_line_and_field(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = written(tmp_path, trace(id="fine"), trace(**changes))
    with pytest.raises(CaseError) as caught:
        from_traces(path)
    assert all(line.startswith(f"{path}, line 2: ") for line in str(caught.value).splitlines())
    assert words in str(caught.value)


def test_all_problems_of_a_file_are_listed(tmp_path: Path) -> None:
    path = written(tmp_path, trace(), trace(), trace(id="b", expected=""), trace(id="c", error={}))
    with pytest.raises(CaseError) as caught:
        from_traces(path)
    assert [line.removeprefix(f"{path}, ") for line in str(caught.value).splitlines()] == [
        "line 2: id: 'a' is already that of line 1",
        "line 3: expected: String should have at least 1 character",
        "line 4: error.message: Field required",
    ]


def test_a_document_may_be_one_trace_or_a_list(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    path.write_text(json.dumps(trace(), indent=1))
    assert [case.id for case in from_traces(path)] == ["a"]
    path.write_text(json.dumps([trace(), trace(id=7), {k: v for k, v in trace().items() if k != "id"}], indent=1))
    assert [case.id for case in from_traces(path)] == ["a", "7", "trace-3"]
    path.write_text(json.dumps([trace(), 3]))
    with pytest.raises(CaseError, match="item 1: an object is expected, not int"):
        from_traces(path)
    path.write_text("{\n")
    with pytest.raises(CaseError, match="line 1: no JSON"):
        from_traces(path)
    with pytest.raises(CaseError, match="cannot read"):
        from_traces(tmp_path / "missing.json")


def test_options_that_a_format_has_no_use_for_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, trace())
    for form, options, words in (
        ("csv", {}, "unknown format 'csv'. choices: lm-eval, pairs, trace"),
        ("trace", {"metric": "acc"}, "a metric belongs to"),
        ("pairs", {"tokenizer": object()}, "only cases from traces have a use for a tokenizer"),
    ):
        with pytest.raises(InputError) as caught:
            convert(path, form, **options)  # type: ignore[arg-type]
        assert words in str(caught.value)


def test_convert_on_the_command_line(tmp_path: Path) -> None:
    from tiny import save

    folder, out = save(tmp_path / "model"), tmp_path / "cases.jsonl"
    turns = [{"role": "user", "content": "say"}, {"role": "assistant", "content": "abc"}]
    path = written(tmp_path, trace(messages=turns, error={"message": 1, "text": "b"}, expected="x"))
    words = ["cases", "convert", str(path), "--from", "trace", "-o", str(out), "--tokenizer", str(folder)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "1 cases, 1 with target and contrast" in done.output
    assert [case.target.text for case in read_cases(out) if case.target] == ["b"]
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "p", "completion": "c"}\n')
    done = CliRunner().invoke(app, ["cases", "convert", str(pairs), "--from", "pairs", "-o", str(out)])
    assert "1 cases, 0 with target and contrast" in done.output
    assert read_cases(out)[0].response == "c"
