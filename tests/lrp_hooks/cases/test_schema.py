"""Cases as files: what is written is read, and every problem has a line and a field."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrp_hooks.cases.conversion.lm_eval import Log, from_lm_eval
from lrp_hooks.cases.conversion.pairs import from_pairs
from lrp_hooks.cases.jsonl import Appender, read_objects
from lrp_hooks.cases.schema import Case, CaseToken, Message, Span, case_from, read_cases, to_line, write_cases
from lrp_hooks.errors import CaseError, LrpError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
TOKENS = st.builds(CaseToken, id=st.integers(0, 9), text=TEXT, rank=st.integers(1, 5), logit=st.floats(-9, 9))


@st.composite
def cases(draw: Any) -> Case:
    content = draw(TEXT)
    span = Span(name=draw(TEXT), start=0, stop=len(content), message=0)
    return Case(
        id=draw(TEXT),
        messages=(Message(role="user", content=content),),
        completion=draw(TEXT),
        ids=tuple(draw(st.lists(st.integers(0, 9), max_size=3))),
        target=draw(TOKENS),
        contrast=CaseToken(id=draw(st.integers(10, 19))),
        position=draw(st.none() | st.integers(0, 9)),
        segments=(span,) if draw(st.booleans()) else (),
        source=draw(TEXT),
    )


@settings(deadline=None, database=None, max_examples=50)
@given(made=st.lists(cases(), max_size=4, unique_by=lambda case: case.id))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, made: list[Case]) -> None:
    path = tmp_path_factory.mktemp("cases") / "cases.jsonl"
    write_cases(path, made)
    assert read_cases(path) == made


def test_delta_logit() -> None:
    case = Case(id="a", prompt="p", target=CaseToken(id=1, logit=3.5), contrast=CaseToken(id=2, logit=1.0))
    assert case.delta_logit == 2.5
    assert Case(id="a", prompt="p", target=CaseToken(id=1)).delta_logit is None


MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p"}, "line 1: id: Field required"),
        ({"id": "", "prompt": "p"}, "line 1: id: String should have at least 1 character"),
        ({"id": "a"}, "line 1: exactly one of prompt and messages is needed"),
        ({"id": "a", "prompt": "p", "messages": MESSAGES}, "exactly one of prompt and messages"),
        ({"id": "a", "prompt": " "}, "the prompt is empty"),
        ({"id": "a", "prompt": ""}, "the prompt is empty"),
        ({"id": "a", "messages": []}, "messages: Tuple should have at least 1 item"),
        ({"id": "a", "messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"id": "a", "prompt": "p", "target": {}}, "target: a token needs an id or a text"),
        ({"id": "a", "prompt": "p", "target": {"id": -1}}, "target.id: Input should be greater than or equal to 0"),
        ({"id": "a", "prompt": "p", "target": {"id": "5"}}, "target.id: Input should be a valid integer"),
        ({"id": "a", "prompt": "p", "target": {"id": 1}, "contrast": {"id": 1}}, "are the same token"),
        ({"id": "a", "prompt": "p", "spans": []}, "spans: Extra inputs are not permitted"),
        ({"id": "a", "prompt": "p", "segments": [{"name": "q", "start": 0, "stop": 2}]}, "its text has 1 characters"),
        ({"id": "a", "prompt": "p", "segments": [{"name": "q", "start": 1, "stop": 1}]}, "holds no character"),
        ({"id": "a", "messages": MESSAGES, "segments": [{"name": "q", "start": 0, "stop": 1}]}, "message None is none"),
        (
            {"id": "a", "prompt": "p", "segments": [{"name": "q", "start": 0, "stop": 1, "message": 0}]},
            "there are no messages",
        ),
    ],
)
def test_a_problem_has_its_line_and_field(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(CaseError, match=words.replace("(", r"\(")):
        read_cases(path)


def test_all_problems_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"id": "a", "prompt": "p"}\n\n{"id": 1, "prompt": 2}\n{"id": "a", "prompt": "q"}\n')
    with pytest.raises(CaseError) as raised:
        read_cases(path)
    assert [line.removeprefix(f"{path}, ") for line in str(raised.value).splitlines()] == [
        "line 3: id: Input should be a valid string",
        "line 3: prompt: Input should be a valid string",
        "line 4: id: 'a' is already that of line 1",
    ]


def test_many_problems_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("{}\n" * 23)
    with pytest.raises(CaseError, match=r"line 20: id: Field required\nand 3 more$"):
        read_cases(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"id": "a"', "line 1: no JSON"),
        ("[1]", "line 1: an object is expected, not list"),
        ("[" * 100_000, "line 1: no JSON"),
    ],
)
def test_lines_that_are_no_objects(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(text)
    with pytest.raises(CaseError, match=words):
        read_cases(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match=r"cannot read .*missing"):
        read_cases(tmp_path / "missing")
    (tmp_path / "latin").write_bytes(b'{"id": "\xe9"}')
    with pytest.raises(CaseError, match=r"cannot read .*latin"):
        read_cases(tmp_path / "latin")


def test_two_cases_with_one_id_are_not_written(tmp_path: Path) -> None:
    case = Case(id="a", prompt="p")
    with pytest.raises(CaseError, match=r"two cases have the id 'a'"):
        write_cases(tmp_path / "cases.jsonl", [case, case])
    assert not list(tmp_path.iterdir())


def test_an_appender_cuts_off_half_a_line_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "lines.jsonl"
    with Appender(path) as lines:
        lines.append({"id": "ä"})
    with path.open("ab") as file:
        file.write(b'{"id": "ha')  # what a killed run leaves
    with Appender(path) as lines:
        lines.append({"id": "b"})
    assert [row["id"] for _, row in read_objects(path)] == ["ä", "b"]


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with Appender(tmp_path / "lines.jsonl") as lines, pytest.raises(CaseError, match=r"No space left on device"):
        lines.append({"id": "a"})


def test_two_runs_do_not_write_to_one_file(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    with Appender(path), pytest.raises(CaseError, match=r"another run is writing to .*lines.jsonl"):
        Appender(path)
    Appender(path).close()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LrpError, match=r"cannot write .*do: choose another file"):
        Appender(tmp_path / "file" / "lines.jsonl")


def test_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "p", "completion": "c"}\n{"id": 7, "prompt": "q", "completion": "d"}\n')
    first, second = from_pairs(path)
    assert (first.id, first.prompt, first.response, first.source) == ("line-1", "p", "c", "pairs.jsonl")
    assert second.id == "7"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "p", "completion": " "}', "line 1: completion: a text that is not empty"),
        ('{"completion": "c"}', "line 1: exactly one of prompt and messages"),
        ('{"prompt": "p", "completion": "c", "x": 1}', "line 1: x: Extra inputs are not permitted"),
        (
            '{"id": "a", "prompt": "p", "completion": "c"}\n{"id": "a", "prompt": "p", "completion": "c"}',
            "line 2: id: .a. is already that of line 1",
        ),
    ],
)
def test_bad_pairs(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(line)
    with pytest.raises(CaseError, match=words):
        from_pairs(path)


def sample(**changes: Any) -> dict[str, Any]:
    row = {
        "doc_id": 3,
        "doc": {"key": 1000},
        "target": 0,
        "arguments": {"gen_args_0": {"arg_0": "Say it.", "arg_1": {"until": []}}},
        "resps": [["No, never."]],
        "filtered_resps": ["No, never."],
        "prompt_level_strict_acc": False,
    }
    return row | changes


def test_lm_eval_sample_logs(tmp_path: Path) -> None:
    path = tmp_path / "samples_ifeval.jsonl"
    chat = json.dumps([{"role": "user", "content": "Say it."}])
    rows = [
        sample(),
        sample(doc_id=4, prompt_level_strict_acc=True),
        sample(doc_id=5, arguments=[["Say it.", {"until": []}]]),
        sample(doc_id=6, arguments={"gen_args_0": {"arg_0": chat}}),
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain, old, messages = from_lm_eval(Log(path))
    assert to_line(plain) == {
        "id": "doc-3",
        "prompt": "Say it.",
        "response": "No, never.",
        "source": "samples_ifeval",
    }
    assert (old.id, old.prompt) == ("doc-5", "Say it.")
    assert messages.messages == (Message(role="user", content="Say it."),)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resps": [[["-1.5", False]]]}, None),
        ({"resps": [[1.5]]}, "resps: no text"),
        ({"arguments": {}}, "arguments: no text"),
        ({"prompt_level_strict_acc": "no"}, "prompt_level_strict_acc: a number or true/false is expected"),
    ],
)
def test_bad_lm_eval_samples(tmp_path: Path, changes: dict[str, Any], words: str | None) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(sample(**changes)))
    if words is None:
        assert from_lm_eval(Log(path))[0].response == "-1.5"
        return
    with pytest.raises(CaseError, match=f"line 1: {words}"):
        from_lm_eval(Log(path))


def test_a_metric_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_text(json.dumps(sample()))
    with pytest.raises(CaseError, match=r"line 1: accuracy: missing. there are: doc_id"):
        from_lm_eval(Log(path, metric="accuracy"))


def test_case_from_names_where() -> None:
    with pytest.raises(CaseError, match=r"^here: id: Field required"):
        case_from({"prompt": "p"}, "here")
