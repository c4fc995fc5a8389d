"""Numbers, boxes and programs as answers, by the benchmarks' rules; their files; their way through run and find."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from bigrams import COMMAS, loaded
from typer.testing import CliRunner

from lrp_hooks.cases.answers.run import run_benchmark
from lrp_hooks.cases.benchmarks.problem import Problem
from lrp_hooks.cases.benchmarks.registry import problems
from lrp_hooks.cases.sandbox import execution_allowed
from lrp_hooks.cases.search.find import find_case, find_cases
from lrp_hooks.cases.search.stages import Settings
from lrp_hooks.cases.verify import instruction
from lrp_hooks.cases.verify.code import program
from lrp_hooks.cases.verify.latex import boxed, normalized
from lrp_hooks.cli import cases as command
from lrp_hooks.errors import CaseError, ExecutionError, InputError


@pytest.mark.parametrize(
    ("text", "strict", "loose"),
    [
        ("so 9 + 9 = 18\n#### 18", True, True),
        ("#### $1,800", False, False),
        ("#### $18.00", True, True),
        ("#### 18\n#### 19", True, True),  # the first mark counts
        ("#### 19, no, 18", False, True),
        ("She has 18 eggs.", False, True),
        ("She has 18 eggs and 2 ducks", False, False),
        ("#### -18", False, False),
        ("from 3-18", False, True),
        ("#### eighteen", False, False),
        ("", False, False),
    ],
)
def test_numbers(text: str, strict: bool, loose: bool) -> None:
    wanted = instruction("gsm8k:number", {"expected": "18"})
    assert (wanted.passes(text), wanted.passes_loosely(text)) == (strict, loose)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (r"\boxed{1} and \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"$\fbox{3}$", "3"),
        (r"$\boxed 5$ is it", "5"),
        (r"\boxed{1", None),
        ("5", None),
    ],
)
def test_boxes(text: str, found: str | None) -> None:
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        ("1/2", r"\frac{1}{2}"),
        ("0.5", ".5"),
        (r"\left( 3, \frac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        ("x = 5", "5"),
        (r"5\text{ cm}", "5"),
        (r"90^\circ", "90"),
        (r"\sqrt3", r"\sqrt{3}"),
        (r"50\%", "50"),
        (r"\frac{1}3", r"\frac{1}{3}"),
    ],
)
def test_forms_of_one_answer(one: str, other: str) -> None:
    assert normalized(one) == normalized(other)
    assert instruction("math:boxed", {"expected": other}).passes(rf"so \boxed{{{one}}}.")


def test_forms_of_different_answers() -> None:
    wanted = instruction("math:boxed", {"expected": r"\frac{3}{4}"})
    assert not wanted.passes(r"\boxed{0.75}")
    assert wanted.passes_loosely(r"\boxed{0.75}")
    assert wanted.passes_loosely("it is 0.75")
    assert not wanted.passes_loosely(r"it is 0.75, \boxed{\frac{4}{3}}")
    assert normalized("2x+1") != normalized("1+2x")


PROMPT = 'def f(x):\n    """Add one."""\n'
TESTED = {"prompt": PROMPT, "entry_point": "f", "test": "def check(candidate):\n    assert candidate(2) == 3\n"}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("    return x + 1\n", True),
        ("    return x + 1\n\nprint(f(1))", True),
        ("Sure:\n```python\ndef f(x):\n    return x + 1\n```\nDone.", True),
        ("```\n    return x + 1\n```", True),
        ("```python\ny = 1\n```\n```python\ndef f(x):\n    return x + 1", True),
        ("    return x\n", False),
        ("I cannot do that.", False),
    ],
)
def test_programs(text: str, right: bool) -> None:
    wanted = instruction("code:tests", TESTED)
    with execution_allowed(isolated=False):
        assert wanted.passes(text) is right


def test_a_whole_function_keeps_the_imports_of_the_prompt() -> None:
    made = program("import math\n" + PROMPT, "f", "```python\ndef f(x):\n    return math.floor(x) + 1\n```")
    names: dict[str, Any] = {}
    exec(made, names)
    assert names["f"](2) == 3


def write(path: Path, *rows: dict[str, Any]) -> Path:
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def test_published_formats(tmp_path: Path) -> None:
    published = {"question": "How many?", "answer": "9+9 #### 18"}
    gsm = problems(
        "gsm8k", path=write(tmp_path / "g.jsonl", published, {"id": "a", "prompt": "How?", "expected": "1,000"})
    )
    assert [each.id for each in gsm] == ["gsm8k:1", "gsm8k:a"]
    assert gsm[0].parameters == ({"expected": "18"},)
    solved = {"problem": "Solve", "solution": r"It is $\boxed{\frac12}$."}
    maths = problems("math", path=write(tmp_path / "m.jsonl", solved, {"problem": "P", "answer": "7"}))
    assert [each.parameters[0]["expected"] for each in maths] == [r"\frac12", "7"]
    code = {"task_id": "HumanEval/0", **TESTED}
    (human,) = problems("humaneval", path=write(tmp_path / "h.jsonl.gz", code))
    assert human.id == "humaneval:HumanEval/0"
    assert human.executes
    assert PROMPT.rstrip() in human.prompt


@pytest.mark.parametrize(("text", "right"), [("    return x + 1\n", True), ("    return 3\n", False)])
def test_evalplus_compares_with_the_reference(tmp_path: Path, text: str, right: bool) -> None:
    row = {"task_id": "HumanEval/0", "prompt": PROMPT, "entry_point": "f", "canonical_solution": "    return x + 1\n"}
    inputs = {"base_input": [[2]], "plus_input": [[2], [0.1]], "atol": 0}
    (made,) = problems("evalplus", path=write(tmp_path / "e.jsonl", row | inputs))
    with execution_allowed(isolated=False):
        assert made.verify(text).passed is right


@pytest.mark.parametrize(
    ("name", "row", "words"),
    [
        ("gsm8k", {"question": "q", "answer": "18"}, "line 1: the field 'answer' holds no ####"),
        ("gsm8k", {"prompt": "q", "expected": "x"}, "line 1: the expected answer 'x' is no number"),
        ("math", {"problem": "q", "solution": "7"}, "line 1: the field 'solution' holds no"),
        ("humaneval", {"task_id": "a", "prompt": "p", "entry_point": "f"}, "line 1: the field 'test' is missing"),
        ("evalplus", {"base_input": 5}, "line 1: the fields 'base_input'"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, name: str, row: dict[str, Any], words: str) -> None:
    with pytest.raises(CaseError, match=words):
        problems(name, path=write(tmp_path / "bad.jsonl", row))


def test_choices() -> None:
    with pytest.raises(InputError, match=r"unknown benchmark 'x'\. choices: ifeval, gsm8k"):
        problems("x")
    with pytest.raises(InputError, match="--data"):
        problems("math")
    with pytest.raises(InputError, match="only IFEval"):
        problems("gsm8k", instruction="punctuation:no_comma")


def test_code_is_refused_before_the_first_answer(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    asked = Problem("humaneval", "a", "say", ("code:tests",), (TESTED,))
    path = tmp_path / "answers.jsonl"
    with pytest.raises(ExecutionError, match="--allow-exec"):
        run_benchmark(model, [asked], path, max_new_tokens=12)
    assert not path.exists()
    with execution_allowed(isolated=False):
        (answer,) = run_benchmark(model, [asked], path, max_new_tokens=12)
    assert answer.failed
    with pytest.raises(ExecutionError, match="--allow-exec"):
        find_cases(model, [answer], tmp_path / "found.jsonl")


def test_the_command_line_refuses_before_it_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write(tmp_path / "h.jsonl", {"task_id": "a", **TESTED})
    monkeypatch.setattr(command, "_load", lambda *_, **__: pytest.fail("loaded"))
    words = ["run", "made", "--benchmark", "humaneval", "--data", str(data), "-o", str(tmp_path / "a.jsonl")]
    done = CliRunner().invoke(command.app, words)
    assert isinstance(done.exception, ExecutionError)


def test_a_wrong_answer_is_searched_without_one_way_errors(tmp_path: Path) -> None:
    model = loaded(**COMMAS)
    asked = Problem("gsm8k", "a", "say", ("gsm8k:number",), ({"expected": "18"},))
    (answer,) = run_benchmark(model, [asked], tmp_path / "answers.jsonl", max_new_tokens=12)
    assert (answer.failed, answer.loosely) == (True, False)
    outcome = find_case(model, answer, Settings(samples=0))
    assert outcome.case is None
    assert "error" not in outcome.reason
