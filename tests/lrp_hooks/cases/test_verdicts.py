"""Which cases of a sweep are judged, by what, and what the report says of those that are not."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tiny import cases as tiny_cases
from tiny import loaded
from typer.testing import CliRunner

from lrp_hooks.cases import verifiers
from lrp_hooks.cases.benchmarks.registry import problems
from lrp_hooks.cases.sandbox import execution_allowed
from lrp_hooks.cases.schema import Case, write_cases
from lrp_hooks.cases.sweep.records import Attributed, Item, Validated
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.cases.sweep.sweep import Plan, sweep
from lrp_hooks.cases.validation.validate import Flip, Rules, Validation
from lrp_hooks.cases.verifiers import Verifiers, data_files, verifiers_of
from lrp_hooks.cli import sweep as command
from lrp_hooks.cli.app import app
from lrp_hooks.errors import CaseError, InputError, ModelLoadError
from lrp_hooks.render.failures import Report
from lrp_hooks.render.failures_data import as_csv, rankings
from lrp_hooks.render.failures_tables import markdown, overview

ROW = {"key": 1, "prompt": "say no more", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
MATH = {"problem": "2 + 2?", "solution": r"\boxed{4}"}
PROGRAM = {"task_id": "H/0", "prompt": "def f():\n", "entry_point": "f", "test": "def check(f):\n    assert f() == 1\n"}
RULES = Rules(most=3, draws=1, until_pass=True, max_new_tokens=40)
PLAN = Plan(("tiny",), ("attnlrp",), RULES)


@pytest.fixture(scope="module")
def case() -> Case:
    return tiny_cases(loaded(4), 1)[0].model_copy(update={"source": "ifeval:1", "response": "so it, so"})


def written(folder: Path, name: str, *rows: dict[str, Any]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_benchmark_judges_where_its_data_is(case: Case, tmp_path: Path) -> None:
    files = {
        "ifeval": written(tmp_path, "ifeval", ROW),
        "math": written(tmp_path, "math", MATH),
        "humaneval": written(tmp_path, "humaneval", PROGRAM),
    }
    sources = ("ifeval:1", "math:1", "humaneval:H/0")
    many = [case.model_copy(update={"id": source, "source": source}) for source in sources]
    known = verifiers_of(many, files)
    keys = {name: next(s for s in known.problems if s.startswith(name)) for name in files}
    assert set(keys) == set(files)
    assert [known.executes([each]) for each in many] == [False, False, True]
    assert known.lacking(many[0]) == ""
    program = many[2].model_copy(update={"source": keys["humaneval"]})
    assert "do: allow it with --allow-exec" in known.lacking(program)
    with execution_allowed():
        assert known.lacking(program) == ""
    judge = known.judge(many[0])
    assert judge.before == (False,)
    assert judge.good("here is one without any")
    assert not judge.good("here is one, with two words")


def test_a_case_is_judged_by_what_it_carries(case: Case) -> None:
    fields = {"instruction_ids": ("keywords:existence",), "parameters": ({"keywords": ["so"]},), "response": "never"}
    own = case.model_copy(update=fields)
    known = verifiers_of([own])
    assert (known, known.lacking(own)) == (Verifiers(), "")
    assert known.judge(own).good("it is so as it is")
    with pytest.raises(InputError, match="no case needs the data of ifeval: none comes from it, or they carry their"):
        verifiers_of([own], {"ifeval": Path("i")})
    program = {"prompt": "def f():", "entry_point": "f", "test": ""}
    runs = own.model_copy(update={"instruction_ids": ("code:tests",), "parameters": (program,)})
    assert known.executes([own, runs])
    assert not known.executes([own])
    assert "do: allow it with --allow-exec" in known.lacking(runs)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"source": ""}, "names no benchmark as its source: ''. do: write one into it"),
        ({"source": "log.jsonl"}, "names no benchmark as its source: 'log.jsonl'"),
        ({"source": "ifeval:2"}, "the problem 'ifeval:2' is not in the data of ifeval. do: give the file"),
        ({"response": None}, "does not hold the whole answer that failed. do: add the field 'response'"),
        ({"source": "evalplus:1"}, "EvalPlus is in no package that is known"),
        ({"source": "gsm8k:1"}, "no network"),
    ],
)
def test_what_a_case_lacks_is_said(
    case: Case, changed: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(name: str, **options: Any) -> Any:
        if name == "gsm8k":
            raise ModelLoadError("no network")
        return problems(name, **options)

    monkeypatch.setattr(verifiers, "problems", unreachable)
    other = case.model_copy(update=changed)
    known = verifiers_of([case, other], {"ifeval": written(tmp_path, "ifeval", ROW)})
    assert words in known.lacking(other)
    assert known.lacking(case) == ""


def test_files_are_told_whose_they_are(case: Case) -> None:
    math = case.model_copy(update={"source": "math:1"})
    assert data_files(["a=b.jsonl"], [case]) == {"ifeval": Path("a=b.jsonl")}
    assert data_files(["math=m", "ifeval=i"], [case, math]) == {"math": Path("m"), "ifeval": Path("i")}
    with pytest.raises(InputError, match=r"whose data is m\? the cases need that of ifeval, math\. do: --data NAME=m"):
        data_files(["m"], [case, math])
    with pytest.raises(InputError, match="two files of ifeval: a and b"):
        data_files(["a", "ifeval=b"], [case])
    with pytest.raises(InputError, match=r"no case needs the data of math: none comes from it, or .* needed: ifeval"):
        verifiers_of([case], {"math": Path("m")})
    with pytest.raises(CaseError, match=r"cannot read .*nowhere"):
        verifiers_of([case], {"ifeval": Path("nowhere")})


def test_a_sweep_without_verifiers_is_judged_once_they_are_there(case: Case, tmp_path: Path) -> None:
    store, model = Store(tmp_path / "out"), loaded(4)
    assert sweep([case], PLAN, store, lambda _: model) == 2
    (before,) = store.records(Validated)
    assert before.validation is not None
    assert "names no benchmark" in before.validation.unjudged or "not in the data" in before.validation.unjudged
    assert all(flip.passes is None for flip in before.validation.flips)
    assert sweep([case], PLAN, store, lambda _: model) == 0
    known = verifiers_of([case], {"ifeval": written(tmp_path, "ifeval", ROW)})
    assert sweep([case], PLAN, store, lambda _: model, verifiers=known) == 1
    (after,) = store.records(Validated)
    assert after.validation is not None
    assert (after.validation.unjudged, after.validation.failure) == ("", "")
    assert all(flip.passes is not None for flip in after.validation.flips)
    assert sweep([case], PLAN, store, lambda _: model, verifiers=known) == 0
    assert sweep([case], PLAN, Store(tmp_path / "out"), lambda _: model) == 0


def test_words_that_are_only_hidden_are_not_judged(case: Case, tmp_path: Path) -> None:
    known = verifiers_of([case], {"ifeval": written(tmp_path, "ifeval", ROW)})
    store = Store(tmp_path / "out")
    plan = replace(PLAN, rules=Rules(("pad",), most=2, draws=0))
    assert sweep([case], plan, store, lambda _: loaded(4), verifiers=known) == 2
    (record,) = store.records(Validated)
    assert record.validation is not None
    assert record.validation.unjudged.startswith("the model does not go on from words masked by pad. do:")
    assert sweep([case], plan, store, lambda _: loaded(4), verifiers=known) == 0


def test_a_tokenizer_without_a_mask_token_is_refused_before_anything_is_done(case: Case, tmp_path: Path) -> None:
    plan = replace(PLAN, rules=Rules(("neutral", "mask")))
    with pytest.raises(InputError, match=r"the tokenizer of tiny-4 has no mask token\. do: another replacement"):
        sweep([case], plan, Store(tmp_path), lambda _: loaded(4))
    assert not Store(tmp_path).records(Attributed)


def test_an_earlier_sweep_is_read_and_gone_on_with_as_it_was_made(case: Case, tmp_path: Path) -> None:
    model = loaded(4)
    plan = replace(PLAN, rules=Rules(most=3, draws=1))
    sweep([case], plan, Store(tmp_path), lambda _: model)
    manifest = tmp_path / "sweep.json"
    fields = json.loads(manifest.read_text())
    for name in ("until_pass", "max_new_tokens"):
        del fields["rules"][name]
    manifest.write_text(json.dumps(fields))
    item = Store(tmp_path).path(Item("validate", "tiny", case.id))
    record = json.loads(item.read_text())
    del record["validation"]["unjudged"]
    item.write_text(json.dumps(record))
    assert sweep([case], plan, Store(tmp_path), lambda _: model) == 0
    (read,) = Store(tmp_path).records(Validated)
    assert read.validation is not None
    assert not read.validation.until_pass
    with pytest.raises(
        CaseError, match=r"\(max-new-tokens 160 there, 40 here; until-pass False there, True here\)\. do:"
    ):
        sweep([case], PLAN, Store(tmp_path), lambda _: model)
    with pytest.raises(CaseError, match=r"other options of validation \(with validation there\)"):
        sweep([case], replace(PLAN, rules=None), Store(tmp_path), lambda _: model)


def flips(changed: int | None, passed: int | None) -> tuple[Flip, ...]:
    passes = changed is not None and changed == passed
    one = Flip(ranking="attnlrp", replacement="neutral", changed=changed, passes=passes, passed=passed)
    return one, one.model_copy(update={"ranking": "random", "passed": None, "passes": False})


@pytest.fixture
def report(case: Case) -> Report:
    """Four cases that change and pass after different numbers of words, one that was not judged."""
    many = [case.model_copy(update={"id": f"c{i}"}) for i in range(5)]
    counts = [(1, 1), (2, 4), (3, None), (None, None)]
    made = [Validation(words=9, most=6, flips=flips(*pair), until_pass=True) for pair in counts]
    made.append(Validation(words=9, most=6, flips=(), unjudged="no <b>data</b>"))
    return Report(many, [], [Validated(case=f"c{i}", model="m", validation=v) for i, v in enumerate(made)])


def test_rates_stand_with_their_intervals_everywhere(report: Report) -> None:
    one, control = report.rankings
    assert one.passes is not None
    assert one.passed is not None
    assert one.passed_words is not None
    assert control.passed is not None
    assert (one.passes.mean, one.passed.mean, control.passed.mean) == (0.25, 0.5, 0.0)
    assert one.passed_words.mean == pytest.approx((1 + 4 + 6 + 6) / 4)
    shown = f"{one.passed.mean:.1%} [{one.passed.low:.1%}, {one.passed.high:.1%}] of 4"
    assert shown in overview(report)
    assert shown.replace("[", r"\[").replace("]", r"\]") in markdown(report)
    assert "not judged: no <b>data</b>" in markdown(report)
    first, _ = csv.DictReader(StringIO(as_csv(rankings(report))))
    assert float(first["passed"]) == 0.5
    assert (float(first["passed_low"]), float(first["passed_high"])) == (one.passed.low, one.passed.high)
    assert (first["cases"], first["judged"], first["more_words"]) == ("4", "4", "")
    assert (float(first["words"]), float(first["flipped"])) == (one.words.mean, one.changed.mean)
    assert (float(first["passes"]), float(first["passed_words"])) == (0.25, one.passed_words.mean)


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setattr(command, "load", lambda *_: loaded(4))
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(StringIO(path.read_text())))


SWEEP = ("sweep", "cases.jsonl", "--model", "tiny", "-o", "out", "--composite", "attnlrp", "--most", 3, "--draws", 1)


def test_the_command_judges_by_files_and_says_what_it_may_not_run(cli: Any, case: Case, tmp_path: Path) -> None:
    program = case.model_copy(update={"id": "program", "source": "humaneval:H/0"})
    write_cases(tmp_path / "cases.jsonl", [case, program])
    files = [f"ifeval={written(tmp_path, 'i', ROW)}", f"humaneval={written(tmp_path, 'h', PROGRAM)}"]
    done = cli(*SWEEP, "--until-pass", "--max-new-tokens", 40, *(word for file in files for word in ("--data", file)))
    assert done.exit_code == 0, done.output
    assert "tiny: the answers to 1 case were not judged: this benchmark is judged by running" in done.output
    rows = table(tmp_path / "out" / "flips.csv")
    assert {(row["case"], row["passes"] == "", row["unjudged"] == "") for row in rows} == {
        (case.id, False, True),
        ("program", True, False),
    }


def test_a_label_is_written_and_the_report_with_it(cli: Any, case: Case, tmp_path: Path) -> None:
    sweep([case], replace(PLAN, rules=None), Store(tmp_path / "out"), lambda _: loaded(4))
    for label in ("hm", "underweighted relevant"):
        done = cli("cases", "label", "out", case.id, label, "--note", "it was read, not followed")
        assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (tmp_path / "out" / "labels.jsonl").read_text().splitlines()]
    assert rows[-1] == {"case": case.id, "label": "underweighted relevant", "note": "it was read, not followed"}
    assert [row["label"] for row in table(tmp_path / "out" / "cases.csv")] == [rows[-1]["label"]]
    assert "it was read, not followed" in (tmp_path / "out" / "report.html").read_text()
    wrong = cli("cases", "label", "out", case.id + "0", "x").exception
    assert isinstance(wrong, InputError)
    assert f"has no case '{case.id}0'. do: one of its 1, such as {case.id}" in str(wrong)
    assert isinstance(cli("cases", "label", "out", case.id, " ").exception, InputError)
    assert isinstance(cli("cases", "label", "nowhere", case.id, "x").exception, CaseError)
