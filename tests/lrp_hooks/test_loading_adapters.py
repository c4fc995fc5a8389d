"""PEFT adapters on top of a model: explained through the wrapper, equal to merged weights."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from loaded import IDS, TARGET, difference, explain, tiny

from lrp_hooks import instrument
from lrp_hooks.errors import UnsupportedModelError

peft = importlib.import_module("peft")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # peft calls what transformers has deprecated
MODULES = ["q_proj", "v_proj", "gate_proj", "down_proj"]


def adapted(config: Any) -> Any:
    """The tiny llama with the adapter, whose matrices are random (a fresh LoRA changes nothing)."""
    model = peft.get_peft_model(tiny(), config).eval()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "ia3_" in name:
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


CONFIGS = {
    "lora": lambda: peft.LoraConfig(r=4, lora_dropout=0.3, target_modules=MODULES),
    "rank-stabilised": lambda: peft.LoraConfig(r=4, use_rslora=True, target_modules=MODULES),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, target_modules=MODULES),
    "ia3": lambda: peft.IA3Config(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_adapters_are_explained_as_merged_weights_are(name: str) -> None:
    model = adapted(CONFIGS[name]())
    through = explain(model)
    assert through.ledger().max() < 1e-5
    assert difference(through, explain(tiny())) > 0.01, "the adapter matters"
    assert difference(through, explain(model.get_base_model())) < 1e-6
    assert difference(through, explain(model.merge_and_unload())) < 1e-5


def test_edges_through_adapters() -> None:
    model = adapted(CONFIGS["lora"]())
    with instrument(model) as lrp:
        edges = lrp.trace(input_ids=IDS).edge_matrices(TARGET)
    with instrument(model.merge_and_unload()) as lrp:
        merged = lrp.trace(input_ids=IDS).edge_matrices(TARGET)
    for key, matrix in merged.items():
        assert (edges[key] - matrix).abs().max() < 1e-5 * matrix.abs().max()


def test_the_wrapper_records_too_and_its_mode_comes_back() -> None:
    """Dropout of the adapter is off while instrumented, in a model that was training."""
    model = adapted(CONFIGS["lora"]()).train()
    flags = {name: module.training for name, module in model.named_modules()}
    with instrument(model) as lrp:
        model(input_ids=IDS).logits[0, -1, 5].backward()
        low = lrp.relevance()
    assert {name: module.training for name, module in model.named_modules()} == flags
    assert difference(low, explain(model.eval())) < 1e-6


def test_learned_prompts_are_refused() -> None:
    config = peft.PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    with pytest.raises(UnsupportedModelError, match=r"PrefixTuningConfig.*get_base_model"):
        instrument(peft.get_peft_model(tiny(), config))
