"""The slow float64 LRP of `oracle` for a BERT classifier, a T5 and a ViT, written from their papers' equations.

BERT: arXiv 1810.04805. T5: arXiv 1910.10683 (relative positions added to unscaled scores, section 2.1; gated GELU:
arXiv 2002.05202). ViT: arXiv 2010.11929, equations 1 to 4. Only weights and constants are read from the models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from oracle import COMPOSITES, F64, Rules, Tape, Var
from torch import Tensor


@dataclass
class Stream:
    """What one stream of hidden states leaves behind."""

    tokens: Var
    points: list[Var] = field(default_factory=list)

    def layers(self) -> Tensor:
        return torch.stack([point.relevance() for point in self.points], 1)


@dataclass
class Answer:
    """Logits of one forward by hand and, per stream, relevance of tokens [B, T] and layers [B, L+1, T]."""

    logits: Tensor
    value: Tensor
    streams: list[Stream]


class Hand(Tape):
    """The operations that these three models add to those of `oracle`."""

    def attend(self, q: Var, k: Var, v: Var, seen: Tensor, scale: float, bias: Tensor | None = None) -> Var:
        """softmax(scale q k + bias) v over what is seen; q [B, H, T, d], k and v [B, H, S, d]."""
        scores = scale * q.value @ k.value.transpose(-1, -2)
        scores = scores if bias is None else scores + bias
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)

        def backward(g: Tensor) -> None:
            to_weights = g @ v.value.transpose(-1, -2)
            to_scores = weights * (to_weights - (weights * to_weights).sum(-1, keepdim=True))
            q.grad += self.rules.query * scale * to_scores @ k.value
            k.grad += self.rules.key * scale * to_scores.transpose(-1, -2) @ q.value
            v.grad += self.rules.value * weights.transpose(-1, -2) @ g

        return self.out(weights @ v.value, backward)

    def tanh(self, x: Var) -> Var:
        value = torch.tanh(x.value)
        slope = torch.where(x.value == 0, 1.0, value / torch.where(x.value == 0, 1.0, x.value))

        def backward(g: Tensor) -> None:
            x.grad += g * (slope if self.rules.slope else 1 - value * value)

        return self.out(value, backward)

    def relu(self, x: Var) -> Var:
        passed = (x.value > 0).to(F64)

        def backward(g: Tensor) -> None:
            x.grad += g * passed

        return self.out(x.value * passed, backward)

    def shifted(self, x: Var, constant: Tensor) -> Var:
        """x + constant."""

        def backward(g: Tensor) -> None:
            x.grad += g

        return self.out(x.value + constant, backward)

    def first(self, x: Var) -> Var:
        """Token 0 of [B, T, D]."""

        def backward(g: Tensor) -> None:
            x.grad[:, 0] += g

        return self.out(x.value[:, 0], backward)

    def preceded(self, x: Var, constant: Tensor) -> Var:
        """A constant token [D] before the tokens [B, T, D]."""

        def backward(g: Tensor) -> None:
            x.grad += g[:, 1:]

        return self.out(torch.cat((constant.expand(len(x.value), 1, -1), x.value), 1), backward)

    def heads(self, x: Var, count: int) -> Var:
        return self.view(
            x, lambda v: v.unflatten(-1, (count, -1)).transpose(1, 2), lambda g: g.transpose(1, 2).flatten(2)
        )

    def joined(self, x: Var) -> Var:
        count = x.value.shape[1]
        return self.view(
            x, lambda v: v.transpose(1, 2).flatten(2), lambda g: g.unflatten(-1, (count, -1)).transpose(1, 2)
        )

    def layer_norm(self, x: Var, module: Any) -> Var:
        return self.norm(x, "ln", module.weight, module.bias, module.eps)

    def rms_norm(self, x: Var, module: Any) -> Var:
        return self.norm(x, "rms", module.weight, None, module.variance_epsilon)

    def mix(self, x: Var, memory: Var, parts: Any, heads: int, seen: Tensor, scale: float, bias: Any = None) -> Var:
        """Multi-head attention of x [B, T, D] to memory [B, S, D]; parts: the four projections q, k, v, out."""
        q, k, v = (self.heads(self.linear(y, m), heads) for y, m in zip((x, memory, memory), parts[:3], strict=True))
        return self.linear(self.joined(self.attend(q, k, v, seen, scale, bias)), parts[3])


def rows(table: Any) -> Tensor:
    out: Tensor = table.weight.detach().to(F64)
    return out


def answer(tape: Hand, logits: Var, seed: Tensor, streams: list[Stream]) -> Answer:
    logits.grad += seed
    tape.run()
    return Answer(logits.value, (logits.value * seed).flatten(1).sum(1), streams)


def bert(
    model: Any, ids: Tensor, real: Tensor, types: Tensor, seed: Tensor, rules: Rules = COMPOSITES["attnlrp"]
) -> Answer:
    """A BERT classifier; real: [B, T] bool; seed: [B, classes], the weights of the explained logits."""
    tape, config, base = Hand(rules), model.config, model.bert
    heads = config.num_attention_heads
    scale = (config.hidden_size / heads) ** -0.5
    tables = base.embeddings
    words = Var(rows(tables.word_embeddings)[ids])
    h = tape.shifted(words, rows(tables.token_type_embeddings)[types])
    h = tape.shifted(h, rows(tables.position_embeddings)[torch.arange(ids.shape[1])])
    h = tape.layer_norm(h, tables.LayerNorm)
    stream = Stream(words, [h])
    for block in base.encoder.layer:
        own, after = block.attention.self, block.attention.output
        mixed = tape.mix(h, h, (own.query, own.key, own.value, after.dense), heads, real[:, None, None, :], scale)
        m = tape.layer_norm(tape.add(h, mixed), after.LayerNorm)
        inner = tape.activation(tape.linear(m, block.intermediate.dense), "gelu")
        h = tape.layer_norm(tape.add(m, tape.linear(inner, block.output.dense)), block.output.LayerNorm)
        stream.points.append(h)
    pooled = tape.tanh(tape.linear(tape.first(h), base.pooler.dense))
    return answer(tape, tape.linear(pooled, model.classifier), seed, [stream])


def vit(model: Any, pixels: Tensor, seed: Tensor, rules: Rules = COMPOSITES["attnlrp"]) -> Answer:
    """A ViT classifier on pixels [B, C, H, W]; seed: [B, classes]."""
    tape, config, base = Hand(rules), model.config, model.vit
    heads, size, tables = config.num_attention_heads, config.patch_size, base.embeddings
    scale = (config.hidden_size / heads) ** -0.5
    patches = pixels.unfold(2, size, size).unfold(3, size, size)  # [B, C, rows, columns, size, size]
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    projection = tables.patch_embeddings.projection
    embedded = Var(patches @ projection.weight.detach().flatten(1).T + projection.bias.detach())
    h = tape.preceded(embedded, tables.cls_token.detach()[0, 0])
    h = tape.shifted(h, tables.position_embeddings.detach()[0])
    stream, seen = Stream(embedded, [h]), torch.ones(1, dtype=torch.bool)
    for block in base.layers:
        own = block.attention
        x = tape.layer_norm(h, block.layernorm_before)
        mixed = tape.mix(x, x, (own.q_proj, own.k_proj, own.v_proj, own.o_proj), heads, seen, scale)
        m = tape.add(h, mixed)
        x = tape.layer_norm(m, block.layernorm_after)
        h = tape.add(m, tape.linear(tape.activation(tape.linear(x, block.mlp.fc1), "gelu"), block.mlp.fc2))
        stream.points.append(h)
    last = tape.layer_norm(h, base.layernorm)
    return answer(tape, tape.linear(tape.first(last), model.classifier), seed, [stream])


def bucket(distance: int, both_ways: bool, buckets: int, furthest: int) -> int:
    """T5's bucket of key position minus query position: one each for near ones, then ever wider ones."""
    offset = 0
    if both_ways:
        buckets //= 2
        offset, distance = (buckets if distance > 0 else 0), abs(distance)
    else:
        distance = max(-distance, 0)
    near = buckets // 2
    if distance < near:
        return offset + distance
    wide = near + int(math.log(distance / near) / math.log(furthest / near) * (buckets - near))
    return offset + min(wide, buckets - 1)


def relative_bias(module: Any, length: int, both_ways: bool, config: Any) -> Tensor:
    """[1, H, T, T] numbers added to the scores."""
    kinds = config.relative_attention_num_buckets, config.relative_attention_max_distance
    index = [[bucket(key - query, both_ways, *kinds) for key in range(length)] for query in range(length)]
    return rows(module.relative_attention_bias)[torch.tensor(index)].permute(2, 0, 1)[None]


def t5_stack(tape: Hand, stack: Any, config: Any, ids: Tensor, seen: Tensor, memory: tuple[Var, Tensor] | None) -> Any:
    """The encoder, or with ``memory`` (its output and which of its tokens are real) the decoder."""
    heads, words = config.num_heads, Var(rows(stack.embed_tokens)[ids])
    h = words
    stream = Stream(words, [h])
    bias = relative_bias(stack.block[0].layer[0].SelfAttention, ids.shape[1], memory is None, config)
    for block in stack.block:
        own = block.layer[0].SelfAttention
        x = tape.rms_norm(h, block.layer[0].layer_norm)
        h = tape.add(h, tape.mix(x, x, (own.q, own.k, own.v, own.o), heads, seen, 1.0, bias))
        if memory is not None:
            cross = block.layer[1].EncDecAttention
            x = tape.rms_norm(h, block.layer[1].layer_norm)
            parts = (cross.q, cross.k, cross.v, cross.o)
            h = tape.add(h, tape.mix(x, memory[0], parts, heads, memory[1][:, None, None, :], 1.0))
        h = tape.add(h, t5_feed(tape, block.layer[-1], h))
        stream.points.append(h)
    return tape.rms_norm(h, stack.final_layer_norm), stream


def t5_feed(tape: Hand, layer: Any, h: Var) -> Var:
    """ReLU, or gated by a tanh-GELU (version 1.1)."""
    x, dense = tape.rms_norm(h, layer.layer_norm), layer.DenseReluDense
    if hasattr(dense, "wi"):
        return tape.linear(tape.relu(tape.linear(x, dense.wi)), dense.wo)
    gate = tape.activation(tape.linear(x, dense.wi_0), "gelu_new")
    return tape.linear(tape.product(gate, tape.linear(x, dense.wi_1)), dense.wo)


def t5(
    model: Any, ids: Tensor, real: Tensor, output: Tensor, seed: Tensor, rules: Rules = COMPOSITES["attnlrp"]
) -> Answer:
    """A T5 on ids [B, S], of which some are real, with the output so far [B, T]; seed: [B, T, V]. Decoder first."""
    tape, config = Hand(rules), model.config
    causal = torch.ones(output.shape[1], output.shape[1], dtype=torch.bool).tril()
    memory, encoder = t5_stack(tape, model.encoder, config, ids, real[:, None, None, :], None)
    last, decoder = t5_stack(tape, model.decoder, config, output, causal, (memory, real))
    last = tape.scale(last, config.d_model**-0.5) if config.scale_decoder_outputs else last
    return answer(tape, tape.linear(last, model.lm_head), seed, [decoder, encoder])
