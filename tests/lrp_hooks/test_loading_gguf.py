"""A quantised GGUF file, written here, is loaded and explained as the same model with its weights decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from families import reinitialise
from transformers import Qwen2Config, Qwen2ForCausalLM

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.loading.model import load_model

WORDS = [chr(33 + i) for i in range(94)] + ["Ġ", "ĠĠ"]
TENSORS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
"""transformers' names to those of GGUF's specification."""


def qwen() -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(WORDS),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config).eval()
    reinitialise(model)
    return model


def name_in_gguf(name: str) -> str:
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    module, kind = name.rsplit(".", 1)
    if module in whole:
        return f"{whole[module]}.{kind}"
    _, _, number, inner = module.split(".", 3)
    return f"blk.{number}.{TENSORS[inner]}.{kind}"


def write(model: Qwen2ForCausalLM, path: Path, kind: gguf.GGMLQuantizationType) -> None:
    """The model's file, and the rounding of its matrices put into the model itself."""
    config: Any = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(WORDS)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(WORDS))
    writer.add_token_merges(["Ġ Ġ"])
    writer.add_eos_token_id(0)
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if values.ndim == 1:
            writer.add_tensor(name_in_gguf(name), values)
            continue
        encoded = gguf.quants.quantize(values, kind)
        writer.add_tensor(name_in_gguf(name), encoded, raw_dtype=kind)
        parameter.data = torch.from_numpy(gguf.quants.dequantize(encoded, kind).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_a_gguf_model_is_explained_as_its_decoded_weights(kind: str, tmp_path: Path) -> None:
    decoded, path = qwen(), tmp_path / "tiny.gguf"
    before = decoded.lm_head.weight.detach().clone()
    write(decoded, path, gguf.GGMLQuantizationType[kind])
    assert not torch.equal(before, decoded.lm_head.weight), "the file rounds"
    ids, target = torch.arange(3, 15)[None], LogitDiff(5, 7)
    found = []
    for model in (decoded, load_model(str(path)).model):
        with instrument(model) as lrp:
            relevance = lrp.trace(input_ids=ids).attribute(target)
            edges = lrp.trace(input_ids=ids).edge_matrices(target)
        assert relevance.ledger().max() < 1e-5
        found.append((relevance.tokens, *edges.values()))
    for expected, seen in zip(*found, strict=True):
        assert (expected - seen).abs().max() < 1e-5 * expected.abs().max()
