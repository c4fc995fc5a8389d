"""Tiny random models of every family that must be covered, re-initialised so that no ingredient is invisible.

With default initialisation biases are zero, norms are one and missing tangents or a missing key path change nothing
that a tolerance would see. Here matrices are N(0, 1/fan_in), embeddings N(0, 1), and every vector gets N(0, 0.3) added.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

VOCABULARY = 97
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEAD = {"head_dim": 8}
WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
GPT2 = {
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_positions": 64,
    "vocab_size": VOCABULARY,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
BIASED = {"attention_bias": True}
CAPS = {"attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 2, "final_logit_softcapping": 5.0}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {**SIZES, **BIASED, "mlp_bias": True}),
    "llama-bias-free": ("llama", SIZES),
    "mistral": ("mistral", {**SIZES, "sliding_window": 5}),
    "qwen2": ("qwen2", SIZES),
    "qwen3": ("qwen3", {**SIZES, **HEAD, **BIASED}),
    "gemma": ("gemma", {**SIZES, **HEAD, **BIASED}),
    "gemma2": (
        "gemma2",
        {**SIZES, **HEAD, **WINDOW, **BIASED, **CAPS},
    ),
    "gemma3": ("gemma3_text", {**SIZES, **HEAD, **WINDOW, **BIASED}),
    "phi": ("phi", {**SIZES, "num_key_value_heads": 4}),
    "phi-qk-norm": ("phi", {**SIZES, "num_key_value_heads": 4, "qk_layernorm": True}),
    "phi3": ("phi3", SIZES),
    "gpt2": ("gpt2", GPT2),
    "gpt_neox": ("gpt_neox", {k: v for k, v in SIZES.items() if k != "num_key_value_heads"}),
    "gpt_neox-sequential": (
        "gpt_neox",
        {**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"}, "use_parallel_residual": False},
    ),
    "stablelm": ("stablelm", {**SIZES, "use_qkv_bias": True}),
    "stablelm-parallel": ("stablelm", {**SIZES, "use_parallel_residual": True, "qk_layernorm": True}),
    "olmo": ("olmo", {**SIZES, **BIASED}),
    "olmo2": ("olmo2", {**SIZES, **BIASED}),
    "olmo3": ("olmo3", {**SIZES, **WINDOW, **BIASED}),
    "cohere": ("cohere", {**SIZES, **BIASED}),
    "cohere-qk-norm": ("cohere", {**SIZES, "use_qk_norm": True}),
    "cohere2": ("cohere2", {**SIZES, **HEAD, **WINDOW, **BIASED}),
    "granite": (
        "granite",
        {
            **SIZES,
            **BIASED,
            "mlp_bias": True,
            "residual_multiplier": 0.7,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
        },
    ),
    "smollm3": ("smollm3", {**SIZES, **BIASED, "mlp_bias": True}),
    "glm4": ("glm4", {**SIZES, **HEAD, **BIASED}),
    "starcoder2": ("starcoder2", {**SIZES, "sliding_window": 5}),
    "exaone4": ("exaone4", {**SIZES, **WINDOW}),
    "nemotron": ("nemotron", {**SIZES, **BIASED, "mlp_bias": True}),
    "helium": ("helium", {**SIZES, **HEAD, **BIASED, "mlp_bias": True}),
    "ernie4_5": ("ernie4_5", {**SIZES, "use_bias": True}),
    "seed_oss": ("seed_oss", {**SIZES, **HEAD, "attention_out_bias": True, "mlp_bias": True}),
}

# Options that the rows above leave at a default which hides them: windows that qwen and phi3 ignore unless told,
# the layer without positions that smollm3 has only every fourth time, scales that are one, rotations that stretch.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2-window": ("qwen2", {**SIZES, **WINDOW, "use_sliding_window": True}),
    "qwen3-window": ("qwen3", {**SIZES, **HEAD, **BIASED, **WINDOW, "use_sliding_window": True}),
    "phi3-window": ("phi3", {**SIZES, "sliding_window": 5, "partial_rotary_factor": 0.5}),
    "smollm3-nope": (
        "smollm3",
        {**SIZES, **BIASED, "no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 5},
    ),
    "exaone4-full": ("exaone4", {**SIZES, "sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "gpt2-scaled": ("gpt2", {**GPT2, "scale_attn_by_inverse_layer_idx": True}),
    "granite-scaled": ("granite", {**SIZES, **BIASED, "attention_multiplier": 0.2}),
    "cohere-qk-norm-biased": ("cohere", {**SIZES, **BIASED, "use_qk_norm": True, "logit_scale": 0.5}),
    "stablelm-parallel-biased": (
        "stablelm",
        {**SIZES, "use_parallel_residual": True, "qk_layernorm": True, "use_qkv_bias": True},
    ),
    "llama-yarn": (
        "llama",
        {
            **SIZES,
            **BIASED,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        },
    ),
}


MOE = {**SIZES, "num_experts_per_tok": 2, "norm_topk_prob": True}
MLA = {
    "q_lora_rank": 12,
    "kv_lora_rank": 10,
    "qk_nope_head_dim": 6,
    "qk_rope_head_dim": 4,
    "qk_head_dim": 10,
    "v_head_dim": 5,
    "head_dim": 4,
    "num_key_value_heads": 4,
}

# Mixtures of experts: routing of every kind, a shared expert with and without a gate, sinks, clamps, biases, MLA.
EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("mixtral", {**MOE, "num_local_experts": 4, "sliding_window": None}),
    "qwen2_moe": (
        "qwen2_moe",
        {**MOE, "num_experts": 4, "moe_intermediate_size": 20, "shared_expert_intermediate_size": 24},
    ),
    "qwen3_moe": ("qwen3_moe", {**MOE, **HEAD, **BIASED, "num_experts": 4, "moe_intermediate_size": 20}),
    "qwen3_moe-raw-weights": (
        "qwen3_moe",
        {**MOE, **HEAD, "num_experts": 4, "moe_intermediate_size": 20, "norm_topk_prob": False, "mlp_only_layers": [1]},
    ),
    "gpt_oss": (
        "gpt_oss",
        {**SIZES, **HEAD, **WINDOW, "num_local_experts": 4, "num_experts_per_tok": 2, "swiglu_limit": 1.0},
    ),
    "deepseek_v3": (
        "deepseek_v3",
        {
            **SIZES,
            **BIASED,
            **MLA,
            "moe_intermediate_size": 20,
            "n_routed_experts": 6,
            "num_experts_per_tok": 3,
            "n_group": 2,
            "topk_group": 1,
            "first_k_dense_replace": 1,
            "n_shared_experts": 1,
            "routed_scaling_factor": 1.5,
        },
    ),
    "granitemoe": (
        "granitemoe",
        {
            **SIZES,
            **BIASED,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "residual_multiplier": 0.7,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
        },
    ),
}


def build(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    attn_implementation: str | None = None,
    experts_implementation: str | None = None,
) -> Any:
    """A tiny model of the family in eval mode, re-initialised."""
    kind, options = next(table[name] for table in (FAMILIES, VARIANTS, EXPERTS) if name in table)
    config = AutoConfig.for_model(kind, **options)
    # sdpa has no softcap and no sinks: these run eager, as their own default does
    attention = attn_implementation or ("eager" if kind in ("gemma2", "gpt_oss") else "sdpa")
    if name in EXPERTS:
        config._experts_implementation = experts_implementation or "eager"  # the grouped product has no float64
    with torch.random.fork_rng(devices=[]):  # vectors keep what they are initialised with, gpt_oss's at random
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention, dtype=dtype).eval()
    if dtype == torch.float64:
        for parameter in model.parameters():  # some stay float32 whatever was asked for; buffers (RoPE's) do rightly
            parameter.data = parameter.double()
    reinitialise(model, seed)
    return model


def reinitialise(model: Any, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    embedding = model.get_input_embeddings().weight
    transposed = {id(m.weight) for m in model.modules() if type(m).__name__ == "Conv1D"}  # GPT-2: [in, out]
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
            if parameter.dim() == 1:
                parameter.add_(0.3 * noise)
            elif parameter is embedding:  # gemma multiplies its embedding by sqrt(D); let N(0, 1) reach the blocks
                parameter.copy_(noise / (parameter.shape[1] ** 0.5 if "gemma" in model.config.model_type else 1.0))
            elif parameter.dim() == 3:  # a bank: [experts, out, in], gpt_oss: [experts, in, out]
                parameter.copy_(noise / parameter.shape[1 if model.config.model_type == "gpt_oss" else 2] ** 0.5)
            else:
                fan_in = parameter.shape[0 if id(parameter) in transposed else -1]
                parameter.copy_(noise / fan_in**0.5)


def inputs(name: str, batch: int = 1, length: int = 12, seed: int = 0) -> Tensor:
    """Random token ids [batch, length] that avoid the special ones."""
    return torch.randint(3, VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(seed))


@contextmanager
def exact_float64() -> Iterator[None]:
    """Transformers computes norms and softmax in float32 whatever the model's dtype; inside, float64 stays float64.

    The methods themselves are replaced: a torch-function mode is not in force inside a backward pass.
    """
    plain_to, plain_float, plain_type = Tensor.to, Tensor.float, Tensor.type
    plain_softmax = torch.nn.functional.softmax

    def to(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if x.dtype == torch.float64:
            args = tuple(torch.float64 if a is torch.float32 else a for a in args)
            if kwargs.get("dtype") is torch.float32:
                kwargs["dtype"] = torch.float64
        return plain_to(x, *args, **kwargs)

    def to_float(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x if x.dtype == torch.float64 else plain_float(x, *args, **kwargs)

    def to_type(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return x if x.dtype == torch.float64 and torch.float32 in args else plain_type(x, *args, **kwargs)

    def softmax(x: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Tensor:
        keep = x.dtype == torch.float64 and dtype is torch.float32
        return plain_softmax(x, dim=dim, dtype=torch.float64 if keep else dtype)

    changes: dict[str, Any] = {"to": to, "float": to_float, "type": to_type}
    try:
        for name, method in changes.items():
            setattr(Tensor, name, method)
        torch.nn.functional.softmax = softmax  # type: ignore[assignment]
        yield
    finally:
        for name in changes:
            delattr(Tensor, name)  # what the base class has shows again
        torch.nn.functional.softmax = plain_softmax
