"""``lrp-hooks cases`` from the prompts to the cases, on a model with planted preferences."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bigrams import COMMAS, loaded
from rich.console import Console
from typer.testing import CliRunner

from lrp_hooks.cases.answers.run import Pace
from lrp_hooks.cases.schema import read_cases
from lrp_hooks.cli import cases as command
from lrp_hooks.errors import InputError

ROW = {"prompt": "say", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(command, "_load", lambda *_, **__: loaded(**COMMAS))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(ROW | {"key": key}) + "\n" for key in (1, 2, 3)))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(command.app, [str(word) for word in words])


RUN = ("run", "made", "--data", "data.jsonl", "-o", "answers.jsonl", "--max-new-tokens", 12)


def test_from_prompts_to_cases(cli: Any) -> None:
    done = cli(*RUN)
    assert done.exit_code == 0, done.output
    assert "fail                       3" in done.output
    assert "3/3 prompts" in done.output
    done = cli("find", "made", "answers.jsonl", "-o", "found.jsonl", "--cases", "cases.jsonl", "--samples", 0)
    assert done.exit_code == 0, done.output
    lines = {" ".join(line.split()) for line in done.output.splitlines()}
    assert {"failed answers searched 3", "cases 3", "target leads by > 1 logit 3", "found by one-way 3"} <= lines
    assert "clear case rate 100.0%" in done.output
    assert [case.contrast.text for case in read_cases("cases.jsonl") if case.contrast] == [" and"] * 3


def test_limits(cli: Any) -> None:
    assert "answers                    2" in cli(*RUN, "--limit", 2).output
    found = cli("find", "made", "answers.jsonl", "-o", "found.jsonl", "--limit", 1, "--samples", 0).output
    assert "failed answers searched 1" in " ".join(found.split())


def test_an_unknown_goal_is_an_error(cli: Any) -> None:
    done = cli("find", "made", "answers.jsonl", "-o", "found.jsonl", "--goal", "win")
    assert isinstance(done.exception, InputError)
    assert "unknown goal 'win'. choices: repair, pass" in str(done.exception)


def test_progress_counts_tokens_only_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    notes = Console(file=sys.stdout, width=100)
    with command.progress(notes, "items") as tell:
        tell(Pace(1, 2, 0, 3.0, 120.0))
        tell(Pace(2, 2, 30, 3.0, None))
    assert capsys.readouterr().out == "1/2 items, 2 min left\n2/2 items, 10 tokens/s\n"
