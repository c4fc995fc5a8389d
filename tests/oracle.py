"""A slow float64 LRP, written from the equations; it shares no code with the package and uses no autograd.

Every operation below computes its value and, by hand, what it sends backwards under the rules of AttnLRP
(arXiv 2402.05602, section 3) and CP-LRP (arXiv 2202.07304) in gradient x input form: relevance of x is x * g. Only
constants are read from the model: weights, eps, attention scale, and the cosines and sines of its positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

F64 = torch.float64


@dataclass
class Rules:
    """Factors of one composite. A mutation test changes one of them."""

    query: float
    key: float
    value: float
    gate: float
    up: float
    detach_norm: bool = True
    slope: bool = True
    softcap_slope: bool = True


COMPOSITES = {
    "attnlrp": Rules(0.25, 0.25, 0.5, 0.5, 0.5),
    "cp-lrp": Rules(0.0, 0.0, 1.0, 0.0, 1.0),
    # the plain gradient by hand: autograd on the untouched model must agree, which proves the wiring of every family
    "gradient": Rules(1.0, 1.0, 1.0, 1.0, 1.0, detach_norm=False, slope=False, softcap_slope=False),
}


class Var:
    """A value and the modified gradient that arrives at it."""

    def __init__(self, value: Tensor):
        self.value = value
        self.grad = torch.zeros_like(value)

    def relevance(self) -> Tensor:
        return (self.value * self.grad).sum(-1)


@dataclass
class Tape:
    """Operations in order; running their backward steps in reverse gives every Var its gradient."""

    rules: Rules
    steps: list[Callable[[], None]] = field(default_factory=list)
    biases: list[tuple[int, Callable[[], Tensor]]] = field(default_factory=list)  # (block, share of a constant)
    softmax: list[tuple[int, Callable[[], Tensor]]] = field(default_factory=list)
    block: int = -1  # blocks count from 0; the head is above all of them

    def out(self, value: Tensor, backward: Callable[[Tensor], None]) -> Var:
        var = Var(value)
        self.steps.append(lambda: backward(var.grad))
        return var

    def constant(self, var: Var, bias: Tensor | None) -> None:
        if bias is not None:
            self.biases.append((self.block, lambda: (var.grad * bias).flatten(1).sum(1)))

    # Linear operations: plain gradient -------------------------------------------------------------------------------

    def linear(self, x: Var, module: Any) -> Var:
        weight = module.weight.detach().to(F64)
        weight = weight if type(module).__name__ == "Conv1D" else weight.T  # [in, out]
        bias = getattr(module, "bias", None)
        bias = None if bias is None else bias.detach().to(F64)

        def backward(g: Tensor) -> None:
            x.grad += g @ weight.T

        out = self.out(x.value @ weight + (0 if bias is None else bias), backward)
        self.constant(out, bias)
        return out

    def matrix(self, x: Var, weight: Tensor, bias: Tensor | None) -> Var:
        """x @ weight [in, out] + bias."""

        def backward(g: Tensor) -> None:
            x.grad += g @ weight.T

        out = self.out(x.value @ weight + (0 if bias is None else bias), backward)
        self.constant(out, bias)
        return out

    def weighted(self, x: Var, weight: Tensor) -> Var:
        """x times a constant per token [B, T, 1]."""

        def backward(g: Tensor) -> None:
            x.grad += g * weight

        return self.out(x.value * weight, backward)

    def add(self, *terms: Var) -> Var:
        def backward(g: Tensor) -> None:
            for term in terms:
                term.grad += g

        return self.out(sum((t.value for t in terms), torch.zeros((), dtype=F64)), backward)

    def scale(self, x: Var, factor: float) -> Var:
        def backward(g: Tensor) -> None:
            x.grad += g * factor

        return self.out(x.value * factor, backward)

    def view(self, x: Var, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Var:
        """A rearrangement and its transpose."""

        def backward(g: Tensor) -> None:
            x.grad += back(g)

        return self.out(there(x.value), backward)

    def slice(self, x: Var, start: int, stop: int) -> Var:
        def backward(g: Tensor) -> None:
            x.grad[..., start:stop] += g

        return self.out(x.value[..., start:stop], backward)

    def join(self, a: Var, b: Var) -> Var:
        size = a.value.shape[-1]

        def backward(g: Tensor) -> None:
            a.grad += g[..., :size]
            b.grad += g[..., size:]

        return self.out(torch.cat((a.value, b.value), -1), backward)

    def rope(self, x: Var, cos: Tensor, sin: Tensor, interleaved: bool, turned: bool = False) -> Var:
        """Rotation of the first ``cos.shape[-1]`` dimensions of x [B, H, T, d]: orthogonal, so back is the inverse.

        ``turned``: interleaved pairs come out as the list of first members, then of second ones (DeepSeek).
        """
        if turned:
            half = cos.shape[-1] // 2
            c, s = cos[..., :half], sin[..., :half]

            def back_turned(g: Tensor) -> None:
                a, b = g.chunk(2, -1)
                x.grad += torch.stack((a * c + b * s, b * c - a * s), -1).flatten(-2)

            a, b = x.value[..., 0::2], x.value[..., 1::2]
            return self.out(torch.cat((a * c - b * s, b * c + a * s), -1), back_turned)
        dim = cos.shape[-1]

        def rotate(v: Tensor, sign: float) -> Tensor:
            head, rest = v[..., :dim], v[..., dim:]
            if interleaved:
                c, s = cos[..., : dim // 2], sin[..., : dim // 2]
                a, b = head[..., 0::2], head[..., 1::2]
                turned = torch.stack((a * c - sign * b * s, b * c + sign * a * s), -1).flatten(-2)
            else:
                c, s = cos[..., : dim // 2], sin[..., : dim // 2]
                a, b = head.chunk(2, -1)
                turned = torch.cat((a * c - sign * b * s, b * c + sign * a * s), -1)
            return torch.cat((turned, rest), -1)

        def backward(g: Tensor) -> None:
            x.grad += rotate(g, -1.0)

        return self.out(rotate(x.value, 1.0), backward)

    # Operations with a rule ------------------------------------------------------------------------------------------

    def norm(self, x: Var, kind: str, weight: Tensor | None, bias: Tensor | None, eps: float) -> Var:
        """y = (x - mean) / std * w + b or x / rms * w. The scale is a constant; the centring is linear."""
        v = x.value
        centred = v - v.mean(-1, keepdim=True) if kind.startswith("ln") else v
        scale = 1 / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt()
        w = torch.ones((), dtype=F64) if weight is None else weight.detach().to(F64)
        w = w + 1.0 if kind.endswith("1") else w
        b = None if bias is None else bias.detach().to(F64)
        hat = centred * scale

        def backward(g: Tensor) -> None:
            g = g * w
            if not self.rules.detach_norm:
                g = g - hat * (g * hat).mean(-1, keepdim=True)
            g = g * scale
            x.grad += g - g.mean(-1, keepdim=True) if kind.startswith("ln") else g

        out = self.out(hat * w + (0 if b is None else b), backward)
        self.constant(out, b)
        return out

    def activation(self, x: Var, kind: str) -> Var:
        value, slope, derivative = activation(kind, x.value)

        def backward(g: Tensor) -> None:
            x.grad += g * (slope if self.rules.slope else derivative)

        return self.out(value, backward)

    def sigmoid(self, x: Var) -> Var:
        """A gate s(x): its value at 0, a half, is a constant; the rest has the slope (s(x) - 1/2) / x."""
        value = 1 / (1 + torch.exp(-x.value))
        half = torch.full_like(value, 0.5)
        slope = torch.where(x.value == 0, 0.25, (value - half) / torch.where(x.value == 0, 1.0, x.value))

        def backward(g: Tensor) -> None:
            x.grad += g * (slope if self.rules.slope else value * (1 - value))

        out = self.out(value, backward)
        self.constant(out, half)
        return out

    def swish(self, x: Var, alpha: float) -> Var:
        """x s(alpha x)."""
        s = 1 / (1 + torch.exp(-alpha * x.value))

        def backward(g: Tensor) -> None:
            x.grad += g * (s if self.rules.slope else s + alpha * x.value * s * (1 - s))

        return self.out(x.value * s, backward)

    def product(self, gate: Var, up: Var) -> Var:
        def backward(g: Tensor) -> None:
            gate.grad += self.rules.gate * g * up.value
            up.grad += self.rules.up * g * gate.value

        return self.out(gate.value * up.value, backward)

    def clamp(self, x: Var, low: float, high: float) -> Var:
        """A clamp passes y / x, which is 1 inside."""
        value = x.value.clamp(low, high)
        slope = value / torch.where(x.value == 0, 1.0, x.value)
        inside = (value == x.value).to(F64)

        def backward(g: Tensor) -> None:
            x.grad += g * (torch.where(x.value == 0, 1.0, slope) if self.rules.slope else inside)

        return self.out(value, backward)

    def attention(
        self, q: Var, k: Var, v: Var, mask: Tensor, scale: float, softcap: float | None, sinks: Tensor | None = None
    ) -> Var:
        """Dense softmax attention, [B, H, T, d]; k and v have H / groups heads. A sink is a constant score per head."""
        rules, groups = self.rules, q.value.shape[1] // k.value.shape[1]
        keys, values = (x.value.repeat_interleave(groups, 1) for x in (k, v))
        scores = scale * q.value @ keys.transpose(-1, -2)
        lam = torch.ones_like(scores)
        if softcap is not None:
            u = scores / softcap
            t = torch.tanh(u)
            lam = torch.where(u == 0, 1.0, t / u) if rules.softcap_slope else 1 - t * t
            scores = softcap * t
        scores = scores.masked_fill(~mask, -math.inf)
        if sinks is None:
            weights = scores.softmax(-1)
        else:
            weights = scores.exp() / (scores.exp().sum(-1, keepdim=True) + sinks[:, None, None].exp())
        weights = torch.where(mask.any(-1, keepdim=True), weights, 0.0)
        shares: list[Tensor] = []

        def backward(g: Tensor) -> None:
            d_weights = g @ values.transpose(-1, -2)
            d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdim=True)) * lam
            to_q = rules.query * scale * d_scores @ keys
            to_k = rules.key * scale * d_scores.transpose(-1, -2) @ q.value
            to_v = rules.value * weights.transpose(-1, -2) @ g
            to_k, to_v = (x.unflatten(1, (-1, groups)).sum(2) for x in (to_k, to_v))
            for x, to_x in ((q, to_q), (k, to_k), (v, to_v)):
                x.grad += to_x
            total = [(x * y).flatten(1).sum(1) for x, y in ((out, g), (q.value, to_q), (k.value, to_k))]
            shares.append((1 - rules.value) * total[0] - total[1] - total[2])

        out = weights @ values
        self.softmax.append((self.block, lambda: shares[0]))
        return self.out(out, backward)

    def run(self) -> None:
        for step in reversed(self.steps):
            step()


def activation(kind: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """f(x), f(x)/x in closed form, f'(x)."""
    sigmoid = 1 / (1 + torch.exp(-x))
    if kind == "silu":
        return x * sigmoid, sigmoid, sigmoid * (1 + x * (1 - sigmoid))
    if kind == "relu2":
        return torch.where(x > 0, x * x, 0.0), torch.where(x > 0, x, 0.0), torch.where(x > 0, 2 * x, 0.0)
    if kind == "gelu":
        phi = 0.5 * (1 + torch.erf(x / math.sqrt(2)))
        return x * phi, phi, phi + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    if kind in ("gelu_new", "gelu_pytorch_tanh", "gelu_tanh"):
        c = math.sqrt(2 / math.pi)
        t = torch.tanh(c * (x + 0.044715 * x**3))
        slope = 0.5 * (1 + t)
        return x * slope, slope, slope + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x)
    raise NotImplementedError(kind)


@dataclass(frozen=True)
class Family:
    """How one family is put together. Norm kinds: rms, rms1 (weight 1 + w), ln, ln1."""

    norm: str = "rms"
    layout: str = "pre"  # pre, parallel (one norm), parallel2 (two norms), post, sandwich
    attention: str = "self_attn"
    before: tuple[str | None, str | None] = ("input_layernorm", "post_attention_layernorm")
    after: tuple[str | None, str | None] = (None, None)
    decoder: str = "model"
    embedding: str = "embed_tokens"
    layers: str = "layers"
    last: str = "norm"
    head: str = "lm_head"
    output: str = "o_proj"
    qk_norm: tuple[str, str, str] | None = None  # (where, q name, k name); where: width, head, heads
    interleaved: bool = False
    mlp: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    feed: str = "mlp"


GEMMA = Family(norm="rms1")
SANDWICH = {"layout": "sandwich", "after": ("post_attention_layernorm", "post_feedforward_layernorm")}
POST = {"layout": "post", "before": (None, None), "after": ("post_attention_layernorm", "post_feedforward_layernorm")}
PER_HEAD = ("head", "q_norm", "k_norm")

ARCHITECTURES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "granite", "smollm3", "seed_oss"), Family()),
    **dict.fromkeys(("mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3"), Family()),
    "granitemoe": Family(feed="block_sparse_moe"),
    "qwen3_moe": Family(qk_norm=PER_HEAD),
    **dict.fromkeys(("helium", "ernie4_5"), Family(interleaved=True)),
    "qwen3": Family(qk_norm=PER_HEAD),
    "gemma": GEMMA,
    "gemma2": Family(norm="rms1", before=("input_layernorm", "pre_feedforward_layernorm"), **SANDWICH),
    "gemma3_text": Family(
        norm="rms1", before=("input_layernorm", "pre_feedforward_layernorm"), qk_norm=PER_HEAD, **SANDWICH
    ),
    "glm4": Family(
        layout="sandwich",
        after=("post_self_attn_layernorm", "post_mlp_layernorm"),
        interleaved=True,
        mlp=("gate_up_proj", "down_proj"),
    ),
    "phi": Family(
        norm="ln",
        layout="parallel",
        last="final_layernorm",
        output="dense",
        mlp=("fc1", "fc2"),
        qk_norm=("head", "q_layernorm", "k_layernorm"),
    ),
    "phi3": Family(mlp=("gate_up_proj", "down_proj")),
    "gpt2": Family(
        norm="ln",
        attention="attn",
        before=("ln_1", "ln_2"),
        decoder="transformer",
        embedding="wte",
        layers="h",
        last="ln_f",
        output="c_proj",
        mlp=("c_fc", "c_proj"),
    ),
    "gpt_neox": Family(
        norm="ln",
        layout="parallel2",
        attention="attention",
        decoder="gpt_neox",
        embedding="embed_in",
        last="final_layer_norm",
        output="dense",
        mlp=("dense_h_to_4h", "dense_4h_to_h"),
    ),
    "stablelm": Family(norm="ln", qk_norm=("heads", "q_layernorm", "k_layernorm")),
    "olmo": Family(norm="ln"),
    "olmo2": Family(qk_norm=("width", "q_norm", "k_norm"), **POST),
    "olmo3": Family(qk_norm=("width", "q_norm", "k_norm"), **POST),
    "exaone4": Family(qk_norm=PER_HEAD, **POST),
    "cohere": Family(norm="ln", layout="parallel", interleaved=True, qk_norm=PER_HEAD),
    "cohere2": Family(norm="ln", layout="parallel", interleaved=True),
    "starcoder2": Family(norm="ln", mlp=("c_fc", "c_proj")),
    "nemotron": Family(norm="ln1", mlp=("up_proj", "down_proj")),
}


@dataclass
class OracleResult:
    """Everything in float64. ``ledger`` is the relative error at every residual point."""

    logits: Tensor  # [B, T, V], after the final softcap
    value: Tensor  # [B]
    tokens: Tensor  # [B, T]
    layers: Tensor  # [B, L+1, T]
    mid: Tensor | None  # [B, L, T]
    heads: Tensor  # [B, L, H, T]
    neurons: list[Tensor]  # [B, T, I]
    biases: Tensor  # [B, L+1] absorbed by constants above each point
    softmax: Tensor  # [B, L]

    @property
    def ledger(self) -> Tensor:
        above = torch.stack([self.softmax[:, point:].sum(1) for point in range(self.layers.shape[1])], 1)
        missing = self.layers.sum(2) + self.biases + above - self.value[:, None]
        return missing.abs() / self.layers.abs().sum(2)


class Oracle:
    """One forward by hand, and the backward of one weighting of the logits."""

    def __init__(self, model: Any, rules: Rules):
        self.model, self.config = model, model.config
        self.family = ARCHITECTURES[model.config.model_type]
        if model.config.model_type in ("stablelm", "gpt_neox"):
            self.layout = (
                ("parallel" if model.config.model_type == "stablelm" else "parallel2")
                if (model.config.use_parallel_residual)
                else "pre"
            )
        else:
            self.layout = self.family.layout
        self.tape = Tape(rules)
        self.decoder = getattr(model, self.family.decoder)
        self.mid: list[Var] = []
        self.outputs: list[Var] = []
        self.products: list[Var] = []

    def __call__(
        self,
        ids: Tensor,
        weights: Tensor,
        mask: Tensor | None = None,
        position: Tensor | int | None = None,
        position_ids: Tensor | None = None,
    ) -> OracleResult:
        """Explain sum_v weights[v] * logit_v at ``position`` per row (default: last column)."""
        batch, length = ids.shape
        mask = torch.ones_like(ids).bool() if mask is None else mask.bool()
        counted = (mask.long().cumsum(1) - 1).clamp_min(0)
        positions = counted if position_ids is None else position_ids.expand(batch, length)
        tape, config, family = self.tape, self.config, self.family
        table = getattr(self.decoder, family.embedding).weight.detach().to(F64)
        multiplier = config.hidden_size**0.5 if config.model_type.startswith("gemma") else 1.0
        embedded = Var(table[ids] * multiplier)
        h = tape.scale(embedded, getattr(config, "embedding_multiplier", 1.0))
        if hasattr(self.decoder, "wpe"):
            learned = Var(self.decoder.wpe.weight.detach().to(F64)[positions])
            h = tape.add(h, learned)
        points = [h]
        for index, block in enumerate(getattr(self.decoder, family.layers)):
            tape.block = index
            h = self.run_block(block, index, h, mask, positions)
            points.append(h)
        tape.block = len(points) - 1
        raw = tape.linear(self.norm(h, getattr(self.decoder, family.last)), getattr(self.model, family.head))
        factor = getattr(config, "logit_scale", None) or 1.0 / (getattr(config, "logits_scaling", None) or 1.0)
        raw = tape.scale(raw, factor if config.model_type in ("cohere", "cohere2", "granite", "granitemoe") else 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        column = torch.full((batch,), length - 1) if position is None else position
        rows = torch.arange(batch)
        raw.grad[rows, column] = weights.to(F64)
        tape.run()
        blocks = range(len(points) - 1)
        return OracleResult(
            logits=raw.value if cap is None else cap * torch.tanh(raw.value / cap),
            value=(raw.value[rows, column] * weights.to(F64)).sum(-1),
            tokens=embedded.relevance(),
            layers=torch.stack([p.relevance() for p in points], 1),
            mid=torch.stack([m.relevance() for m in self.mid], 1) if self.mid else None,
            heads=torch.stack([o.relevance() for o in self.outputs], 1),
            neurons=[p.value * p.grad for p in self.products],
            biases=torch.stack([self.biases_above(point, batch) for point in range(len(points))], 1),
            softmax=torch.stack([next(s() for b, s in tape.softmax if b == p) for p in blocks], 1),
        )

    def biases_above(self, point: int, batch: int) -> Tensor:
        shares = (share() for block, share in self.tape.biases if block >= point)
        return sum(shares, torch.zeros(batch, dtype=F64))

    def norm(self, x: Var, module: Any) -> Var:
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", 1e-5))
        return self.tape.norm(x, self.family.norm, getattr(module, "weight", None), getattr(module, "bias", None), eps)

    def maybe_norm(self, x: Var, block: Any, name: str | None) -> Var:
        return x if name is None else self.norm(x, getattr(block, name))

    def run_block(self, block: Any, index: int, h: Var, mask: Tensor, positions: Tensor) -> Var:
        tape, family = self.tape, self.family
        residual = getattr(self.config, "residual_multiplier", 1.0)
        normed = self.maybe_norm(h, block, family.before[0])
        attended = self.attention(getattr(block, family.attention), index, normed, mask, positions)
        if self.layout.startswith("parallel"):
            second = normed if self.layout == "parallel" else self.maybe_norm(h, block, family.before[1])
            return tape.add(h, attended, self.mlp(block.mlp, second))
        attended = tape.scale(self.maybe_norm(attended, block, family.after[0]), residual)
        mid = tape.add(h, attended)
        self.mid.append(mid)
        fed = self.mlp(getattr(block, family.feed), self.maybe_norm(mid, block, family.before[1]))
        return tape.add(mid, tape.scale(self.maybe_norm(fed, block, family.after[1]), residual))

    def mlp(self, module: Any, x: Var) -> Var:
        if hasattr(module, "experts"):
            return mixture(self, module, x)
        tape, names = self.tape, self.family.mlp
        kind = getattr(self.config, "hidden_act", None) or getattr(self.config, "hidden_activation", None)
        kind = kind or self.config.activation_function
        first = tape.linear(x, getattr(module, names[0]))
        if names[0] == "gate_up_proj":
            half = first.value.shape[-1] // 2
            product = tape.product(tape.activation(tape.slice(first, 0, half), kind), tape.slice(first, half, 2 * half))
        elif len(names) == 3:
            product = tape.product(tape.activation(first, kind), tape.linear(x, getattr(module, names[1])))
        else:
            product = tape.activation(first, kind)
        self.products.append(product)
        return tape.linear(product, getattr(module, names[-1]))

    def attention(self, module: Any, index: int, x: Var, mask: Tensor, positions: Tensor) -> Var:
        tape, family = self.tape, self.family
        if hasattr(module, "kv_a_proj_with_mqa"):
            q, k, v = self.latent_query_key_value(module, index, x, positions)
        else:
            q, k, v = self.query_key_value(module, x)
            if self.uses_rope(module, index):
                cos, sin = self.cos_sin(module, index, x, positions)
                q, k = (tape.rope(y, cos, sin, family.interleaved) for y in (q, k))
        length = mask.shape[1]
        steps = torch.arange(length)
        distance = steps[:, None] - steps[None, :]
        allowed = (distance >= 0) & mask[:, None, None, :]
        window = self.window(index)
        if window is not None:
            allowed = allowed & (distance < window)
        softcap = getattr(self.config, "attn_logit_softcapping", None)
        sinks = module.sinks.detach().to(F64) if hasattr(module, "sinks") else None
        out = tape.attention(q, k, v, allowed, module.scaling, softcap, sinks)
        per_head = tape.view(out, lambda t: t.transpose(1, 2), lambda t: t.transpose(1, 2))
        self.outputs.append(out)
        shape = per_head.value.shape
        flat = tape.view(per_head, lambda t: t.flatten(2), lambda t: t.unflatten(2, shape[2:]))
        return tape.linear(flat, getattr(module, family.output))

    def query_key_value(self, module: Any, x: Var) -> tuple[Var, Var, Var]:
        tape, config = self.tape, self.config
        heads = config.num_attention_heads
        if hasattr(module, "query_key_value"):  # per head: query, key, value
            fused = self.split(tape.linear(x, module.query_key_value), heads)
            size = fused.value.shape[-1] // 3
            q, k, v = (tape.slice(fused, i * size, (i + 1) * size) for i in range(3))
            return q, k, v
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        if hasattr(module, "c_attn") or hasattr(module, "qkv_proj"):
            fused = tape.linear(x, module.c_attn if hasattr(module, "c_attn") else module.qkv_proj)
            size = fused.value.shape[-1] // (heads + 2 * kv_heads)
            ends = [heads * size, (heads + kv_heads) * size, (heads + 2 * kv_heads) * size]
            parts = [tape.slice(fused, start, end) for start, end in zip((0, *ends), ends, strict=False)]
        else:
            parts = [tape.linear(x, getattr(module, f"{name}_proj")) for name in "qkv"]
        q, k, v = parts
        where, *names = self.family.qk_norm or ("none", "", "")
        present = bool(names[0]) and hasattr(module, names[0])
        if present and where == "width":
            q, k = (self.norm(y, getattr(module, name)) for y, name in zip((q, k), names, strict=True))
        q, k, v = self.split(q, heads), self.split(k, kv_heads), self.split(v, kv_heads)
        if present and where != "width":
            q, k = (self.head_norm(y, getattr(module, name)) for y, name in zip((q, k), names, strict=True))
        return q, k, v

    def latent_query_key_value(self, module: Any, index: int, x: Var, positions: Tensor) -> tuple[Var, Var, Var]:
        """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values from a latent, and
        one rotated key for all heads beside them."""
        tape, config = self.tape, self.config
        heads, nope, rank = config.num_attention_heads, config.qk_nope_head_dim, config.kv_lora_rank
        cos, sin = self.cos_sin(module, index, x, positions)
        q = self.split(
            tape.linear(self.norm(tape.linear(x, module.q_a_proj), module.q_a_layernorm), module.q_b_proj), heads
        )
        size = q.value.shape[-1]
        q = tape.join(tape.slice(q, 0, nope), tape.rope(tape.slice(q, nope, size), cos, sin, True, turned=True))
        latent = tape.linear(x, module.kv_a_proj_with_mqa)
        rotated = tape.slice(latent, rank, latent.value.shape[-1])
        rotated = tape.view(rotated, lambda t: t[:, None], lambda t: t[:, 0])
        rotated = tape.rope(rotated, cos, sin, True, turned=True)
        rotated = tape.view(rotated, lambda t: t.expand(-1, heads, -1, -1), lambda t: t.sum(1, keepdim=True))
        opened = tape.linear(self.norm(tape.slice(latent, 0, rank), module.kv_a_layernorm), module.kv_b_proj)
        opened = self.split(opened, heads)
        k = tape.join(tape.slice(opened, 0, nope), rotated)
        return q, k, tape.slice(opened, nope, opened.value.shape[-1])

    def head_norm(self, x: Var, module: Any) -> Var:
        """QK-norm on [B, H, T, d]: one weight for all heads, or one per head."""
        if hasattr(module, "norms"):
            weight = torch.stack([m.weight.detach() for m in module.norms])[:, None]
            return self.tape.norm(x, "ln", weight, None, module.norms[0].eps)
        if module.weight.dim() == 2:
            return self.tape.norm(x, self.family.norm, module.weight[:, None], None, module.variance_epsilon)
        return self.norm(x, module)

    def split(self, x: Var, heads: int) -> Var:
        return self.tape.view(
            x, lambda t: t.unflatten(2, (heads, -1)).transpose(1, 2), lambda t: t.transpose(1, 2).flatten(2)
        )

    def layer_type(self, index: int) -> str:
        types = getattr(self.config, "layer_types", None)
        return types[index] if types else "full_attention"

    def window(self, index: int) -> int | None:
        window = getattr(self.config, "sliding_window", None)
        if self.config.model_type in ("mistral", "starcoder2", "phi3"):
            return window
        return window if self.layer_type(index) == "sliding_attention" else None

    def uses_rope(self, module: Any, index: int) -> bool:
        kind = self.config.model_type
        if kind == "gpt2":
            return False
        if kind == "smollm3":
            return bool(self.config.no_rope_layers[index])
        if kind == "exaone4" and self.config.sliding_window is None:
            return True
        if kind in ("cohere2", "exaone4"):
            return self.layer_type(index) == "sliding_attention"
        return True

    def cos_sin(self, module: Any, index: int, x: Var, positions: Tensor) -> tuple[Tensor, Tensor]:
        rotary = self.decoder.rotary_emb
        typed = self.config.model_type in ("gemma3_text", "olmo3")
        cos, sin = rotary(x.value, positions, self.layer_type(index)) if typed else rotary(x.value, positions)
        if self.config.model_type.startswith("cohere"):  # each frequency twice in a row, elsewhere the list twice
            cos, sin = (torch.cat((y[..., 0::2], y[..., 1::2]), -1) for y in (cos, sin))
        if self.config.model_type == "gpt_oss":  # one entry per pair
            cos, sin = (torch.cat((y, y), -1) for y in (cos, sin))
        return cos[:, None].to(F64), sin[:, None].to(F64)


# Mixtures of experts --------------------------------------------------------------------------------------------------


def routing(kind: str, config: Any, module: Any, x: Tensor) -> Tensor:
    """[N, E] weight of every expert, 0 where it is not chosen; of tokens x [N, D]. A constant to every LRP composite.

    Softmax over the chosen logits (mixtral, gpt_oss, granitemoe: the same as renormalising the chosen probabilities) or
    over all of them (qwen, without norm_topk_prob); sigmoid with groups and a correction for the choice (DeepSeek-V3,
    arXiv 2412.19437, section 2.1.2).
    """
    router = module.router if hasattr(module, "router") else module.gate
    scores = x @ router.weight.detach().to(F64).T
    if getattr(router, "bias", None) is not None:
        scores = scores + router.bias.detach().to(F64)
    chosen_of = scores
    if kind == "deepseek_v3":
        scores = 1 / (1 + torch.exp(-scores))
        corrected = scores + router.e_score_correction_bias.to(F64)
        groups = corrected.unflatten(1, (config.n_group, -1))
        best = groups.topk(2, -1).values.sum(-1).topk(config.topk_group, -1).indices
        inside = torch.zeros(groups.shape[:2], dtype=torch.bool).scatter(1, best, True)
        chosen_of = groups.masked_fill(~inside[..., None], -math.inf).flatten(1)
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(
        1, chosen_of.topk(config.num_experts_per_tok, -1).indices, True
    )
    if kind == "deepseek_v3":
        kept = torch.where(chosen, scores, 0.0)
        return kept / kept.sum(-1, keepdim=True) * config.routed_scaling_factor
    if kind.startswith("qwen") and not config.norm_topk_prob:
        return torch.where(chosen, scores.softmax(-1), 0.0)
    return scores.masked_fill(~chosen, -math.inf).softmax(-1)


def mixture(oracle: Oracle, module: Any, x: Var) -> Var:
    """sum_e w_e expert_e(x) + shared(x), every expert on every token; what is not chosen has weight 0."""
    tape, config, kind = oracle.tape, oracle.config, oracle.config.model_type
    weights = routing(kind, config, module, x.value.flatten(0, 1)).unflatten(0, x.value.shape[:2])
    terms = [
        tape.weighted(expert(oracle, module.experts, e, x), weights[..., e : e + 1]) for e in range(weights.shape[-1])
    ]
    out = tape.add(*terms)
    if hasattr(module, "shared_experts"):
        out = tape.add(out, oracle.mlp(module.shared_experts, x))
        oracle.products.pop()
    if hasattr(module, "shared_expert"):
        shared = oracle.mlp(module.shared_expert, x)
        oracle.products.pop()
        gate = tape.sigmoid(tape.linear(x, module.shared_expert_gate))
        width = shared.value.shape[-1]
        gate = tape.view(gate, lambda t: t.expand(*t.shape[:-1], width), lambda t: t.sum(-1, keepdim=True))
        out = tape.add(out, tape.product(gate, shared))
    return out


def expert(oracle: Oracle, bank: Any, index: int, x: Var) -> Var:
    """One expert: down(act(gate) * up); gpt_oss: down((up + 1) * gate sigmoid(alpha gate)), clamped, with biases."""
    tape, config = oracle.tape, oracle.config
    first, second = bank.gate_up_proj[index].detach().to(F64), bank.down_proj[index].detach().to(F64)
    if config.model_type != "gpt_oss":
        both = tape.matrix(x, first.T, None)
        half = both.value.shape[-1] // 2
        gate = tape.activation(tape.slice(both, 0, half), config.hidden_act)
        return tape.matrix(tape.product(gate, tape.slice(both, half, 2 * half)), second.T, None)
    biases = (bank.gate_up_proj_bias[index].detach().to(F64), bank.down_proj_bias[index].detach().to(F64))
    both, limit = tape.matrix(x, first, biases[0]), config.swiglu_limit
    gate, up = (tape.view(both, lambda t, i=i: t[..., i::2], lambda t, i=i: spread(t, i)) for i in (0, 1))
    gate, up = tape.clamp(gate, -math.inf, limit), tape.clamp(up, -limit, limit)
    glu = tape.swish(gate, bank.alpha)
    return tape.matrix(tape.add(tape.product(glu, up), glu), second, biases[1])


def spread(x: Tensor, offset: int) -> Tensor:
    """The transpose of taking every second entry from ``offset``."""
    out = x.new_zeros(*x.shape[:-1], 2 * x.shape[-1])
    out[..., offset::2] = x
    return out


def oracle(
    model: Any,
    ids: Tensor,
    weights: Tensor,
    *,
    composite: str | Rules = "attnlrp",
    mask: Tensor | None = None,
    position: Tensor | int | None = None,
    position_ids: Tensor | None = None,
) -> OracleResult:
    """Explain sum_v weights[v] logit_v, before any final softcap, at one position per row, by hand.

    ``weights`` is [V] for every row or [B, V]; ``position_ids`` default to counting the unmasked tokens.
    Given ones never split the row: transformers does that (packed sequences) where they jump and no mask is passed.
    """
    rules = composite if isinstance(composite, Rules) else COMPOSITES[composite]
    with torch.no_grad():
        return Oracle(model, rules)(ids, weights, mask, position, position_ids)
