"""Budgets, checkpointing, offloading and interrupts on a GPU, and weights that lie elsewhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, dispatch_model
from families import inputs, reinitialise
from gpu.compared import CONTRAST, agree, explanation, long_llama, twins

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.recording.offload import Offload

TOKENS, FEW_TOKENS = 4096, 64
TARGET = LogitDiff(3, 5)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


def llama(dtype: torch.dtype, device: str, tokens: int) -> Any:
    """Four layers whose activations are hundreds of megabytes at some thousand tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "llama", vocab_size=256, hidden_size=256, intermediate_size=768, num_attention_heads=4, num_key_value_heads=2,
        num_hidden_layers=4, max_position_embeddings=tokens,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).to(device).eval()
    return model.requires_grad_(False)


def prompt(tokens: int, device: str) -> torch.Tensor:
    return torch.randint(0, 256, (1, tokens), generator=torch.Generator().manual_seed(0)).to(device)


def added(lrp: Any, ids: torch.Tensor, question: str) -> int:
    """One trace and one question of it; bytes that it adds to what is allocated on the GPU at its peak."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    trace = lrp.trace(input_ids=ids)
    if question == "graph":
        trace.graph(TARGET, connected=False)
    else:
        trace.attribute(TARGET)
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


@DTYPES
@pytest.mark.parametrize("times", [1.0, 1.5])
@pytest.mark.parametrize(
    ("kind", "question"),
    [(kind, question) for kind in ("offloaded", "checkpointed") for question in ("attribute", "graph")]
    + [("whole", "attribute")],
)
def test_the_peak_stays_within_the_budget(kind: str, question: str, times: float, dtype: torch.dtype, gpu: str) -> None:
    """Each budget is the least of its kind, or half as much again; what a first call takes comes on top."""
    model, ids = llama(dtype, gpu, TOKENS), prompt(TOKENS, gpu)
    with instrument(model) as lrp:
        memory = lrp.checkpointing
        least = {"offloaded": memory.offloaded_bytes, "checkpointed": memory.checkpointed_bytes}
        needed = least.get(kind, memory.whole_bytes)(1, TOKENS)
        added(lrp, ids, question)  # libraries' workspaces are allocated once
        constant = added(lrp, ids[:, :FEW_TOKENS], question)
    budget = math.ceil(times * needed)
    with instrument(model, max_memory=budget) as lrp:
        peak = added(lrp, ids, question)
        kept = (lrp.checkpointing.active, lrp.checkpointing.offloading)
    assert constant < budget / 2
    assert peak <= budget + constant, f"{peak / 1e6:.1f} MB of {budget / 1e6:.1f} MB and {constant / 1e6:.1f} MB"
    if times == 1.0:
        assert kept == {"offloaded": (True, True), "checkpointed": (True, False), "whole": (False, False)}[kind]
        assert peak > budget / 4, f"{peak / 1e6:.1f} MB of {budget / 1e6:.1f} MB: the measurement sees activations"


@DTYPES
def test_memory_grows_in_proportion_to_the_tokens(dtype: torch.dtype, gpu: str) -> None:
    short, long = TOKENS, 4 * TOKENS
    model = llama(dtype, gpu, long)
    with instrument(model, checkpoint=True) as lrp:
        added(lrp, prompt(FEW_TOKENS, gpu), "attribute")
        peaks = [added(lrp, prompt(tokens, gpu), "attribute") for tokens in (short, long)]
    assert 3.0 <= peaks[1] / peaks[0] <= 4.4, peaks


def test_nothing_is_left_on_the_device(gpu: str) -> None:
    model, ids = llama(torch.float32, gpu, TOKENS), prompt(TOKENS, gpu)
    with instrument(model) as lrp:
        added(lrp, ids, "attribute")
    before = torch.cuda.memory_allocated()
    with instrument(model) as lrp:
        trace = lrp.trace(input_ids=ids)
        trace.attribute(TARGET)
        del trace
    del lrp
    assert torch.cuda.memory_allocated() <= before + ids.nbytes + 2**20


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt_oss", "deepseek_v3", "mixtral"])
def test_checkpointing_changes_nothing(name: str, device: str) -> None:
    agree(twins(name), device, explanation(inputs(name, length=19)), checkpoint=True)


@pytest.mark.parametrize("length", [12, 300])
def test_streams_are_moved_to_the_hosts_memory(length: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models, ids, moved = long_llama(num_hidden_layers=12), inputs("llama", length=length), []
    move = Offload._move
    monkeypatch.setattr(Offload, "_move", lambda self, x: moved.append(x.device.type) or move(self, x))
    with instrument(models.low) as lrp:
        memory = lrp.checkpointing
        least, streams = memory.offloaded_bytes(1, length), memory.checkpointed_bytes(1, length)
    assert least < streams
    agree(models, device, explanation(ids), max_memory=int((least + streams) / 2))
    assert moved.count(device) >= 13, "every residual point, once"


@pytest.mark.parametrize("ask", ["attribute", "graph"])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_an_interrupt_leaves_the_model_clean(ask: str, checkpoint: bool, device: str) -> None:
    model, ids = twins("llama").low.to(device), inputs("llama").to(device)
    untouched = model(input_ids=ids).logits.detach()
    flags = [p.requires_grad for p in model.parameters()]

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with instrument(model, checkpoint=checkpoint) as lrp:
        trace = lrp.trace(input_ids=ids)
        expected = trace.attribute(CONTRAST).layers
        with pytest.raises(KeyboardInterrupt):
            getattr(trace, ask)(CONTRAST, progress=interrupt)
        assert lrp.tape.record is None
        for again in (trace, lrp.trace(input_ids=ids)):
            assert torch.allclose(again.attribute(CONTRAST).layers, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(input_ids=ids).logits, untouched)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())


def test_an_error_in_a_forward_leaves_the_model_clean(device: str) -> None:
    model, ids = twins("llama").low.to(device), inputs("llama").to(device)
    untouched = model(input_ids=ids).logits.detach()

    def fail(*_: Any) -> None:
        raise ValueError("on purpose")

    with instrument(model, checkpoint=True) as lrp:
        hook = model.model.layers[1].mlp.register_forward_pre_hook(fail)
        with pytest.raises(ValueError, match="on purpose"):
            lrp.trace(input_ids=ids)
        hook.remove()
        assert lrp.tape.record is None
        assert torch.isfinite(lrp.trace(input_ids=ids).attribute(CONTRAST).layers).all()
    assert torch.equal(model(input_ids=ids).logits, untouched)


# Weights elsewhere ---------------------------------------------------------------------------------------------------


def places(device: str) -> dict[str, Any]:
    """The second and third block away: in the host's memory; on disk where the host's memory is the device."""
    home, away = (0, "cpu") if device == "cuda" else ("cpu", "disk")
    parts = ("model.embed_tokens", "model.rotary_emb", "model.layers.0", "model.norm", "lm_head")
    return dict.fromkeys(parts, home) | {"model.layers.1": away, "model.layers.2": away}


@pytest.mark.parametrize("way", ["dispatched", "offloaded"])
def test_weights_that_accelerate_fetches(way: str, device: str, tmp_path: Path) -> None:
    models, ids = twins("llama"), inputs("llama", length=19)
    question = explanation(ids)
    with instrument(twins("llama").low.to(device)) as lrp:
        expected = question(lrp, device)
    if way == "offloaded":
        model = cpu_offload(models.low, execution_device=torch.device(device))
    else:
        model = dispatch_model(models.low, places(device), offload_dir=str(tmp_path))
    with instrument(model) as lrp:
        found = question(lrp, device)
        assert lrp.checkpointing.active, "without it every block's weights would wait for the backward pass"
    assert model.model.layers[1].mlp.down_proj.weight.is_meta
    for name, part in expected.items():
        assert (found[name].cpu() - part.cpu()).abs().max() <= 1e-5 * part.abs().max(), name


def test_a_model_reinitialised_on_the_device_is_explained_anew(device: str) -> None:
    """Nothing about weights is remembered from one instrumentation to the next."""
    models, ids = twins("llama"), inputs("llama", length=19)
    with instrument(models.low.to(device)) as lrp:
        lrp.trace(input_ids=ids.to(device)).attribute(CONTRAST)
    models.low.to("cpu")
    for model in (models.low, models.wide):
        reinitialise(model, seed=1)
    for low, wide in zip(models.low.parameters(), models.wide.parameters(), strict=True):
        wide.data = low.detach().double()
    agree(models, device, explanation(ids))
