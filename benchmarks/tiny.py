"""Tiny random models of any type of the installed transformers, with any head, from nothing but its default config.

Sizes are shrunk by the name of the config field; lists with one entry per layer are cut so that every kind of layer
stays. Weights are re-initialised (matrices N(0, 1/fan_in), vectors + N(0, 0.3)): with default initialisation biases
are zero and a missing rule changes nothing that a tolerance would see.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig
from transformers.models.auto import modeling_auto

VOCABULARY = 97
LAYERS, HEAD_LAYERS = 4, 2
"""Of causal language models, and of models with other heads, whose blocks are mostly the same."""
LAYER_FIELDS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


@dataclass(frozen=True)
class Task:
    """What a model's head is for.

    Attributes:
        name: in words; auto: transformers' class that builds models for it; mapping: its table of types.
        labels: number of classes, 0 for heads to the vocabulary.
        removals: whether each rule is taken away once. Not for heads on bodies for which another table does that.
    """

    name: str
    auto: str
    mapping: str
    labels: int = 0
    removals: bool = True

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(getattr(modeling_auto, f"MODEL_FOR_{self.mapping}_MAPPING_NAMES"))


CAUSAL = Task("causal language model", "AutoModelForCausalLM", "CAUSAL_LM")
TASKS = {
    task.name: task
    for task in (
        Task("sequence classification", "AutoModelForSequenceClassification", "SEQUENCE_CLASSIFICATION", 3, False),
        Task("token classification", "AutoModelForTokenClassification", "TOKEN_CLASSIFICATION", 3, False),
        Task("question answering", "AutoModelForQuestionAnswering", "QUESTION_ANSWERING", 2, False),
        Task("masked language model", "AutoModelForMaskedLM", "MASKED_LM"),
        Task("sequence to sequence", "AutoModelForSeq2SeqLM", "SEQ_TO_SEQ_CAUSAL_LM"),
        Task("image classification", "AutoModelForImageClassification", "IMAGE_CLASSIFICATION", 3),
    )
}
TYPES = CAUSAL.types

FIELDS: dict[str, int] = {
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embedding_size", "input_embedding_size"), 32
    ),
    **dict.fromkeys(("output_embedding_size", "word_embed_proj_dim", "attention_hidden_size", "lru_width"), 32),
    **dict.fromkeys(("embedding_dim", "decoder_hidden_size", "hidden_size_global", "out_hidden_size", "embed_dim"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "decoder_ffn_dim", "encoder_ffn_dim", "d_ff", "dim_ff"), 48),
    **dict.fromkeys(("ffn_hidden_size", "dff", "n_inner", "d_inner", "feed_forward_size", "intermediate_size_mlp"), 48),
    **dict.fromkeys(("dense_intermediate_size", "shared_intermediate_size", "shared_expert_intermediate_size"), 24),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "shared_experts_intermediate_size"), 24),
    **dict.fromkeys(("moe_shared_expert_intermediate_size",), 24),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "encoder_layers", "num_encoder_layers"), 2),
    **dict.fromkeys(("pooler_hidden_size", "pooler_output_size"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "decoder_attention_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_encoder_attention_heads", "swa_num_attention_heads", "num_query_groups"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "swa_num_key_value_heads", "kv_channels"), 2),
    **dict.fromkeys(("num_global_key_value_heads",), 2),
    **dict.fromkeys(("head_dim", "kv_head_dim", "attention_head_dim", "swa_head_dim", "d_head", "d_kv"), 8),
    **dict.fromkeys(("global_head_dim", "attention_head_size", "v_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 4),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "o_lora_rank"), 16),
    "qk_head_dim": 12,
    **dict.fromkeys(("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "num_dense_layers", "num_shared_experts"), 1),
    **dict.fromkeys(("n_shared_experts", "moe_num_shared_experts", "zero_expert_num"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "model_max_length"), 64),
    **dict.fromkeys(("max_target_positions", "max_source_positions"), 64),
    "original_max_position_embeddings": 32,
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "local_attention"), 5),
    **dict.fromkeys(("attention_chunk_size", "window_size"), 5),
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size"), VOCABULARY),
    **dict.fromkeys(("index_head_dim",), 8),
    **dict.fromkeys(("index_n_heads",), 4),
    **dict.fromkeys(("index_topk",), 64),
    **dict.fromkeys(("linear_num_key_heads",), 2),
    **dict.fromkeys(("linear_num_value_heads", "linear_num_heads"), 4),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim", "linear_head_dim"), 8),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "n_mamba_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_headdim", "mamba_head_dim"), 8),
    **dict.fromkeys(("mamba_d_ssm",), 64),
    **dict.fromkeys(("mamba_chunk_size", "chunk_size"), 8),
    **dict.fromkeys(("mamba_dt_rank", "time_step_rank"), 4),
    **dict.fromkeys(("hidden_size_per_layer_input",), 8),
    **dict.fromkeys(("laurel_rank",), 8),
    **dict.fromkeys(("type_vocab_size",), 2),
    **dict.fromkeys(("num_kv_shared_layers",), 1),
    **dict.fromkeys(("router_hidden_size",), 16),
    **dict.fromkeys(("n_groups", "mamba_n_groups"), 2),
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 32,
    "num_register_tokens": 2,
}
"""Small values by field name, in whatever config or sub-config the name occurs."""

PER_TYPE: dict[str, dict[str, Any]] = {
    "mamba2": {"num_heads": 8},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "ministral": {"head_dim": 8, "num_key_value_heads": 2},
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "n_mamba_heads": 2},
    "zamba2": {"attention_hidden_size": 64, "attention_head_dim": 16, "add_bias_linear": True},
    "dots1": {"num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    "reformer": {"axial_pos_embds_dim": [8, 24], "axial_pos_shape": [8, 8], "is_decoder": True},
    "xmod": {"default_language": "en_XX"},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "blt": {"encoder_hash_byte_group_vocab": 97},
    "swin": {"embed_dim": 24, "window_size": 2, "patch_size": 2},
    "swinv2": {"embed_dim": 24, "window_size": 2, "patch_size": 2},
    "donut-swin": {"embed_dim": 24, "window_size": 2, "patch_size": 2},
    "layoutlm": {"max_2d_position_embeddings": 64},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 3},
}
"""What the general table gets wrong, by model type."""

IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def shrink(config: dict[str, Any], layers_kept: int) -> dict[str, Any]:
    """The same config dictionary with small sizes, sub-configs included."""
    layers = next((config[n] for n in LAYER_FIELDS if config.get(n)), None)
    small: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and (name.endswith("config") or name in ("encoder", "decoder")):
            small[name] = shrink(value, layers_kept)
        elif isinstance(value, list) and isinstance(layers, int) and len(value) == layers:
            small[name] = kinds_kept(value, layers_kept)
        elif name in LAYER_FIELDS and isinstance(value, int) and value > 0:
            small[name] = layers_kept
        elif isinstance(value, int) and not isinstance(value, bool) and name in FIELDS and value > 0:
            small[name] = FIELDS[name]
        elif name in IDS and isinstance(value, int):
            small[name] = IDS[name]
        elif name == "eos_token_id":
            small[name] = 2
        elif name.endswith("token_id") and isinstance(value, int) and value >= VOCABULARY:
            small[name] = 3
        else:
            small[name] = value
    return small


def kinds_kept(values: list[Any], count: int) -> list[Any]:
    """``count`` entries in which every kind occurs, in the order of first occurrence, then the pattern again."""
    kinds = list(dict.fromkeys(map(repr, values)))
    first = [values[[repr(v) for v in values].index(kind)] for kind in kinds]
    return [first[i % len(first)] for i in range(count)]


def tiny_config(kind: str, task: Task = CAUSAL) -> Any:
    """The type's default config, shrunk."""
    default = AutoConfig.for_model(kind)
    plain = shrink(copy.deepcopy(default.to_dict()), LAYERS if task is CAUSAL else HEAD_LAYERS)
    for name in ("architectures", "transformers_version", "model_type", "torch_dtype", "dtype"):
        plain.pop(name, None)
    for name in ("stage_names", "out_features", "out_indices"):  # follow from the number of layers
        plain.pop(name, None)
    text = plain.get("text_config") if isinstance(plain.get("text_config"), dict) else plain
    if "qk_rope_head_dim" in text:  # MLA: every head has its key, and head_dim is its rotated part
        text.update({n: text["qk_rope_head_dim"] for n in ("head_dim",) if n in text})
        text.update({n: text["num_attention_heads"] for n in ("num_key_value_heads",) if n in text})
    text.pop("per_layer_config", None)
    plain.update(PER_TYPE.get(kind, {}))
    config = type(default)(**plain)
    config.architectures = []  # some types look here which of two classes is meant
    if task.labels:
        config.num_labels = task.labels
    if getattr(config, "is_encoder_decoder", False) and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 3
    if task is CAUSAL and hasattr(config, "is_decoder") and not getattr(config, "is_encoder_decoder", False):
        config.is_decoder = True
    return config


def tiny_model(
    kind: str, dtype: torch.dtype = torch.float32, attention: str | None = None, seed: int = 0, task: Task = CAUSAL
) -> Any:
    """A re-initialised tiny model in eval mode; ``attention``: sdpa where the type has it, else eager."""
    torch.manual_seed(seed)
    config = tiny_config(kind, task)
    auto = getattr(transformers, task.auto)
    choices = [attention] if attention else ["sdpa", "eager"]
    experts = {"experts_implementation": "eager"} if dtype == torch.float64 else {}  # no grouped float64 product
    for choice in choices:
        try:
            model = auto.from_config(copy.deepcopy(config), attn_implementation=choice, dtype=dtype, **experts)
            break
        except ValueError:
            if choice == choices[-1]:
                raise
    reinitialise(model.eval().to(dtype), seed)  # some parts stay float32 whatever was asked for
    return model


def reinitialise(model: Any, seed: int = 0) -> None:
    """Matrices N(0, 1/fan_in), embeddings N(0, 1), vectors + N(0, 0.3)."""
    generator = torch.Generator().manual_seed(seed)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    transposed = {id(m.weight) for m in model.modules() if type(m).__name__ == "Conv1D"}
    for module in model.modules():
        if getattr(module, "is_transposed", False):
            transposed |= {id(p) for p in module.parameters(recurse=False) if p.dim() == 3}
    scale = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding) and hasattr(m, "embed_scale")}
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.is_floating_point() or not parameter.numel():
                continue
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)
            if parameter.dim() < 2:
                parameter.add_(0.3 * noise)
            elif id(parameter) in tables:
                parameter.copy_(noise / (parameter.shape[1] ** 0.5 if id(parameter) in scale else 1.0))
            elif parameter.dim() == 2 and id(parameter) in transposed:
                parameter.copy_(noise / parameter.shape[0] ** 0.5)
            else:
                parameter.copy_(noise / parameter.shape[-2 if id(parameter) in transposed else -1] ** 0.5)
        bias = getattr(model, "final_logits_bias", None)  # a buffer of zeros in BART's relatives
        if isinstance(bias, Tensor):
            bias.copy_(torch.randn(bias.shape, generator=generator))


def tiny_ids(length: int = 12, seed: int = 0) -> Tensor:
    """[1, length] random ids that avoid the special ones."""
    return torch.randint(4, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))


def tiny_inputs(model: Any, task: Task, length: int = 12, seed: int = 0) -> dict[str, Tensor]:
    """One input for the task: ids that end as classified ones do, ids for both sides, or an image."""
    if task.mapping == "IMAGE_CLASSIFICATION" and model.main_input_name == "pixel_values":
        config = getattr(model.config, "vision_config", model.config)
        size = getattr(config, "image_size", None) or 32
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        generator = torch.Generator().manual_seed(seed)
        shape = (1, getattr(config, "num_channels", 3), height, width)
        return {"pixel_values": torch.randn(shape, generator=generator).to(next(model.parameters()).dtype)}
    ids = tiny_ids(length, seed)
    if task.mapping == "SEQ_TO_SEQ_CAUSAL_LM":
        return {"input_ids": ids, "decoder_input_ids": tiny_ids(7, seed + 1)}
    if task.labels:
        ids[:, -1] = IDS["eos_token_id"]
    return {"input_ids": ids}
