"""States that a model can be in when it is handed over: each works, proved equal, or is refused with its reason."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build
from loaded import IDS, difference, explain, load, rank_correlation, save, tiny
from torch import nn

from lrp_hooks import instrument
from lrp_hooks.errors import ModelLoadError, UnsupportedModelError
from lrp_hooks.loading.model import load_model

# Compiled


def compiled_forward() -> Any:
    model = tiny()
    model.forward = torch.compile(model.forward, backend="eager")
    return model


def compiled_in_place() -> Any:
    model = tiny()
    model.compile(backend="eager")
    return model


def compiled_block() -> Any:
    model = tiny()
    model.model.layers[1].compile(backend="eager")
    return model


@pytest.mark.parametrize("make", [compiled_forward, compiled_in_place, compiled_block])
def test_compiled_models_run_eagerly_while_instrumented(make: Callable[[], Any]) -> None:
    model = make()
    before = [(module._compiled_call_impl, module.__dict__.get("forward")) for module in model.modules()]
    assert any(part is not None for pair in before for part in pair)
    assert difference(explain(model), explain(tiny())) == 0.0
    assert [(module._compiled_call_impl, module.__dict__.get("forward")) for module in model.modules()] == before


def test_a_compiled_wrapper_is_refused_wherever_it_is() -> None:
    with pytest.raises(UnsupportedModelError, match=r"the model is compiled.*_orig_mod"):
        instrument(torch.compile(tiny()))
    model = tiny()
    model.model.layers[1] = torch.compile(model.model.layers[1])
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.1 is compiled"):
        instrument(model)


# Attention implementations


def test_the_users_attention_implementation_gives_the_same_relevance() -> None:
    expected = explain(build("llama", dtype=torch.float32, attn_implementation="sdpa"))
    assert difference(explain(build("llama", dtype=torch.float32, attn_implementation="eager")), expected) < 1e-6


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.skipif(torch.cuda.is_available(), reason="flex attention has a backward pass on GPUs")
def test_flex_attention_without_a_backward_pass_is_refused() -> None:
    model = build("llama", dtype=torch.float32, attn_implementation="flex_attention")
    with pytest.raises(UnsupportedModelError, match="does not support backward on CPU"):
        instrument(model)


# Weights without values, of several dtypes, in several places


def test_weights_on_the_meta_device_are_named() -> None:
    with pytest.raises(UnsupportedModelError, match=r"model\.embed_tokens\.weight is on the meta device"):
        instrument(tiny().to("meta"))
    model = tiny()
    model.model.layers[1].mlp.down_proj.to("meta")
    with pytest.raises(UnsupportedModelError, match=r"layers\.1\.mlp\.down_proj\.weight is on the meta device"):
        instrument(model)


class InFloat32(nn.Module):
    """Runs a module in float32 inside a model of lower precision."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner.float()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x.float()).to(x.dtype)


def test_a_model_of_two_dtypes_is_explained() -> None:
    model = tiny(torch.bfloat16)
    for layer in model.model.layers:
        layer.mlp.down_proj = InFloat32(layer.mlp.down_proj)
    relevance = explain(model)
    assert relevance.ledger().max() < 0.1
    assert rank_correlation(relevance.tokens, explain(tiny()).tokens) > 0.95


def test_dtypes_that_do_not_fit_together_are_the_models_own_error() -> None:
    model = tiny()
    model.lm_head.double()
    with pytest.raises(UnsupportedModelError, match=r"does not run.*same dtype.*float"):
        instrument(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_the_order(dtype: torch.dtype) -> None:
    relevance = explain(tiny(dtype))
    assert relevance.ledger().max() < 0.1
    assert rank_correlation(relevance.tokens, explain(tiny()).tokens) > 0.95


def test_tied_weights() -> None:
    model, untied = tiny(), tiny()
    model.lm_head.weight = model.model.embed_tokens.weight
    untied.lm_head.weight = nn.Parameter(untied.model.embed_tokens.weight.detach().clone())
    relevance = explain(model)
    assert relevance.ledger().max() < 1e-5
    assert difference(relevance, explain(untied)) < 1e-6


class Twice(nn.Module):
    """Calls one MLP twice in one forward."""

    def __init__(self, inner: nn.Module, again: nn.Module):
        super().__init__()
        self.inner, self.between, self.again = inner, nn.Linear(32, 32), again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.again(self.between(self.inner(x)))


def test_a_module_called_twice_counts_twice() -> None:
    once, twice = tiny(), tiny()
    mlp = twice.model.layers[1].mlp
    twice.model.layers[1].mlp = Twice(mlp, mlp)
    once.model.layers[1].mlp = copy.deepcopy(twice.model.layers[1].mlp)
    once.model.layers[1].mlp.again = copy.deepcopy(mlp)
    relevance = explain(twice)
    assert relevance.ledger().max() < 1e-5
    assert difference(relevance, explain(once)) < 1e-6


def test_a_norm_shared_by_blocks() -> None:
    shared, separate = tiny(), tiny()
    norm = shared.model.layers[0].input_layernorm
    for ours, theirs in zip(shared.model.layers, separate.model.layers, strict=True):
        ours.input_layernorm, theirs.input_layernorm = norm, copy.deepcopy(norm)
    relevance = explain(shared)
    assert relevance.ledger().max() < 1e-5
    assert difference(relevance, explain(separate)) < 1e-6


@pytest.mark.parametrize("name", ["mlp", "self_attn"])
def test_other_modules_shared_by_blocks_are_named(name: str) -> None:
    model = tiny()
    setattr(model.model.layers[2], name, getattr(model.model.layers[0], name))
    with pytest.raises(UnsupportedModelError, match=rf"layers\.0\.{name} and model\.layers\.2\.{name} are one module"):
        instrument(model)


def test_a_block_that_runs_twice_is_named() -> None:
    model = tiny()
    model.model.layers[2] = model.model.layers[0]
    with pytest.raises(UnsupportedModelError, match=r"model\.layers\.0 and model\.layers\.2 are one module"):
        instrument(model)


# Code from the repository

REMOTE = '''
import torch
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention, apply_rotary_pos_emb, repeat_kv

class OwnAttention(LlamaAttention):
    """Attention of its own, past transformers' attention interface."""

    def forward(self, hidden_states, position_embeddings, attention_mask=None, past_key_values=None, **kwargs):
        batch, length, _ = hidden_states.shape
        shape = (batch, length, -1, self.head_dim)
        q, k, v = (p(hidden_states).view(shape).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = apply_rotary_pos_emb(q, k, *position_embeddings)
        k, v = repeat_kv(k, self.num_key_value_groups), repeat_kv(v, self.num_key_value_groups)
        scores = torch.matmul(q, k.transpose(2, 3)) * self.scaling
        causal = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
        weights = torch.softmax(scores.masked_fill(~causal, float("-inf")), dim=-1)
        out = torch.matmul(weights, v).transpose(1, 2).reshape(batch, length, -1)
        return self.o_proj(out), weights

class OwnForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        for index, layer in enumerate(self.model.layers):
            layer.self_attn = OwnAttention(config, index)
'''


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = save(tmp_path / "model")
    (folder / "modeling_own.py").write_text(REMOTE)
    config = (folder / "config.json").read_text()
    own = '"auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"},'
    (folder / "config.json").write_text(config.replace("{", "{" + own, 1))
    return folder


def test_code_from_a_repository_runs_only_when_asked_for(remote: Path) -> None:
    model = load_model(str(remote)).model
    assert type(model).__name__ == "LlamaForCausalLM", "transformers has the architecture itself: its own code is used"


def test_attention_outside_the_interface_is_explained_alike(remote: Path) -> None:
    model = load_model(str(remote), trust_remote_code=True, dtype="float32").model
    assert type(model).__name__ == "OwnForCausalLM"
    relevance = explain(model)
    assert relevance.ledger().max() < 1e-5
    assert difference(relevance, explain(tiny())) < 1e-5


# Revisions


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    folder = save(tmp_path / "model")
    with pytest.raises(ModelLoadError, match=r"folder.*revision='step1000'"):
        load_model(str(folder), revision="step1000")
    assert difference(explain(load(folder, dtype=torch.float32), IDS), explain(tiny())) == 0.0
