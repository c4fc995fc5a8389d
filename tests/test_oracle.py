"""The oracle itself is checked: against untouched models, autograd, a second derivation of the rules, and faults."""

from __future__ import annotations

import copy
import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from families import FAMILIES, VARIANTS, VOCABULARY, build, exact_float64, inputs
from oracle import COMPOSITES, F64, OracleResult, Rules, Tape, Var, oracle
from torch import Tensor
from torch.overrides import TorchFunctionMode

ALL = [*FAMILIES, *VARIANTS]
LRP = ["attnlrp", "cp-lrp"]
WEIGHTS = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(7), dtype=F64)
ATTENTION = {"gpt2": "attn", "gpt_neox": "attention"}


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Largest difference relative to the largest entry: entries may cancel to nearly nothing, the scale does not."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max() / theirs.abs().max()) < tolerance


# A second derivation of the rules ------------------------------------------------------------------------------------


def half(x: Tensor) -> Tensor:
    """The same value, half of the gradient."""
    return 0.5 * x + 0.5 * x.detach()


class PaperRules(TorchFunctionMode):
    """The elementary rules of AttnLRP laid over Hugging Face's own eager forward, for ordinary autograd.

    A product of two variables gives half to each (arXiv 2402.05602, section 3), whether it is gate * up, q k^T or P v:
    the factors 1/4, 1/4, 1/2 of attention are a consequence here, not an input. The scale of a norm is a constant.
    """

    def __init__(self, composite: str):
        super().__init__()
        self.composite = composite

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in ("mul", "__mul__", "__rmul__", "matmul", "__matmul__"):
            both = all(isinstance(a, Tensor) and a.requires_grad for a in args[:2])
            return func(*(half(a) for a in args[:2])) if both else func(*args, **kwargs)
        if name == "layer_norm":
            return self.layer_norm(*args, **kwargs)
        if name == "tanh":
            return args[0] * (torch.tanh(args[0]) / args[0]).detach()
        out = func(*args, **kwargs)
        constant = name == "rsqrt" or (name == "softmax" and self.composite == "cp-lrp")
        return out.detach() if constant else out

    @staticmethod
    def layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        out = centred / (centred.var(-1, correction=0, keepdim=True) + eps).sqrt().detach()
        out = out if weight is None else out * weight
        return out if bias is None else out + bias


def lay_rules_over_activations(model: Any, composite: str) -> None:
    """Each activation module gives x * f(x)/x with a constant second factor; CP-LRP's gates are constants."""
    for module in list(model.modules()):
        gated = hasattr(module, "gate_proj") or hasattr(module, "gate_up_proj")
        for child in module.children():
            if next(child.children(), None) is None and not list(child.parameters()) and is_activation(child):
                child.forward = explained(child.forward, constant=gated and composite == "cp-lrp")


def is_activation(module: Any) -> bool:
    return type(module).__module__.startswith(("transformers.activations", "torch.nn.modules.activation"))


def explained(function: Any, constant: bool) -> Any:
    def forward(x: Tensor) -> Tensor:
        with torch.no_grad(), torch._C.DisableTorchFunction():
            y = function(x)
            slope = y / x
        return y if constant else x * slope

    return forward


def parts(model: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """The blocks, the maps after attention and the down projections of a model, found by name."""
    kind = model.config.model_type
    decoder = model.base_model
    blocks = list(decoder.h if kind == "gpt2" else decoder.layers)
    attention = [getattr(block, ATTENTION.get(kind, "self_attn")) for block in blocks]
    out = [next(getattr(a, n) for n in ("o_proj", "dense", "c_proj") if hasattr(a, n)) for a in attention]
    names = ("down_proj", "fc2", "c_proj", "dense_4h_to_h")
    down = [next(getattr(block.mlp, n) for n in names if hasattr(block.mlp, n)) for block in blocks]
    return blocks, out, down


def reader_of_mid(block: Any) -> Any:
    """The module whose input is the residual stream between attention and MLP."""
    if hasattr(block, "post_feedforward_layernorm") and not hasattr(block, "pre_feedforward_layernorm"):
        return block.mlp  # norms only after: olmo2, olmo3, exaone4
    names = ("pre_feedforward_layernorm", "ln_2", "post_attention_layernorm")
    return next(getattr(block, name) for name in names if hasattr(block, name))


def by_autograd(model: Any, ids: Tensor, composite: str, between: bool = False) -> dict[str, Tensor]:
    """Relevance read from hooks on the Hugging Face model; ``gradient`` leaves the model as it is."""
    seen: dict[tuple[str, int], Tensor] = {}

    def keep(name: str, index: int) -> Any:
        def hook(module: Any, args: Any, out: Any = None) -> Any:
            value = args[0] if out is None else (out[0] if isinstance(out, tuple) else out)
            seen[name, index] = value

        return hook

    def start(module: Any, args: Any, out: Tensor) -> Tensor:
        return out.detach().requires_grad_()  # parameters are frozen: the only variable is the embedding

    model.requires_grad_(False)
    embedding, (blocks, out, down) = model.get_input_embeddings(), parts(model)
    embedding.register_forward_hook(start)
    embedding.register_forward_hook(keep("tokens", 0))
    blocks[0].register_forward_pre_hook(keep("layers", 0))
    for index, block in enumerate(blocks):
        block.register_forward_hook(keep("layers", index + 1))
        if between:
            reader_of_mid(block).register_forward_pre_hook(keep("mid", index))
        out[index].register_forward_pre_hook(keep("heads", index))
        down[index].register_forward_pre_hook(keep("neurons", index))
    model.get_output_embeddings().register_forward_hook(keep("head", 0))
    if composite == "gradient":
        model(ids, use_cache=False)
    else:
        lay_rules_over_activations(model, composite)
        with PaperRules(composite):
            model(ids, use_cache=False)
    config = model.config
    factor = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1.0)
    raw = seen.pop(("head", 0)) * factor  # before a final softcap
    gradients = torch.autograd.grad((raw[:, -1] * WEIGHTS).sum(), list(seen.values()))
    shares = {key: (x * g).detach() for (key, x), g in zip(seen.items(), gradients, strict=True)}
    heads = [shares["heads", i].unflatten(-1, (config.num_attention_heads, -1)) for i in range(len(blocks))]
    mid = {"mid": torch.stack([shares["mid", i].sum(-1) for i in range(len(blocks))], 1)} if between else {}
    return mid | {
        "value": (raw[:, -1] * WEIGHTS).sum(-1).detach(),
        "tokens": shares["tokens", 0].sum(-1),
        "layers": torch.stack([shares["layers", i].sum(-1) for i in range(len(blocks) + 1)], 1),
        "heads": torch.stack([h.sum(-1).transpose(1, 2) for h in heads], 1),
        "neurons": torch.stack([shares["neurons", i] for i in range(len(blocks))], 1),
    }


def as_dict(result: OracleResult) -> dict[str, Tensor]:
    mid = {} if result.mid is None else {"mid": result.mid}
    return mid | {
        "value": result.value,
        "tokens": result.tokens,
        "layers": result.layers,
        "heads": result.heads,
        "neurons": torch.stack(result.neurons, 1),
    }


@pytest.mark.parametrize("composite", list(COMPOSITES))
@pytest.mark.parametrize("name", ALL)
def test_relevance_equals_a_second_derivation(name: str, composite: str) -> None:
    ids = inputs(name, batch=2)
    with exact_float64():
        ours = as_dict(oracle(build(name), ids, WEIGHTS, composite=composite))
        theirs = by_autograd(build(name, attn_implementation="eager"), ids, composite, "mid" in ours)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        close(value, theirs[key], 1e-10)


# The forward, and what surrounds it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_logits_are_those_of_the_model(name: str) -> None:
    model, ids = build(name), inputs(name, batch=2)
    with exact_float64(), torch.no_grad():
        close(oracle(model, ids, WEIGHTS).logits, model(ids, use_cache=False).logits, 1e-12)


@pytest.mark.parametrize("composite", LRP)
@pytest.mark.parametrize("name", ALL)
def test_ledger_closes_at_every_residual_point(name: str, composite: str) -> None:
    ledger = oracle(build(name), inputs(name, batch=2), WEIGHTS, composite=composite).ledger
    assert ledger.shape == (2, 4)
    assert float(ledger.max()) < 1e-10


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "smollm3-nope"])
def test_left_padding_changes_nothing(name: str) -> None:
    model, ids = build(name), inputs(name)
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), ids), 1)
    mask = (torch.arange(15) >= 3).long()[None]
    alone, together = oracle(model, ids, WEIGHTS), oracle(model, padded, WEIGHTS, mask=mask)
    close(together.layers[..., 3:], alone.layers, 1e-12)
    assert float(together.tokens[:, :3].abs().max()) == 0.0
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with exact_float64(), torch.no_grad():
        logits = model(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits
    close(together.logits[:, 3:], logits[:, 3:], 1e-12)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_positions_weights_and_columns_are_those_asked_for(name: str) -> None:
    model, ids = build(name), inputs(name, batch=2)
    positions = torch.arange(12)[None] * 2 + 1
    rows = torch.stack((WEIGHTS, WEIGHTS.flip(0)))
    result = oracle(model, ids, rows, position=torch.tensor([11, 4]), position_ids=positions)
    with exact_float64(), torch.no_grad():
        # without a mask transformers takes a jump in position_ids for the start of another packed sequence
        mask = torch.ones_like(ids)
        logits = model(ids, attention_mask=mask, position_ids=positions.expand(2, -1), use_cache=False).logits
    close(result.logits, logits, 1e-12)
    close(result.value, torch.stack((logits[0, 11] @ rows[0], logits[1, 4] @ rows[1])), 1e-12)
    assert float(result.tokens[1, 5:].abs().max()) == 0.0  # later tokens cannot matter
    alone = oracle(model, ids[1:], rows[1], position=4, position_ids=positions)
    close(result.tokens[1:], alone.tokens, 1e-12)


def test_parallel_blocks_have_no_point_between_attention_and_mlp() -> None:
    assert oracle(build("phi"), inputs("phi"), WEIGHTS).mid is None
    mid = oracle(build("llama"), inputs("llama"), WEIGHTS).mid
    assert mid is not None
    assert mid.shape == (1, 3, 12)


# Identities and hand-computed numbers --------------------------------------------------------------------------------


def test_without_biases_cp_lrp_conserves_and_attnlrp_does_not() -> None:
    model, ids = build("llama"), inputs("llama")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    result = oracle(model, ids, WEIGHTS, composite="cp-lrp")
    for total in (result.tokens.sum(1), *result.layers.sum(2).T):
        close(total.reshape(1), result.value, 1e-10)
    attn = oracle(model, ids, WEIGHTS)
    assert abs(float(attn.tokens.sum() / attn.value) - 1) > 0.01


def test_attention_of_two_tokens_by_hand() -> None:
    """One head of size one; the second token attends to both, with scores 2 and 6."""
    q, k, v = (Var(torch.tensor(x, dtype=F64).view(1, 1, 2, 1)) for x in ([1.0, 2.0], [1.0, 3.0], [4.0, -2.0]))
    tape = Tape(COMPOSITES["attnlrp"])
    out = tape.attention(q, k, v, torch.ones(2, 2).tril().bool(), 1.0, None)
    out.grad[..., 1, :] = 1.0
    tape.run()
    p = math.exp(2.0) / (math.exp(2.0) + math.exp(6.0))
    y = 4 * p - 2 * (1 - p)
    ds = p * (4 - y), (1 - p) * (-2 - y)
    assert float(out.value[0, 0, 1]) == pytest.approx(y, abs=1e-14)
    assert q.grad.flatten().tolist() == pytest.approx([0.0, (ds[0] * 1 + ds[1] * 3) / 4], abs=1e-14)
    assert k.grad.flatten().tolist() == pytest.approx([ds[0] * 2 / 4, ds[1] * 2 / 4], abs=1e-14)
    assert v.grad.flatten().tolist() == pytest.approx([p / 2, (1 - p) / 2], abs=1e-14)


def test_gradient_equals_finite_differences() -> None:
    """Scaling one token's embedding by 1 + e moves the value by e times that token's gradient x input."""
    model, ids, e = build("gemma2", seed=3), inputs("gemma2"), 1e-5
    tokens = oracle(model, ids, WEIGHTS, composite="gradient").tokens
    for position in (7, 11):
        moved = []
        for sign in (1, -1):
            changed = copy.deepcopy(model)
            head = changed.get_output_embeddings().weight.detach().clone()  # tied: the head must not move along
            with torch.no_grad():
                changed.lm_head.weight = torch.nn.Parameter(head)
                table = changed.get_input_embeddings().weight
                fresh = torch.cat((table, table[ids[0, position]][None] * (1 + sign * e)))
                changed.get_input_embeddings().weight = torch.nn.Parameter(fresh)
            edited = ids.clone()
            edited[0, position] = len(fresh) - 1
            moved.append(float(oracle(changed, edited, WEIGHTS).value))
        assert (moved[0] - moved[1]) / (2 * e) == pytest.approx(float(tokens[0, position]), rel=1e-6)


# Planted faults ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("composite", LRP)
@pytest.mark.parametrize("field", [f.name for f in fields(Rules)])
def test_every_ingredient_matters(field: str, composite: str) -> None:
    """Dropping one rule moves token relevance by at least 1 % (of the largest), so a comparison would see it."""
    if composite == "cp-lrp" and field == "softcap_slope":
        pytest.skip("the attention weights are constants in CP-LRP: the softcap is on no path")
    # CP-LRP makes gates constants: only an MLP without a gate has its activation on a path
    name = "gpt2" if (composite, field) == ("cp-lrp", "slope") else "gemma2"
    model, ids, rules = build(name), inputs(name), COMPOSITES[composite]
    plain = getattr(COMPOSITES["gradient"], field)
    # where the composite already has the plain factor, take it away instead
    fault = plain if plain != getattr(rules, field) else 0.5 * plain
    right = oracle(model, ids, WEIGHTS, composite=composite).tokens
    wrong = oracle(model, ids, WEIGHTS, composite=replace(rules, **{field: fault})).tokens
    assert float((wrong - right).abs().max() / right.abs().max()) > 0.01


@pytest.mark.parametrize("composite", LRP)
@pytest.mark.parametrize("field", ["detach_norm", "slope", "softcap_slope"])
def test_ledger_sees_a_missing_rule(field: str, composite: str) -> None:
    model, ids = build("gemma2"), inputs("gemma2")
    broken = oracle(model, ids, WEIGHTS, composite=replace(COMPOSITES[composite], **{field: False}))
    unseen = field == "softcap_slope"  # <q, dq> and <k, dk> are booked as they are, so any slope balances
    if composite == "cp-lrp" and field == "slope":
        unseen = True  # gates are constants: no activation is on a path
    assert (float(broken.ledger.max()) < 1e-10) == unseen


def test_ledger_is_blind_to_how_relevance_is_split() -> None:
    """Why entries are compared, and not sums."""
    uneven = replace(COMPOSITES["attnlrp"], gate=0.2, up=0.8, query=0.1, key=0.4)
    assert float(oracle(build("llama"), inputs("llama"), WEIGHTS, composite=uneven).ledger.max()) < 1e-10


# The test models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2", "cohere"])
def test_exact_float64_removes_the_float32_inside_transformers(name: str) -> None:
    model, ids = build(name), inputs(name)
    exact = oracle(model, ids, WEIGHTS).logits
    methods = torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax
    with torch.no_grad():
        rounded = model(ids, use_cache=False).logits
        with exact_float64():
            close(model(ids, use_cache=False).logits, exact, 1e-13)
    assert float((rounded - exact).abs().max() / exact.abs().max()) > 1e-9
    assert (torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax) == methods


def test_exact_float64_leaves_other_dtypes_alone() -> None:
    with exact_float64():
        x = torch.ones(2, dtype=torch.bfloat16)
        assert x.float().dtype is x.to(torch.float32).dtype is torch.float32
        assert torch.nn.functional.softmax(x, -1, dtype=torch.float32).dtype is torch.float32
        assert torch.ones(2, dtype=F64).to(torch.bfloat16).dtype is torch.bfloat16


@pytest.mark.parametrize("name", ALL)
def test_models_are_tiny_seeded_and_have_no_silent_parameter(name: str) -> None:
    model, again, other = build(name), build(name), build(name, seed=1)
    assert len(parts(model)[0]) == 3
    assert not model.training
    for parameter, same, different in zip(model.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(parameter, same)
        assert not torch.equal(parameter, different)
        assert parameter.dtype is F64
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied == model.config.tie_word_embeddings
    for (key, buffer), (_, fresh) in zip(model.named_buffers(), other.named_buffers(), strict=True):
        assert torch.equal(buffer, fresh), key  # frequencies do not depend on the seed: they were not drawn


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("gemma2", 2), ("gemma3", 2), ("olmo3", 2), ("cohere2", 2), ("exaone4", 2), ("qwen2-window", 2), ("llama", 1)],
)
def test_windows_alternate(name: str, kinds: int) -> None:
    assert len(set(getattr(build(name).config, "layer_types", None) or ["full_attention"])) == kinds
