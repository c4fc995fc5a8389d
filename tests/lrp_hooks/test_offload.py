"""Weights that accelerate keeps elsewhere: equal relevance, and no more than a block of them in memory at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from loaded import IDS, TARGET, difference, explain, load, save, tiny
from transformers import LlamaConfig, LlamaForCausalLM

from lrp_hooks import instrument

DISK = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
DISK |= {f"model.layers.{index}": "disk" for index in range(3)}


def offloaded(folder: Path, to: Path) -> Any:
    return load(folder, dtype=torch.float32, device_map=DISK, offload_folder=str(to))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(tmp_path / "model")


def test_weights_on_disk_give_the_same_relevance(folder: Path, tmp_path: Path) -> None:
    model = offloaded(folder, tmp_path / "offload")
    layer = model.model.layers[1].mlp.down_proj
    assert layer.weight.is_meta
    with instrument(model) as lrp:
        trace = lrp.trace(input_ids=IDS)
        assert lrp.checkpointing.active, "without it every block's weights would wait for the backward pass"
        relevance, edges = trace.attribute(TARGET), trace.edge_matrices(TARGET)
    assert layer.weight.is_meta
    assert relevance.ledger().max() < 1e-5
    with instrument(tiny()) as lrp:
        trace = lrp.trace(input_ids=IDS)
        assert difference(relevance, trace.attribute(TARGET)) < 1e-6
        for key, matrix in trace.edge_matrices(TARGET).items():
            assert (edges[key] - matrix).abs().max() < 1e-6 * matrix.abs().max()


def test_one_device_map_for_everything(folder: Path) -> None:
    model = load(folder, dtype=torch.float32, device_map="cpu")
    assert difference(explain(model), explain(tiny())) == 0.0


# A model larger than the memory that it is given: a process of its own reports the peak of its resident memory.
SCRIPT = """
import json, sys
from pathlib import Path
import torch
from transformers import AutoModelForCausalLM
from lrp_hooks import Logit, instrument

folder, warm, where, blocks = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
ids = torch.arange(3, 19)[None]
options = {}
if where == "disk":
    places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head"), "cpu")
    places |= {f"model.layers.{index}": "disk" for index in range(blocks)}
    options = {"device_map": places, "offload_folder": str(folder / "offload")}

def explain(model):
    with instrument(model) as lrp:
        return lrp.trace(input_ids=ids).attribute(Logit(5))

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

explain(AutoModelForCausalLM.from_pretrained(warm))  # whatever is imported and allocated once is there from now on
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = kilobytes("VmRSS:")
relevance = explain(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options))
peak = 1024 * (kilobytes("VmHWM:") - before)
print(json.dumps({"tokens": relevance.tokens.tolist(), "ledger": float(relevance.ledger().max()), "peak": peak}))
"""
BLOCKS, WIDTH = 12, 512


def run(folder: Path, warm: Path, where: str) -> dict[str, Any]:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(warm), where, str(BLOCKS)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def resettable() -> bool:
    """Whether the peak of resident memory can be started anew (Linux, /proc/self/clear_refs)."""
    return os.access("/proc/self/clear_refs", os.W_OK)


@pytest.mark.skipif(not resettable(), reason="needs /proc/self/clear_refs")
def test_a_model_larger_than_its_memory(tmp_path: Path) -> None:
    """Half of what the weights take is enough: one block of twelve, and the residual stream."""
    config = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=BLOCKS,
        num_attention_heads=8,
        num_key_value_heads=8,
        vocab_size=97,
    )
    model = LlamaForCausalLM(config)
    weights = sum(p.nbytes for p in model.parameters())
    model.save_pretrained(tmp_path / "large", max_shard_size="20MB")
    del model
    warm = save(tmp_path / "small")
    disk, whole = (run(tmp_path / "large", warm, where) for where in ("disk", "memory"))
    assert whole["peak"] > 0.9 * weights, "the measurement sees weights"
    assert disk["peak"] < 0.5 * weights
    assert disk["ledger"] < 1e-5
    ours, theirs = torch.tensor(disk["tokens"]), torch.tensor(whole["tokens"])
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
