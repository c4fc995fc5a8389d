"""A sweep by several launched processes: each case once, one report, and what a kill costs.

`torchrun` (`torch.distributed.run`) is what `accelerate launch` runs on several GPUs; both set RANK and WORLD_SIZE.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import cases as tiny_cases
from tiny import loaded, save
from typer.testing import CliRunner

from lrp_hooks.cases.schema import write_cases
from lrp_hooks.cases.sweep.records import Attributed
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.cases.sweep.sweep import Plan, left, sweep
from lrp_hooks.cases.validation.validate import Rules
from lrp_hooks.cli import sweep as command
from lrp_hooks.cli.app import app

CASES = 30
OPTIONS = ("--composite", "attnlrp", "--most", "3", "--draws", "1")
PLAN = Plan(("tiny",), ("attnlrp",), Rules(most=3, draws=1))


def results(folder: Path) -> dict[str, Any]:
    """Every record by its file's name, without the time that it took."""
    return {p.name: {**json.loads(p.read_text()), "seconds": 0} for p in (folder / "items").glob("*.json")}


def launch(folder: Path, out: str) -> subprocess.Popen[bytes]:
    """Two processes."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lrp_hooks"]
    sweeping = ["sweep", "cases.jsonl", "--model", "tiny", "-o", out, *OPTIONS]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen([sys.executable, *words, *sweeping], cwd=folder, env=environment, **pipes)


def workers(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [child for child in psutil.Process(launcher.pid).children() if "sweep" in child.cmdline()]


def test_launched_processes_share_a_sweep_and_a_kill_costs_the_items_in_work(tmp_path: Path) -> None:
    save(tmp_path / "tiny")
    model = loaded()
    cases = tiny_cases(model, CASES)
    write_cases(tmp_path / "cases.jsonl", cases)
    out = tmp_path / "out"

    first = launch(tmp_path, "out")
    deadline = time.monotonic() + 300
    while len(list(out.glob("items/*.json"))) < 5 and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    two = workers(first)
    assert len(two) == 2
    two[0].send_signal(signal.SIGKILL)
    said, _ = first.communicate(timeout=120)
    assert first.returncode != 0, said.decode()
    kept = results(out)  # every file is a whole record
    assert 5 <= len(kept) < 2 * CASES
    begun = [path for path in (out / "claims").iterdir() if path.name != "sweep.lock"]
    assert len(begun) - len(kept) <= 2  # the launcher stops the other process too: one item each
    assert not (out / "report.html").exists()
    stamps = {path: path.stat().st_mtime_ns for path in (out / "items").glob("*.json")}

    again = launch(tmp_path, "out")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said.decode()
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    shares = [int(number) for number in re.findall(r"(\d+) items done by this process", said.decode())]
    assert len(shares) == 2
    assert sum(shares) == 2 * CASES - len(kept)
    sweep(cases, PLAN, Store(tmp_path / "alone"), lambda _: model)
    assert results(out) == results(tmp_path / "alone")
    page = (out / "report.html").read_text()
    assert len(json.loads(page.partition('id="data">')[2].partition("</script>")[0])["cases"]) == CASES


def test_the_last_process_to_finish_writes_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load", lambda *_: loaded())
    monkeypatch.chdir(tmp_path)
    write_cases(tmp_path / "cases.jsonl", tiny_cases(loaded(), 3))
    monkeypatch.setenv("WORLD_SIZE", "2")
    said = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        done = CliRunner().invoke(app, ["sweep", "cases.jsonl", "--model", "tiny", "-o", "out", *OPTIONS])
        assert done.exit_code == 0, done.output
        said.append((done.output, (tmp_path / "out" / "report.html").exists()))
    assert "2 items are with other processes; the last one to finish writes the report" in said[0][0]
    assert [written for _, written in said] == [False, True]
    assert "Validation: words masked" in said[1][0]


@pytest.mark.parametrize(
    ("device", "local", "own"),
    [
        ("cuda", "3", "cuda:3"),
        ("cuda", None, "cuda"),
        ("cuda:0", "3", "cuda:0"),
        ("cpu", "1", "cpu"),
        (None, "1", None),
    ],
)
def test_each_launched_process_has_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str | None, local: str | None, own: str | None
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    assert command.own_device(device) == own


def test_graphs_that_are_asked_for_later_are_made(tmp_path: Path) -> None:
    model, store = loaded(), Store(tmp_path)
    cases = tiny_cases(model, 2)
    bad = cases[0].model_copy(update={"id": "far", "ids": (5, 99)})
    many = [*cases, bad]
    assert sweep(many, PLAN, store, lambda _: model) == 6
    assert store.graphs() == {}
    before = results(tmp_path)
    graphs = replace(PLAN, graphs=True)
    assert sweep(many, graphs, store, lambda _: model) == 2  # the bad case would fail again
    assert sorted(store.graphs()) == [(case.id, "tiny", "attnlrp") for case in cases]
    assert results(tmp_path) == before
    assert [r.case for r in store.records(Attributed) if r.error] == ["far"]
    assert sweep(many, graphs, store, lambda _: model) == 0
    assert (left(many, graphs, store), left(many, PLAN, store)) == (0, 0)
