"""Peers: a real subprocess answers, skips say why, differences are found. The tools themselves are run by the suite."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import build, inputs

from benchmarks.methods import METHODS
from benchmarks.peers import compare, environment
from benchmarks.peers.environment import STAMP, WORKERS, Peer, PeerError, ask, last_line
from benchmarks.peers.tools import PEERS
from benchmarks.prompts import Prompt

WORKER = """
import json, sys
request = json.load(open(sys.argv[1]))
results = [{"method": m, "value": 1.5, "scores": [1.0] * len(p["ids"]), "seconds": 0.1}
           for m in request["methods"] for p in request["prompts"]]
json.dump({"versions": "none", "results": results}, open(sys.argv[2], "w"))
"""


def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: str, tolerance: float | None = 1e-3) -> Peer:
    """A peer whose environment is this interpreter and whose worker is the given text."""
    monkeypatch.setattr(environment, "WORKERS", tmp_path)
    monkeypatch.setattr(environment, "python_of", lambda peer, folder: Path(sys.executable))
    (tmp_path / "worker.py").write_text(worker)
    return Peer("tool", ("tool==1.0",), "worker.py", {"theirs": "attnlrp"}, tolerance, "")


@pytest.fixture
def case() -> tuple[Any, Prompt]:
    model, ids = build("llama", dtype=torch.float32), inputs("llama")
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    return model, Prompt("test:1", tuple(ids[0].tolist()), 5, 7, float(logits[5] - logits[7]), ())


def test_peers_are_pinned_their_workers_exist_and_their_methods_are_ours() -> None:
    for each in PEERS:
        assert all("==" in package for package in each.packages)
        assert (WORKERS / each.worker).is_file()
        assert set(each.methods.values()) <= {method.name for method in METHODS}


def test_a_worker_runs_in_a_process_and_answers_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = peer(tmp_path, monkeypatch, WORKER)
    answer = ask(tool, {"methods": ["theirs"], "prompts": [{"ids": [1, 2]}]}, tmp_path)
    assert answer["results"][0]["scores"] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("worker", "words"),
    [("raise ImportError('no such thing')", "tool: ImportError: no such thing"), ("", "it said nothing")],
)
def test_a_peer_that_fails_is_skipped_with_its_words(
    worker: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: tuple[Any, Prompt]
) -> None:
    model, prompt = case
    tool = peer(tmp_path, monkeypatch, worker)
    monkeypatch.setattr(compare, "ask", lambda p, r: ask(p, r, tmp_path))
    (row,) = compare.examine(tool, model, "m", tmp_path, [prompt])
    assert words in row["skipped"]
    assert compare.faults([tool], [row]) == []


def test_a_peer_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = peer(tmp_path, monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(PeerError, match="more than 1 s"):
        ask(tool, {}, tmp_path, limit=1)


def test_pip_s_last_words_are_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.venv, "create", lambda *a, **k: None)
    done = SimpleNamespace(returncode=1, stderr="looking\nERROR: No matching distribution found for tool==1.0\n")
    monkeypatch.setattr(environment.subprocess, "run", lambda *a, **k: done)
    tool = Peer("tool", ("tool==1.0",), "worker.py", {}, None, "")
    with pytest.raises(PeerError, match="No matching distribution"):
        environment.python_of(tool, tmp_path)
    assert not (tmp_path / "tool" / STAMP).exists()
    assert last_line(" \n") == "it said nothing"


def test_another_model_is_not_compared(case: tuple[Any, Prompt]) -> None:
    model, prompt = case
    tool = Peer("tool", ("tool==1.0",), "w", {"theirs": "attnlrp"}, 1e-3, "")
    result = {"method": "theirs", "value": prompt.difference + 1, "scores": [0.0] * len(prompt.ids), "seconds": 1.0}
    with pytest.raises(PeerError, match="another model"):
        compare.rows_of(tool, {"versions": "", "results": [result]}, model, "m", [prompt])


def test_equal_scores_agree_and_others_are_a_fault(case: tuple[Any, Prompt]) -> None:
    model, prompt = case
    tool = Peer("tool", ("tool==1.0",), "w", {"theirs": "attnlrp"}, 1e-3, "")
    (scores,), _ = compare.ours(model, "attnlrp", [prompt])

    def rows(theirs: list[float]) -> list[dict[str, Any]]:
        result = {"method": "theirs", "value": prompt.difference, "scores": theirs, "seconds": 1.0}
        return compare.rows_of(tool, {"versions": "", "results": [result]}, model, "m", [prompt])

    same = rows(scores)
    assert same[0]["difference"] == 0.0
    assert same[0]["pearson"] == pytest.approx(1.0)
    assert compare.faults([tool], same) == []
    other = rows([scores[0] + 0.5 * max(map(abs, scores)), *scores[1:]])
    assert other[0]["difference"] == pytest.approx(0.5)
    assert "differs by 5.0e-01" in compare.faults([tool], other)[0]
    lenient = Peer("tool", ("tool==1.0",), "w", {"theirs": "attnlrp"}, None, "other rules")
    assert compare.faults([lenient], other) == []


def test_an_older_transformers_finds_rope_theta(tmp_path: Path) -> None:
    source = tmp_path / "new"
    source.mkdir()
    (source / "config.json").write_text('{"rope_parameters": {"rope_theta": 5.0}}')
    (source / "model.safetensors").write_bytes(b"weights")
    folder = compare.older_folder(source, tmp_path / "old")
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 5.0
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert compare.older_folder(source, tmp_path / "old") == folder
