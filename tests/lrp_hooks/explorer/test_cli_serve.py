"""``lrp-hooks serve`` as a program: it prints an address, answers there, and ends when it is interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import tiny
from explorer_client import Client

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.cli import serve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    loaded, path = tiny.loaded(0), tmp_path_factory.mktemp("graph") / "saved.safetensors"
    with instrument(loaded.model) as lrp:
        trace = lrp.trace(**loaded.tokenizer("say no more", return_tensors="pt"))
        trace.graph(LogitDiff("a", "b", tokenizer=loaded.tokenizer), tokenizer=loaded.tokenizer).save(path)
    return path


def test_it_serves_until_it_is_interrupted(folder: Path, graph: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    words = ["serve", str(folder), "--open", str(graph), "--port", "0", "--folder", str(kept), "--dtype", "float32"]
    command = [sys.executable, "-m", "lrp_hooks", *words]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as made:
        assert made.stderr is not None
        found = re.fullmatch(r"explorer: (http://127\.0\.0\.1:\d+/#token=\S+)\n", made.stderr.readline())
        assert found is not None
        assert "ssh -L" in made.stderr.readline()
        client = Client(found[1])
        state: Any = {"model": None}
        for _ in range(600):
            state = client.json("GET", "/api/state")
            if state["model"]:
                break
            time.sleep(0.1)
        assert state["model"]["class"] == "LlamaForCausalLM"
        assert [entry["origin"] for entry in state["entries"]] == ["opened"]
        client.result("/api/explain", {"prompt": {"text": "say no more"}, "target": "a", "contrasts": ["b"]})
        made.send_signal(signal.SIGINT)
        _, err = made.communicate(timeout=60)
    assert made.returncode == 0
    assert "Traceback" not in err
    assert sorted(path.name for path in kept.iterdir()) == [
        "0001.question.json",
        "0001.safetensors",
        "0002.json",
        "0002.question.json",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint", "maybe"], "choices: auto, on, off"),
        (["--max-memory", "much"], "is no amount of memory"),
        (["--open", "nowhere.safetensors"], "there is no file nowhere.safetensors"),
        (["--port", "99999"], "cannot listen on port 99999"),
        (["nowhere.safetensors"], "there is no file nowhere.safetensors"),
        (["demo", "--dtype", "int7"], "dtype"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_served(run: Any, words: list[str], message: str) -> None:
    status, _, err = run("serve", *words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_without_the_web_server_the_extra_is_named(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.split(".")[0] == "uvicorn" or name == "lrp_hooks.explorer.server"
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    status, _, err = run("serve")
    assert status == 2
    assert "pip install 'lrp-hooks[serve]'" in err


def test_a_load_that_hangs_does_not_keep_the_program(tmp_path: Path) -> None:
    """Ctrl+C while a step that nobody can interrupt is under way: the program ends all the same."""
    code = """
import sys, time
import lrp_hooks.loading.model as loading
import lrp_hooks.cli.serve as serve
serve.load_model = lambda *args, **options: time.sleep(600)
sys.argv = ["lrp-hooks", "serve", "anything", "--port", "0"]
from lrp_hooks.cli import main
main()
"""
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as made:
        assert made.stderr is not None
        client = Client(made.stderr.readline().removeprefix("explorer: ").strip())
        for _ in range(100):
            if client.json("GET", "/api/state")["jobs"][0]["state"] == "running":
                break
            time.sleep(0.05)
        made.send_signal(signal.SIGINT)
        _, err = made.communicate(timeout=60)
    assert made.returncode == 0
    assert "was left behind" in err


def test_the_browser_is_told_the_address_by_a_private_file(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def look(address: str) -> bool:
        opened.append(address)
        path = Path(url2pathname(urlsplit(address).path))
        assert path.parent.stat().st_mode & 0o077 == 0
        assert "http://127.0.0.1:1/#token=secret" in path.read_text()
        return True

    monkeypatch.setattr("webbrowser.open", look)
    with serve.opened_in_browser("http://127.0.0.1:1/#token=secret"):
        pass
    assert opened
    assert "secret" not in opened[0]
    assert not Path(url2pathname(urlsplit(opened[0]).path)).exists()
