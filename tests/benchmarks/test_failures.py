"""Figures of failures: their page is the result's, words to flip are counted by kind, commands are ones that exist."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer

from benchmarks.failures import BEGIN, END, PAGE, RESULT, by_kind, figures, stages
from lrp_hooks.cases.sweep.records import Validated
from lrp_hooks.cases.validation.validate import Flip, Validation
from lrp_hooks.cli.app import app


def test_the_pages_figures_are_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) : text.index(END) + len(END)] == figures(json.loads(RESULT.read_text()))


def test_words_to_flip_by_kind() -> None:
    def validated(case: str, *flips: tuple[str, int | None]) -> Validated:
        made = tuple(Flip(ranking=ranking, replacement="neutral", changed=changed) for ranking, changed in flips)
        return Validated(case=case, model="m", validation=Validation(words=20, most=8, flips=made))

    report = SimpleNamespace(
        cases=[SimpleNamespace(id=name, kind=kind) for name, kind in (("a", "first"), ("b", "first"), ("c", "end"))],
        validated=[
            validated("a", ("attnlrp", 1), ("random", 2), ("random", None)),
            validated("b", ("attnlrp", None), ("random", 4), ("random", 6)),
            validated("c", ("attnlrp", 3)),
            Validated(case="d", model="m"),
        ],
    )
    assert by_kind(report) == [
        {"kind": "first", "cases": 2, "attnlrp": 4.5, "random": 5.0},
        {"kind": "end", "cases": 1, "attnlrp": 3.0},
    ]


@pytest.mark.parametrize("stage", ["run", "find", "sweep"])
def test_stages_are_commands_of_the_command_line(stage: str, tmp_path: Path) -> None:
    words = stages(tmp_path, 3)[stage]
    command = typer.main.get_command(app)
    while words[0] in getattr(command, "commands", {}):
        command = command.commands[words[0]]  # type: ignore[attr-defined]
        words = words[1:]
    (tmp_path / "answers.jsonl").touch()
    (tmp_path / "cases.jsonl").touch()
    assert command.make_context(stage, list(words)).params  # unknown options raise
