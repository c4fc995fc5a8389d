"""Quantised weights are linear maps, however their kernels look: probed, claimed, equal to their dense matrices."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from loaded import IDS, TARGET, densified, difference, explain, load, rank_correlation, save, tiny
from torch import nn
from transformers import BitsAndBytesConfig, TorchAoConfig

from lrp_hooks import instrument
from lrp_hooks.detection.linearity import ROUNDING, is_opaque_linear, linear_error
from lrp_hooks.errors import UnclaimedModuleError, UnsupportedModelError
from lrp_hooks.loading.packing import FLAG, keep_unpacked, packed
from lrp_hooks.sites import Role

CPU = torch.device("cpu")
# both libraries call deprecated parts of torch when they are imported
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

Loader = Callable[[Path], Any]


def torchao(name: str, **options: Any) -> Any:
    return getattr(importlib.import_module("torchao.quantization"), name)(**options)


def int4() -> Any:
    per_group = importlib.import_module("torchao.quantization.granularity").PerGroup(16)
    return torchao("IntxWeightOnlyConfig", weight_dtype=torch.int4, granularity=per_group)


def load_torchao(config: Callable[[], Any], folder: Path) -> Any:
    return load(folder, dtype=torch.float32, quantization_config=TorchAoConfig(config()))


def load_bitsandbytes(folder: Path, **options: Any) -> Any:
    importlib.import_module("bitsandbytes")
    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **options)
    model = load(folder, dtype=torch.float32, quantization_config=config, device_map="cpu")
    keep_unpacked(model)  # the tests' own forwards without gradients must not pack, whatever the processor
    return model


def quantised_by_hand(folder: Path) -> Any:
    """An ordinary model whose user calls the library on it."""
    model = load(folder, dtype=torch.float32)
    torchao("quantize_", model=model.model.layers, config=torchao("Int8WeightOnlyConfig"))
    return model


WAYS: dict[str, Loader] = {
    "torchao-int8": partial(load_torchao, partial(torchao, "Int8WeightOnlyConfig")),
    "torchao-int4": partial(load_torchao, int4),
    "torchao-by-hand": quantised_by_hand,
    "bitsandbytes-nf4": partial(load_bitsandbytes, load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "bitsandbytes-fp4-twice": partial(load_bitsandbytes, load_in_4bit=True, bnb_4bit_use_double_quant=True),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("way", WAYS)
def test_relevance_is_that_of_the_dense_matrices(way: str, folder: Path) -> None:
    """Attribution, ledger and exact edges; float32 rounding apart, the quantised model is the dense one."""
    model = WAYS[way](folder)
    opaque = [path for path, module in model.named_modules() if is_opaque_linear(module)]
    assert len(opaque) >= 21, "seven linear maps in each of three blocks are quantised"
    dense = densified(model)
    with instrument(model) as lrp, instrument(dense) as plain:
        assert {site.path for site in lrp.sites if site.role is Role.LINEAR} == set(opaque)
        ours, theirs = (x.trace(input_ids=IDS) for x in (lrp, plain))
        relevance = ours.attribute(TARGET)
        assert difference(relevance, theirs.attribute(TARGET)) < 1e-5
        assert relevance.ledger().max() < 1e-5
        edges, expected = ours.edge_matrices(TARGET), theirs.edge_matrices(TARGET)
    assert edges.keys() == expected.keys()
    for key, matrix in expected.items():
        assert (edges[key] - matrix).abs().max() < 1e-5 * matrix.abs().max()


def test_packed_edges_of_a_quantised_model(folder: Path) -> None:
    with instrument(WAYS["bitsandbytes-nf4"](folder)) as lrp:
        trace = lrp.trace(input_ids=IDS)
        exact, packed = trace.edge_matrices(TARGET), trace.edge_matrices(TARGET, method="packed")
    for key, matrix in packed.items():
        assert (exact[key] - matrix).abs().max() < 1e-4 * matrix.abs().max()


def test_weights_are_not_packed_while_a_model_is_instrumented(folder: Path) -> None:
    """On processors with AVX512-BF16 a forward without gradients would pack 4-bit weights, and end every gradient."""
    model = WAYS["bitsandbytes-nf4"](folder)
    expected = explain(model)
    layers = [module for module in model.modules() if hasattr(module, FLAG)]
    assert len(layers) == 21
    for layer in layers:
        setattr(layer, FLAG, True)
    with instrument(model) as lrp:  # its probes run without gradients
        assert not any(getattr(layer, FLAG) for layer in layers)
        with torch.no_grad():
            model(IDS)
        with lrp.suspended(), torch.no_grad():
            model(IDS)
        assert not list(packed(model))
        assert difference(lrp.trace(input_ids=IDS).attribute(TARGET), expected) == 0.0
    assert all(getattr(layer, FLAG) for layer in layers)


def test_packed_weights_are_refused_with_what_to_do(folder: Path) -> None:
    model = WAYS["bitsandbytes-nf4"](folder)
    model.model.layers[1].mlp.up_proj.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp\.up_proj has run without gradients.* do: load"):
        instrument(model)


def test_eight_bit_activations_are_linear_up_to_their_rounding(folder: Path) -> None:
    """LLM.int8 rounds what enters each map: the site says by how much, and the heatmap keeps its order."""
    config = BitsAndBytesConfig(load_in_8bit=True)
    model = load(folder, dtype=torch.float16, quantization_config=config, device_map="cpu")
    with instrument(model) as lrp:
        errors = [site.error for site in lrp.sites if site.role is Role.LINEAR]
        trace = lrp.trace(input_ids=IDS)
        relevance, edges = trace.attribute(TARGET), trace.edge_matrices(TARGET)
    with instrument(tiny()) as lrp:
        expected = lrp.trace(input_ids=IDS).edge_matrices(TARGET)
    for key, matrix in expected.items():
        assert (edges[key].float() - matrix).abs().max() < ROUNDING * matrix.abs().max()
    assert all(1e-3 < error < ROUNDING for error in errors)
    assert len(errors) == 21
    assert relevance.ledger().max() < 0.1
    assert rank_correlation(relevance.tokens, explain(tiny()).tokens) > 0.9


class Opaque(nn.Linear):
    """Claims to be linear, keeps its weight in eighths of a bit; what it computes is up to the subclass."""

    def __init__(self, of: nn.Linear, function: Callable[[torch.Tensor], torch.Tensor]):
        super().__init__(of.in_features, of.out_features, bias=False)
        self.function = function
        self.weight = nn.Parameter((of.weight.detach() * 64).round().to(torch.int8), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(nn.functional.linear(x, self.weight.to(x.dtype) / 64))


NOT_LINEAR: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "a soft squashing": lambda x: 20 * torch.tanh(x / 20),
    "a kink": torch.relu,
    "a stopped gradient": lambda x: x.detach() + 0 * x,
    "a gradient ten percent too large": lambda x: x.detach() + 1.1 * (x - x.detach()),
    "no gradient": lambda x: x.detach(),
}


@pytest.mark.parametrize("fault", NOT_LINEAR)
def test_what_only_claims_to_be_linear_is_refused_by_name(fault: str) -> None:
    model = tiny()
    layer = model.model.layers[1].mlp
    layer.down_proj = Opaque(layer.down_proj, NOT_LINEAR[fault])
    with pytest.raises(UnclaimedModuleError, match=r"layers\.1\.mlp\.down_proj .*linear map \("):
        instrument(model)
    layer.down_proj = Opaque(tiny().model.layers[1].mlp.down_proj, lambda x: x)
    instrument(model).remove()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_probe_measures_rounding_and_nothing_else(dtype: torch.dtype) -> None:
    linear = nn.Linear(64, 96, dtype=dtype)
    linear.bias.data.mul_(20.0)  # a large bias is no deviation
    error = linear_error(linear, dtype, CPU)
    assert error is not None
    assert error < 64 * torch.finfo(dtype).eps
    assert linear_error(linear, torch.float64, CPU) is None


def test_plain_linear_maps_are_not_probed() -> None:
    assert not is_opaque_linear(nn.Linear(4, 4))
    assert not is_opaque_linear(nn.ReLU())
    assert is_opaque_linear(Opaque(nn.Linear(4, 4), lambda x: x))
