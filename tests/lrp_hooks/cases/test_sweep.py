"""Sweeps: what is computed, shared work, and what is left after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny import cases as tiny_cases
from tiny import loaded, save

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.cases.answers.run import Pace
from lrp_hooks.cases.schema import Case, CaseToken, write_cases
from lrp_hooks.cases.sweep.records import Attributed, Item, Validated
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.cases.sweep.sweep import Part, Plan, sweep
from lrp_hooks.cases.validation.validate import Rules
from lrp_hooks.errors import CaseError, InputError, ModelLoadError
from lrp_hooks.loading.loaded import LoadedModel

RULES = Rules(most=4, draws=1)
PLAN = Plan(("tiny",), ("attnlrp", "gradient"), RULES)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return loaded()


@pytest.fixture(scope="module")
def cases(model: LoadedModel) -> list[Case]:
    return tiny_cases(model)


def results(folder: Path) -> dict[str, Any]:
    """Every record by its file's name, without the time that it took."""
    found = {}
    for path in sorted((folder / "items").glob("*.json")):
        found[path.name] = {**json.loads(path.read_text()), "seconds": 0}
    return found


def test_what_a_sweep_writes(model: LoadedModel, cases: list[Case], tmp_path: Path) -> None:
    store, paces = Store(tmp_path), list[Pace]()
    assert sweep(cases, PLAN, store, lambda _: model, tell=paces.append) == 3 * len(cases)
    assert [(p.done, p.total) for p in paces] == [(i + 1, 12) for i in range(12)]
    assert store.cases() == cases
    attributed, validated = store.records(Attributed), store.records(Validated)
    assert [(r.composite, r.case) for r in attributed] == [(c, f"case/{i}") for c in PLAN.composites for i in range(4)]
    assert [r.case for r in validated] == [f"case/{i}" for i in range(4)]
    assert not [r.error for r in (*attributed, *validated) if r.error]
    with instrument(model.model) as lrp:
        ids = model.tokenizer("<user>" + cases[0].messages[0].content + "<answer>so it")["input_ids"]  # type: ignore[index]
        trace = lrp.trace(input_ids=torch.tensor([ids]))
        relevance = trace.attribute(LogitDiff(cases[0].target.id, cases[0].contrast.id))  # type: ignore[union-attr, arg-type]
    first = attributed[0]
    assert first.scores == pytest.approx(relevance.tokens[0].tolist(), rel=1e-4, abs=1e-7)
    assert first.value == pytest.approx(first.target_logit - first.contrast_logit, rel=1e-4)
    assert first.top == cases[0].target.id  # type: ignore[union-attr]
    assert {share.name for share in first.shares} == {"special", "query", "answer"}
    assert sum(share.absolute for share in first.shares) == pytest.approx(1)
    assert first.ledger is not None
    assert first.ledger < 1e-3
    assert attributed[-1].ledger is None
    layers = load_file(store.path(Item("attribute", "tiny", "case/0", "attnlrp"), ".safetensors"))["layers"]
    assert torch.allclose(layers, relevance.layers[0], rtol=1e-4, atol=1e-6)
    assert model.model.config is not None
    assert all(not p.requires_grad or p.grad is None for p in model.model.parameters())


def test_graphs_are_written_when_asked_for(model: LoadedModel, cases: list[Case], tmp_path: Path) -> None:
    from lrp_hooks import AttributionGraph

    store = Store(tmp_path)
    sweep(cases[:1], replace(PLAN, composites=("attnlrp",), rules=None, graphs=True), store, lambda _: model)
    (path,) = (tmp_path / "items").glob("*.graph.safetensors")
    graph = AttributionGraph.load(path)
    assert graph.position == len(graph.tokens) - 1
    assert not store.records(Validated)


def test_a_run_again_does_what_is_left(model: LoadedModel, cases: list[Case], tmp_path: Path) -> None:
    store, calls = Store(tmp_path), list[str]()

    def load(name: str) -> LoadedModel:
        calls.append(name)
        return model

    sweep(cases, PLAN, store, load)
    before = results(tmp_path)
    gone = store.path(Item("validate", "tiny", "case/2"))
    gone.unlink()
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "items").iterdir()}
    assert sweep(cases, PLAN, store, load) == 1
    assert results(tmp_path) == before
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert sweep(cases, PLAN, store, load) == 0
    assert calls == ["tiny", "tiny"]  # nothing to do: no model is loaded
    more = replace(PLAN, models=("tiny", "other"))
    assert sweep(cases, more, store, load) == 12
    assert {r.model for r in store.records(Attributed)} == {"tiny", "other"}


def test_a_bad_case_is_recorded(model: LoadedModel, cases: list[Case], tmp_path: Path) -> None:
    far = cases[0].model_copy(update={"id": "far", "ids": (5, 99)})
    unknown = cases[0].model_copy(update={"id": "two", "contrast": CaseToken(text="xy")})
    store = Store(tmp_path)
    sweep([far, unknown, cases[1]], replace(PLAN, composites=("attnlrp",)), store, lambda _: model)
    errors = {r.case: r.error for r in store.records(Attributed)}
    assert errors["far"] == "token id 99 is outside the vocabulary of 97 entries: another tokenizer's case"
    assert "'xy' is 2 tokens" in errors["two"]
    assert errors["case/1"] == ""
    checks = {r.case: r.error for r in store.records(Validated)}
    assert checks["case/1"] == ""
    assert checks["far"]
    assert checks["two"]


def test_parts_are_all_of_the_cases_once(cases: list[Case], monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [Part(i, 3).of(cases) for i in range(3)]
    assert sorted(case.id for part in parts for case in part) == [case.id for case in cases]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Part.from_environment() == Part(1, 2)
    for rank in ("2", "-1", "one"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(InputError, match="RANK"):
            Part.from_environment()


def test_two_parts_make_one_sweep(model: LoadedModel, cases: list[Case], tmp_path: Path) -> None:
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    sweep(cases, PLAN, whole, lambda _: model)
    assert [sweep(cases, PLAN, parts, lambda _: model, part=Part(i, 2)) for i in range(2)] == [6, 6]
    assert results(parts.folder) == results(whole.folder)


def test_an_item_that_another_process_holds_is_left_to_it(
    model: LoadedModel, cases: list[Case], tmp_path: Path
) -> None:
    store, plan = Store(tmp_path), replace(PLAN, composites=("attnlrp",), rules=None)
    held = Item("attribute", "tiny", "case/1", "attnlrp")
    store.open(cases, {})
    script = (
        "import time; from lrp_hooks.cases.sweep.store import Store; from lrp_hooks.cases.sweep.records import Item\n"
        f"with Store({str(tmp_path)!r}).claim(Item('attribute', 'tiny', 'case/1', 'attnlrp')):\n"
        "    print('held', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert sweep(cases, plan, store, lambda _: model) == 3
        assert not store.done(held)
    finally:
        other.kill()  # the system frees what it held
        other.communicate()
    assert sweep(cases, plan, store, lambda _: model) == 1
    assert store.done(held)


def test_a_finished_item_cannot_be_claimed_again(cases: list[Case], tmp_path: Path) -> None:
    store, item = Store(tmp_path), Item("validate", "tiny", "case/1")
    store.open(cases, {})
    with store.claim(item) as free:  # another process listed the item as open before this one finished it
        assert free
        store.write(item, Validated(case="case/1", model="tiny"))
    with store.claim(item) as free:
        assert not free


def test_another_sweep_is_not_mixed_in(model: LoadedModel, cases: list[Case], tmp_path: Path) -> None:
    sweep(cases[:1], PLAN, Store(tmp_path), lambda _: model)
    with pytest.raises(CaseError, match="holds a sweep with other cases"):
        sweep(cases[:2], PLAN, Store(tmp_path), lambda _: model)
    with pytest.raises(CaseError, match="holds a sweep with other options of validation"):
        sweep(cases[:1], replace(PLAN, rules=replace(RULES, draws=2)), Store(tmp_path), lambda _: model)
    (tmp_path / "sweep.json").write_text("[]")
    with pytest.raises(CaseError, match="an object is expected, not list"):
        sweep(cases[:1], PLAN, Store(tmp_path), lambda _: model)


def test_a_folder_that_cannot_be_written(model: LoadedModel, cases: list[Case], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CaseError, match=r"cannot write to .*file.*do: choose another folder"):
        sweep(cases, PLAN, Store(tmp_path / "file"), lambda _: model)
    with pytest.raises(CaseError, match="holds no sweep"):
        Store(tmp_path).cases()


def test_a_full_disk_keeps_what_is_finished(
    model: LoadedModel, cases: list[Case], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrp_hooks import files
    from lrp_hooks.errors import LrpError

    store, count = Store(tmp_path), [0]
    replace_file = os.replace

    def full(old: Any, new: Any) -> None:
        count[0] += str(new).endswith(".json") and "attribute" in str(new)
        if count[0] > 2:
            raise OSError(28, "No space left on device")
        replace_file(old, new)

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(LrpError, match="No space left on device"):
        sweep(cases, PLAN, store, lambda _: model)
    monkeypatch.undo()
    assert len(results(tmp_path)) == 2
    assert sweep(cases, PLAN, store, lambda _: model) == 10


def test_a_model_that_cannot_be_loaded_stops_the_sweep(cases: list[Case], tmp_path: Path) -> None:
    def load(_: str) -> LoadedModel:
        raise ModelLoadError("no such model")

    with pytest.raises(ModelLoadError, match="no such model"):
        sweep(cases, PLAN, Store(tmp_path), load)


def test_two_processes_make_what_one_makes_and_a_kill_costs_one_item(tmp_path: Path) -> None:
    folder = save(tmp_path / "tiny")
    made = loaded()
    write_cases(tmp_path / "cases.jsonl", tiny_cases(made, 6))

    def start(out: str) -> subprocess.Popen[bytes]:
        words = [
            "sweep",
            "cases.jsonl",
            "--model",
            folder,
            "-o",
            out,
            "--composite",
            "attnlrp",
            "--composite",
            "gradient",
        ]
        command = [sys.executable, "-m", "lrp_hooks", *map(str, words), "--most", "4", "--draws", "1"]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(process: subprocess.Popen[bytes]) -> None:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said.decode()

    both = [start("two"), start("two")]
    victim = start("killed")
    while len(list((tmp_path / "killed").glob("items/*.json"))) < 3 and victim.poll() is None:
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    for process in both:
        finish(process)
    kept = results(tmp_path / "killed")
    assert 3 <= len(kept) < 18
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed" / "items").glob("*.json")}
    finish(start("killed"))
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    assert len(results(tmp_path / "two")) == 18
    assert results(tmp_path / "killed") == results(tmp_path / "two")
    assert not [path for path in (tmp_path / "two" / "items").iterdir() if path.name.startswith(".")]
    assert (tmp_path / "two" / "report.html").is_file()
