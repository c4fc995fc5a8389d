"""Shapes of well-known models, in one place: what decides their cost, random models of them, and parts that fit here.

A machine that cannot hold eight billion parameters can hold two of their 36 layers, which cost what two layers cost
in the whole model. The vocabulary shrinks by the same factor, so that embedding and head keep their share.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

VALUE_BYTES = 4
"""Of a float32 weight."""
LEAST_LAYERS = 2
"""One transition between layers more than one layer has."""


@dataclass(frozen=True)
class Shape:
    """A decoder of gated MLPs and grouped-query attention.

    Attributes:
        family: transformers' ``model_type``.
        width, inner: of the residual stream, and of an MLP.
        heads, groups, head: query heads, key/value heads, and the width of one.
        tied: whether the head is the embedding.
        qk_norm: whether queries and keys are normalised, each with a weight of ``head`` numbers.
    """

    name: str
    family: str
    layers: int
    width: int
    inner: int
    heads: int
    groups: int
    head: int
    vocabulary: int
    tied: bool
    qk_norm: bool = False

    @property
    def block_weights(self) -> int:
        """Numbers in the matrices of one block."""
        return self.width * (2 * self.head * (self.heads + self.groups) + 3 * self.inner)

    @property
    def parameters(self) -> int:
        """All numbers of the model; norms have no bias."""
        norms = 2 * self.width + (2 * self.head if self.qk_norm else 0)
        embeddings = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.layers * (self.block_weights + norms) + self.width + embeddings

    def product(self, tokens: int) -> float:
        """FLOPs of one causal T x T product of all heads of a block: scores, or weights times values."""
        return tokens * (tokens + 1) * self.head * self.heads

    def forward(self, tokens: int) -> float:
        """FLOPs of the matrices of a forward, with logits at one position."""
        inside = self.layers * (2 * self.block_weights * tokens + 2 * self.product(tokens))
        return inside + 2 * self.vocabulary * self.width

    def backward(self, tokens: int) -> float:
        """The same for the gradient of the input: no gradient of weights, scores once more, one product for the
        weights' gradient and one each for values, queries and keys."""
        inside = self.layers * (2 * self.block_weights * tokens + 5 * self.product(tokens))
        return inside + 2 * self.vocabulary * self.width

    @property
    def said(self) -> str:
        """How much of the published model this is: "2 of 36"."""
        return f"{self.layers} of {whole(self.name).layers}"


SHAPES = (
    Shape("SmolLM2-135M", "llama", 30, 576, 1536, 9, 3, 64, 49_152, tied=True),
    Shape("Qwen3-0.6B", "qwen3", 28, 1024, 3072, 16, 8, 128, 151_936, tied=True, qk_norm=True),
    Shape("Qwen3-4B", "qwen3", 36, 2560, 9728, 32, 8, 128, 151_936, tied=True, qk_norm=True),
    Shape("Qwen3-8B", "qwen3", 36, 4096, 12_288, 32, 8, 128, 151_936, tied=False, qk_norm=True),
    Shape("Llama-3-8B", "llama", 32, 4096, 14_336, 32, 8, 128, 128_256, tied=False),
)
"""As in the models' published ``config.json``."""


def whole(name: str) -> Shape:
    """The published shape of this name.

    Raises:
        ValueError: an unknown name; lists the choices.
    """
    known = {shape.name: shape for shape in SHAPES}
    if name not in known:
        raise ValueError(f"unknown shape {name!r}. choices: {', '.join(known)}")
    return known[name]


@dataclass(frozen=True)
class Budget:
    """What a part of a model may take.

    Attributes:
        megabytes: for its weights.
        gigaflops: for a forward and the gradient of its input, over ``tokens`` tokens.
    """

    megabytes: float
    gigaflops: float
    tokens: int


def fitted(shape: Shape, budget: Budget) -> Shape:
    """The shape with as many layers, and as large a share of the vocabulary, as the budget allows; two at least."""
    for layers in range(shape.layers, LEAST_LAYERS, -1):
        part = first_layers(shape, layers)
        size = part.parameters * VALUE_BYTES / 2**20
        work = (part.forward(budget.tokens) + part.backward(budget.tokens)) / 1e9
        if size <= budget.megabytes and work <= budget.gigaflops:
            return part
    return first_layers(shape, LEAST_LAYERS)


def first_layers(shape: Shape, layers: int) -> Shape:
    """The shape with fewer layers, and a vocabulary smaller by the same factor."""
    return replace(shape, layers=layers, vocabulary=shape.vocabulary * layers // shape.layers)


def config_of(shape: Shape) -> Any:
    """transformers' config."""
    from transformers import AutoConfig

    return AutoConfig.for_model(
        shape.family,
        num_hidden_layers=shape.layers,
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.groups,
        head_dim=shape.head,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.tied,
        max_position_embeddings=8192,
        bos_token_id=None,
        eos_token_id=None,
    )


def random_model(shape: Shape) -> Any:
    """A model of the shape with transformers' initial weights (seed 0), float32, frozen, in eval mode."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config_of(shape), dtype=torch.float32).eval().requires_grad_(False)
