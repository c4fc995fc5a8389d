"""Peers: a real subprocess answers, skips say why, differences are found. The tools themselves are run by the suite."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from families import build, inputs

from benchmarks.methods import STEPS
from benchmarks.peers import compare, environment
from benchmarks.peers.compare import Subject
from benchmarks.peers.environment import ROOT, STAMP, WORKERS, Peer, PeerError, PeerMethod, ask, last_line
from benchmarks.peers.own import OWN, own
from benchmarks.peers.tools import PEERS
from benchmarks.peers.workers import autolrp_worker
from benchmarks.prompts import Prompt

WORKER = """
import torch
from benchmarks.peers.workers.serve import serve

def make(folder, method):
    model = torch.nn.Linear(2, 2)
    def attribute(prompt):
        big = torch.ones(prompt["target"], 1024, 256)  # so many MB
        return 1.5, [float(big.mean())] * len(prompt["ids"])
    return model, attribute

serve(make)
"""
ASKED = {"model": "", "method": "theirs", "prompts": [{"ids": [1, 2], "target": 1, "contrast": 0}], "long": None}


def tool(tolerance: float | None = 1e-3, worker: str = "worker.py", missing: str = "") -> Peer:
    methods = (PeerMethod("theirs", "attnlrp", tolerance, "because"),)
    return Peer("tool", ("tool==1.0",), worker, methods, missing)


def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, worker: str) -> Peer:
    """A peer whose environment is this interpreter and whose worker is the given text."""
    monkeypatch.setattr(environment, "WORKERS", tmp_path)
    monkeypatch.setattr(environment, "python_of", lambda peer, folder: Path(sys.executable))
    (tmp_path / "worker.py").write_text(worker)
    return tool()


@pytest.fixture(scope="module")
def case() -> Subject:
    model, ids = build("llama", dtype=torch.float32), inputs("llama")
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    ids = tuple(ids[0].tolist())
    prompt = Prompt("test:1", ids, 5, 7, float(logits[5] - logits[7]), tuple(range(1, len(ids) - 1)))
    return Subject(model, "m", Path(), [prompt], prompt, blank=3)


def test_peers_are_pinned_their_workers_exist_and_their_methods_are_ours() -> None:
    for each in PEERS:
        assert all("==" in package for package in each.packages)
        assert bool(each.missing) != (WORKERS / (each.worker or "none")).is_file()
        assert {method.ours for method in each.methods} <= {method.name for method in OWN}


def test_a_worker_runs_in_a_process_and_answers_in_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ASKED | {"long": {"ids": [1, 2], "target": 200, "contrast": 0}}
    answer = ask(peer(tmp_path, monkeypatch, WORKER), asked, tmp_path)
    assert (answer["results"][0]["value"], answer["results"][0]["scores"]) == (1.5, [1.0, 1.0])
    assert 195 < answer["megabytes"] < 230
    assert ask(peer(tmp_path, monkeypatch, WORKER), ASKED, tmp_path)["megabytes"] is None


@pytest.mark.parametrize(
    ("worker", "words"),
    [("raise ImportError('no such thing')", "tool: ImportError: no such thing"), ("", "it said nothing")],
)
def test_a_peer_that_fails_is_skipped_with_its_words(
    worker: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Subject
) -> None:
    one = peer(tmp_path, monkeypatch, worker)
    monkeypatch.setattr(compare, "ask", lambda p, r: ask(p, r, tmp_path))
    (row,) = compare.examine(one, case)
    assert words in row["skipped"]
    assert compare.faults([one], [row]) == []


def test_a_peer_that_cannot_be_asked_says_why(case: Subject, tmp_path: Path) -> None:
    absent = tool(missing="it wants what this model lacks")
    assert compare.examine(absent, case)[0]["remark"] == "it wants what this model lacks"
    with pytest.raises(PeerError, match="what this model lacks"):
        environment.python_of(absent, tmp_path)


def test_a_peer_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = peer(tmp_path, monkeypatch, "import time; time.sleep(60)")
    with pytest.raises(PeerError, match="more than 1 s"):
        ask(slow, ASKED, tmp_path, limit=1)


def test_pip_s_last_words_are_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.venv, "create", lambda *a, **k: None)
    done = SimpleNamespace(returncode=1, stderr="looking\nERROR: No matching distribution found for tool==1.0\n")
    monkeypatch.setattr(environment.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(PeerError, match="No matching distribution"):
        environment.python_of(tool(), tmp_path)
    assert not (tmp_path / "tool" / STAMP).exists()
    assert last_line(" \n") == "it said nothing"


def answered(case: Subject, scores: list[float], more: float = 0.0) -> dict[str, Any]:
    result = {"value": case.prompts[0].difference + more, "scores": scores, "seconds": 1.0}
    return {"versions": "", "results": [result]}


def test_another_model_is_not_compared(case: Subject) -> None:
    one = tool()
    with pytest.raises(PeerError, match="another model"):
        compare.row_of(one, one.methods[0], answered(case, [0.0] * len(case.long.ids), more=1.0), case)


def test_equal_scores_agree_and_others_are_a_fault(case: Subject) -> None:
    one = tool()
    (scores,), _ = compare.ours(case.model, "attnlrp", case.prompts)
    same = compare.row_of(one, one.methods[0], answered(case, scores), case)
    assert same["difference"] == 0.0
    assert same["pearson"] == pytest.approx(1.0)
    assert same["gap"] == same["our_gap"]
    assert same["gap_interval"] == [0.0, 0.0]
    assert same["remark"] == "because"
    assert compare.faults([one], [same]) == []
    shifted = [scores[0] + 0.5 * max(map(abs, scores)), *scores[1:]]
    other = compare.row_of(one, one.methods[0], answered(case, shifted), case)
    assert other["difference"] == pytest.approx(0.5)
    assert "differs by 5.0e-01" in compare.faults([one], [other])[0]
    assert compare.faults([tool(tolerance=None)], [other]) == []


def test_the_opposite_order_has_the_opposite_area(case: Subject) -> None:
    (scores,), _ = compare.ours(case.model, "attnlrp", case.prompts)
    turned = compare.faithfulness(case, [[-s for s in scores]], [scores])
    assert turned["gap"] == pytest.approx(-turned["our_gap"], abs=1e-5)
    assert turned["gap_interval"][0] == pytest.approx(2 * turned["our_gap"], abs=1e-5)


def test_memory_and_scores_come_from_two_processes(case: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    (scores,), _ = compare.ours(case.model, "attnlrp", case.prompts)
    asked: list[Any] = []

    def fake(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
        asked.append(request)
        return answered(case, scores) | {"megabytes": 7.0 if request["long"] else None}

    monkeypatch.setattr(compare, "ask", fake)
    monkeypatch.setattr(compare, "our_megabytes", lambda name, first, long: 5.0)
    (row,) = compare.examine(tool(), case)
    assert [bool(request["long"]) for request in asked] == [False, True]
    assert (row["megabytes"], row["our_megabytes"], row["long_tokens"]) == (7.0, 5.0, len(case.long.ids))


@pytest.mark.parametrize("name", ["attnlrp", "integrated gradients"])
def test_a_method_stays_open_for_the_map_whose_memory_is_measured(case: Subject, name: str) -> None:
    step = compare.one_map(case.model, name, case.prompts[0], case.long)
    gc.collect()
    step()
    del step
    gc.collect()


def test_integrated_gradients_are_the_integral(case: Subject) -> None:
    """Against PyTorch's plain gradient at the same points of the way; and their sum is what the way adds."""
    prompt, model = case.long, case.model
    nodes, weights = np.polynomial.legendre.leggauss(STEPS)
    embeds = model.get_input_embeddings()(torch.tensor([prompt.ids])).detach()
    expected = torch.zeros(len(prompt.ids))
    for node, weight in zip(nodes, weights, strict=True):
        point = (embeds * (node + 1) / 2).requires_grad_()
        logits = model(inputs_embeds=point).logits[0, -1]
        (slope,) = torch.autograd.grad(logits[prompt.target] - logits[prompt.contrast], point)
        expected += (embeds * slope).sum(-1)[0] * weight / 2
    with own("integrated gradient rules").open(model) as attribute:
        scores = attribute(torch.tensor([prompt.ids]), prompt.target, prompt.contrast)
    assert torch.allclose(scores, expected, atol=1e-4 * float(expected.abs().max()))


def test_the_rules_handed_to_autolrp_by_hand() -> None:
    a, b, relevance = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 2.0]), torch.tensor([8.0, 1.0])
    first, second = autolrp_worker.signed_sum(a, b, relevance, 1e-11)
    assert (first.tolist(), second.tolist()) == ([6.0, -1.0], [2.0, 2.0])
    first, second = autolrp_worker.halved_product(a, b, relevance, 1e-11)
    assert first.tolist() == second.tolist() == [4.0, 0.5]
    scale = torch.tensor([2.0, 2.0])
    for first, second, content in (
        (*autolrp_worker.halved_product(a, scale, relevance, 1e-11), 0),
        (*autolrp_worker.halved_product(scale, a, relevance, 1e-11), 1),
    ):
        assert (first, second)[content].tolist() == relevance.tolist()
        assert (first, second)[1 - content].tolist() == [0.0, 0.0]
    assert autolrp_worker.signed_sum(a, b, relevance, 1e-11, attribute="rhs") == (None, relevance)


def test_memory_is_what_a_step_adds_and_not_what_was_there() -> None:
    code = """
import torch
from benchmarks.peers.workers import serve
there = torch.ones(100, 1024, 256)
added = serve.added_megabytes(torch.nn.Linear(1, 1), lambda: float(torch.ones(50, 1024, 256).sum()))
print(added, float(there[0, 0, 0]))
"""
    # a process of its own, as workers are: the memory that earlier tests have given back would be used again
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    added, there = map(float, done.stdout.split())
    assert there == 1.0
    assert 45 < added < 80


def test_an_older_transformers_finds_rope_theta(tmp_path: Path) -> None:
    source = tmp_path / "new"
    source.mkdir()
    (source / "config.json").write_text('{"rope_parameters": {"rope_theta": 5.0}}')
    (source / "model.safetensors").write_bytes(b"weights")
    folder = compare.older_folder(source, tmp_path / "old")
    assert json.loads((folder / "config.json").read_text())["rope_theta"] == 5.0
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert compare.older_folder(source, tmp_path / "old") == folder
