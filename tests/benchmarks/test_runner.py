"""The runner: gates, regressions beyond noise, what is skipped on resuming, another commit's library, the page."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import benchmarks.__main__ as command
from benchmarks import base, report, run
from benchmarks.measure import METRICS_VARIABLE, smoke_metrics
from benchmarks.plots import write_plots
from benchmarks.suites import SUITES, Bound, Suite, Table, table

ROOT = Path(__file__).parents[2]
RATIO = Suite("one", "?", ("tests/x.py",), bounds={"ratio": Bound(0.1)}, smoke=True)
SCORE = Suite("two", "?", ("tests/x.py",), bounds={"auc": Bound(0.1, smaller_is_better=False)}, smoke=True)


@pytest.mark.parametrize("suite", SUITES, ids=lambda suite: suite.name)
def test_every_suite_has_a_module_and_gates_that_exist(suite: Suite) -> None:
    module = ROOT / "benchmarks" / suite.name
    assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()
    assert suite.gate
    assert all((ROOT / test).exists() for test in suite.gate)
    assert suite.columns or suite.page
    assert set(suite.bounds) == set() or suite.smoke


def test_every_measuring_module_is_a_suite() -> None:
    """What can be run as a benchmark and writes a result has a row in the table."""
    names = {suite.name for suite in SUITES}
    for path in (ROOT / "benchmarks").rglob("*.py"):
        if "write_result(\n" in path.read_text() or 'write_result("' in path.read_text():
            name = path.parent.name if path.name == "__main__.py" else path.stem
            assert name in names | {"measure"}, path


def test_worse_by_more_than_noise_is_a_regression_and_by_less_is_none() -> None:
    before = {"one": {"ratio": 1.0}, "two": {"auc": 0.9}}
    assert run.regressions([RATIO, SCORE], {"one": {"ratio": 1.09}, "two": {"auc": 0.82}}, before) == []
    assert run.regressions([RATIO], {"one": {"ratio": 1.11}}, before) == [
        "one: ratio 1.110 is beyond 1.100 (committed: 1.000)"
    ]
    assert "beyond 0.810" in run.regressions([SCORE], {"two": {"auc": 0.80}}, before)[0]
    assert run.regressions([RATIO], {"one": {"ratio": 0.2}}, before) == []


def test_a_number_that_does_not_come_is_a_regression() -> None:
    assert run.regressions([RATIO], {}, {}) == ["one: its smoke profile gave no ratio"]


def test_committed_smoke_numbers_are_those_of_the_bounds() -> None:
    for suite in SUITES:
        if suite.smoke and suite.name in run.committed():
            assert set(run.committed()[suite.name]) == set(suite.bounds)


def test_smoke_numbers_reach_the_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smoke_metrics("one", {"ratio": 3.0})  # nobody listens
    monkeypatch.setenv(METRICS_VARIABLE, str(tmp_path / "numbers"))
    smoke_metrics("one", {"ratio": 2.0})
    assert json.loads((tmp_path / "numbers").read_text()) == {"suite": "one", "values": {"ratio": 2.0}}


def test_a_red_gate_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []
    at(tmp_path / "run.json", monkeypatch)
    monkeypatch.setattr(run, "run", lambda suite, *words, **more: ran.append(suite.name) or True)
    monkeypatch.setattr(run, "write_report", lambda: None)
    red = replace(RATIO, gate=("tests/there_is_no_such_test.py",))
    assert run.run_all([red], resume=False) == 1
    assert ran == []
    assert "nothing is measured" in capsys.readouterr().err
    green = replace(RATIO, gate=("tests/benchmarks/test_runner.py::test_the_table_is_markdown",))
    assert not (tmp_path / "run.json").exists()
    assert run.run_all([green], resume=False) == 0
    assert ran == ["one"]


def at(times: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of suites are kept there, and results beside them."""
    monkeypatch.setattr(run, "RESULTS", times.parent)
    monkeypatch.setattr(run, "TIMES", times)
    monkeypatch.setattr(report, "TIMES", times)


def test_times_are_remembered_of_whole_runs_that_came_to_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at(tmp_path / "run.json", monkeypatch)
    monkeypatch.setattr(run, "SCRATCH", tmp_path)
    monkeypatch.setattr(run, "gate_is_green", lambda suite: True)

    def suite_runs(suite: Suite, *words: str, **more: Any) -> bool:
        if suite.name != "three":
            (tmp_path / f"{suite.name}.json").write_text("{}")
        return suite.name == "one"

    monkeypatch.setattr(run, "run", suite_runs)
    (tmp_path / "two.jsonl").touch()
    assert run.measured(RATIO)
    assert not run.measured(SCORE)  # a limit was missed, but there is a result
    assert not run.measured(replace(RATIO, name="three"))
    times = report.read_times()
    assert list(times) == ["one", "two"]
    assert times["one"]["seconds"] >= 0
    assert times["two"]["seconds"] is None
    assert times["one"]["threads"] >= 1


def test_the_time_of_everything_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {"seconds": 90.0, "threads": 1, "load": 0.4, "commit": "abc"}
    monkeypatch.setattr(report, "SUITES", [RATIO, SCORE, replace(RATIO, name="long", alone=True)])
    assert "has not been recorded" in report.in_all({"long": entry})
    assert report.in_all({"one": entry}) == (
        "Of `python -m benchmarks`, 1 of 2 suites took 2 minutes in all, tests included (threads 1, load 0.4; commit "
        "abc); of two no time is known."
    )
    other = {**entry, "seconds": 210.0, "load": 2.0}
    assert report.in_all({"one": entry, "two": other, "long": other}) == (
        "`python -m benchmarks` took 5 minutes in all, tests included (threads 1, load 0.4 to 2.0; commit abc)."
    )
    assert "not in one run: commits abc, xyz" in report.in_all({"one": entry, "two": {**other, "commit": "xyz"}})


def test_tables_of_different_commits_are_said_to_be() -> None:
    same = {"one": {"commit": "abc"}, "two": {"commit": "abc"}}
    assert report.origins(same) == "All tables come from commit abc."
    words = report.origins({**same, "three": {"commit": "xyz"}})
    assert words == "The tables come from different commits, so not from one run: abc (one, two), xyz (three)."


def test_smoke_numbers_stand_beside_the_committed_ones() -> None:
    plain = replace(RATIO, name="three", bounds={})
    numbers = {"one": {"ratio": 1.2}, "two": {"auc": 0.9}}
    found = run.Smoke(numbers, {"one": 4.0, "two": 5.0, "three": 6.0}, good=True)
    lines = run.summary([RATIO, SCORE, plain], found, {"one": {"ratio": 1.0}, "two": {"auc": 0.9}})
    assert lines[2:5] == [
        "| one | ratio | 1.200 | 1.000 | at most 1.100 | NO | 4 |",
        "| two | auc | 0.900 | 0.900 | at least 0.810 | yes | 5 |",
        "| three | (its own limits only) |  |  |  |  | 6 |",
    ]
    assert lines[-1].startswith("15 s in all, meant to be below 180; threads ")
    missing = run.summary([RATIO, SCORE], run.Smoke({"two": {"auc": 0.9}}, {}, good=True), {})
    assert missing[2:4] == ["| one | ratio |  |  |  | no number |  |", "| two | auc | 0.900 |  |  | not known yet |  |"]


def test_a_smoke_run_ends_in_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"one": {"ratio": 1.05}}

    def profile(suite: Suite, *words: str, variables: dict[str, str], **more: Any) -> bool:
        line = {"suite": suite.name, "values": values[suite.name]}
        Path(variables[METRICS_VARIABLE]).write_text(json.dumps(line) + "\n")
        return True

    monkeypatch.setattr(run, "run", profile)
    monkeypatch.setattr(run, "COMMITTED", tmp_path / "smoke.json")
    assert run.run_smoke([RATIO], record=True) == 0
    kept = json.loads((tmp_path / "smoke.json").read_text())
    assert kept["numbers"] == values
    assert list(kept["seconds"]) == ["one"]
    values["one"] = {"ratio": 1.3}
    assert run.run_smoke([RATIO], record=False) == 1
    assert "| one | ratio | 1.300 | 1.050 | at most 1.155 | NO |" in capsys.readouterr().out


def test_resuming_skips_results_of_this_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "RESULTS", tmp_path)
    monkeypatch.setattr(run, "environment", lambda: {"commit": "abc"})
    monkeypatch.setattr(run.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, b"", b""))
    assert not run.is_done(RATIO)
    (tmp_path / "one.json").write_text('{"commit": "older"}')
    assert not run.is_done(RATIO)
    (tmp_path / "one.json").write_text('{"commit": "abc"}')
    assert run.is_done(RATIO)
    monkeypatch.setattr(run.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, b" M x.py", b""))
    assert not run.is_done(RATIO)


def test_unknown_suites_list_the_choices() -> None:
    with pytest.raises(ValueError, match="choices: overhead, graph, scaling, planted"):
        command.chosen(["everything"])
    assert "families" not in [suite.name for suite in command.chosen([])]
    assert [suite.name for suite in command.chosen(["families"])] == ["families"]


def test_another_commit_s_library_beside_these_benchmarks(tmp_path: Path) -> None:
    try:
        base.unpack("HEAD", tmp_path)
    except ValueError:
        pytest.skip("not a git checkout")
    assert (tmp_path / "lrp_hooks" / "__init__.py").is_file()
    assert (tmp_path / "benchmarks" / "base.py").read_text() == (ROOT / "benchmarks" / "base.py").read_text()
    words = [sys.executable, "-c", "import lrp_hooks, lrp_kernels; print(lrp_hooks.__file__, lrp_kernels.__file__)"]
    path = f"{tmp_path}:{tmp_path / 'kernels'}"
    done = subprocess.run(words, cwd=tmp_path, env={"PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert all(place.startswith(str(tmp_path)) for place in done.stdout.split())


def test_a_commit_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no-such-commit"):
        base.unpack("no-such-commit", tmp_path)


def test_the_table_is_markdown() -> None:
    columns = {"a": ("x", ".1f"), "b": ("y", ""), "c": ("z", ".0f")}
    assert table(columns, [{"x": 1.26, "y": "w", "z": [1.2, 3.7]}, {}]) == [
        "| a | b | c |",
        "|---|---|---|",
        "| 1.3 | w | 1 to 4 |",
        "|  |  |  |",
    ]


def test_a_section_names_its_command_machine_and_gates() -> None:
    suite = replace(
        RATIO, columns={"n": ("n", "d")}, more=(Table("extra", "More.", {"m": ("m", "")}),), notes=("Why.",)
    )
    facts = {"cores": 2, "machine": "m", "torch": "t", "transformers": "f", "commit": "abc", "command": "python -m x"}
    result: dict[str, Any] = {**facts, "rows": [{"n": 3}], "extra": [{"m": "deep"}], "skipped": ["no such tool"]}
    text = "\n".join(report.section(suite, result, Path("one.svg")))
    parts = (
        "| 3 |",
        "| deep |",
        "More.",
        "`python -m x`",
        "commit abc",
        "`tests/x.py`",
        "no such tool",
        "one.svg",
        "\n\nWhy.\n\n",
    )
    for part in parts:
        assert part in text


def test_plots_are_drawn_from_results_and_always_the_same(tmp_path: Path) -> None:
    places = [(tokens, checkpoint) for checkpoint in (True, False) for tokens in (16, 1024)]
    rows: list[dict[str, Any]] = [
        {"tokens": n, "checkpoint": c, "ratio": 1.0 + n / 1e4, "spread": [0.9, 1.3]} for n, c in places
    ]
    made = [write_plots({"overhead": {"rows": rows}, "two": {"rows": []}}, tmp_path / name) for name in "ab"]
    assert list(made[0]) == ["overhead"]
    first, second = (each["overhead"].read_bytes() for each in made)
    assert first == second
    assert b"checkpointing True" in first
    assert b">1,024<" in first
    rows[0]["ratio"] = 2.0
    assert write_plots({"overhead": {"rows": rows}}, tmp_path / "c")["overhead"].read_bytes() != first


def test_the_page_is_made_from_the_results() -> None:
    results = report.read_results()
    plots = {name: report.IMAGES / f"{name}.svg" for name in results if (report.IMAGES / f"{name}.svg").is_file()}
    assert report.REPORT.read_text() == report.page(results, plots, report.read_times())
