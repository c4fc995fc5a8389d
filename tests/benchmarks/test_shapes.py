"""Shapes of models: what transformers builds from them, what was published, and what fits a budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.shapes import SHAPES, Budget, Shape, config_of, first_layers, fitted, random_model, whole

PUBLISHED = {
    "SmolLM2-135M": 134_515_008,
    "Qwen3-0.6B": 596_049_920,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Llama-3-8B": 8_030_261_248,
}
"""Parameters of the published checkpoints, a tied head counted once."""
TINY = Shape("SmolLM2-135M", "llama", 3, 16, 24, 4, 2, 8, 60, tied=False)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_transformers_builds_models_of_the_published_size(shape: Shape) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape))
    assert sum(p.numel() for p in model.parameters()) == shape.parameters == PUBLISHED[shape.name]
    matrices = [p.numel() for p in model.model.layers[0].parameters() if p.dim() == 2]
    assert sum(matrices) == shape.block_weights


def test_the_demo_model_has_the_shape_of_its_name(demo: object) -> None:
    config = demo.model.config.to_dict()  # type: ignore[attr-defined]
    ours = config_of(whole("SmolLM2-135M")).to_dict()
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    for name in (*names, "head_dim", "vocab_size", "tie_word_embeddings", "model_type", "hidden_act"):
        assert ours[name] == config[name], name


@pytest.mark.parametrize("shape", [TINY, replace(TINY, family="qwen3", qk_norm=True)], ids=lambda shape: shape.family)
def test_flops_are_what_pytorch_counts(shape: Shape) -> None:
    """PyTorch counts whole T x T products, so attention's are counted apart, from its own rule for sdpa."""
    from torch.utils.flop_counter import FlopCounterMode

    model, tokens = random_model(shape), 7
    leaf = model.get_input_embeddings()(torch.arange(tokens)[None]).detach().requires_grad_()
    counted = []
    with FlopCounterMode(display=False) as counter:
        value = model(inputs_embeds=leaf, logits_to_keep=1, use_cache=False).logits[0, -1, 5]
    counted.append(_outside_attention(counter))
    with FlopCounterMode(display=False) as counter:
        value.backward()
    counted.append(_outside_attention(counter))
    products = shape.layers * shape.product(tokens)
    assert counted == [shape.forward(tokens) - 2 * products, shape.backward(tokens) - 5 * products]
    assert shape.product(tokens) == shape.heads * sum(2 * shape.head * (i + 1) for i in range(tokens))


def _outside_attention(counter: object) -> float:
    total = counter.get_flop_counts()["Global"]  # type: ignore[attr-defined]
    return float(sum(flops for name, flops in total.items() if "attention" not in str(name)))


def test_a_part_fits_both_budgets_and_says_what_it_is() -> None:
    large = whole("Qwen3-8B")
    roomy = Budget(1e9, 1e9, 64)
    assert fitted(large, roomy) == large
    by_memory = fitted(large, replace(roomy, megabytes=5000.0))
    size = by_memory.parameters * 4 / 2**20
    assert size <= 5000.0 < first_layers(large, by_memory.layers + 1).parameters * 4 / 2**20
    by_time = fitted(large, replace(roomy, gigaflops=500.0))
    more = first_layers(large, by_time.layers + 1)
    assert by_time.forward(64) + by_time.backward(64) <= 500e9 < more.forward(64) + more.backward(64)
    assert fitted(large, Budget(1.0, 1.0, 64)).said == "2 of 36"


def test_the_vocabulary_shrinks_with_the_layers() -> None:
    large = whole("Llama-3-8B")
    part = first_layers(large, 4)
    assert (part.layers, part.vocabulary, part.width) == (4, large.vocabulary // 8, large.width)
    head_share = [2 * shape.vocabulary * shape.width / shape.forward(128) for shape in (large, part)]
    assert head_share[0] == pytest.approx(head_share[1])


def test_random_models_are_the_same_each_time() -> None:
    one, other = (random_model(TINY) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert not any(p.requires_grad for p in one.parameters())
    assert not one.training


def test_an_unknown_shape_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"choices: SmolLM2-135M, Qwen3-0\.6B"):
        whole("Qwen3-9B")
