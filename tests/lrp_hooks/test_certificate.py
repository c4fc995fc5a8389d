"""The certificate: an independent reference for entries, the module at which a ledger breaks, and the verdict."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from families import EXPERTS, FAMILIES, VARIANTS, build, exact_float64, inputs
from torch import Tensor, nn

from lrp_hooks import LogitDiff, Role, instrument
from lrp_hooks.certificate import Verdict, reference
from lrp_hooks.certificate.leak import first_leak
from lrp_hooks.composites import ATTNLRP, CP_LRP, Composite, Rule
from lrp_hooks.rules import activation, attention, experts, gated

SHIFTED = ("gpt_oss",)
"""(up + 1) glu: the reference does not know the constant."""


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("name", [n for table in (FAMILIES, VARIANTS, EXPERTS) for n in table])
def test_every_entry_is_that_of_the_rules_for_single_nodes(name: str, composite: str) -> None:
    with exact_float64():
        model = build(name)
        with instrument(model, composite) as lrp:
            certificate = lrp.certify(LogitDiff(5, 7), input_ids=inputs(name))
    assert certificate.verdict is Verdict.CERTIFIED
    assert certificate.leak == ""
    if name in SHIFTED:
        assert "constant added" in certificate.entries.reason
    else:
        assert certificate.entries.tokens == inputs(name).numel()
        assert certificate.entries.error is not None
        assert certificate.entries.error < 1e-12


# Rules whose sums are right and whose entries are wrong: no ledger sees them.
BLIND: dict[str, tuple[str, Role, Callable[[Any], Any]]] = {
    "attention shares 1/2 : 0 : 1/2": ("llama", Role.ATTENTION, attention.share_attention(0.5, 0.0, 0.5)),
    "the gate has three quarters": ("llama", Role.GATED, gated.share_product(gate=0.75, up=0.25)),
    "experts' gates have nothing": ("mixtral", Role.EXPERTS, experts.constant_routing(gate=0.0)),
}


def renamed(composite: Composite, role: Role, rule: Rule | None) -> Composite:
    return composite.extended(composite.name, (role, rule))


@pytest.mark.parametrize("fault", BLIND)
def test_a_wrong_split_that_no_ledger_sees_is_refused(fault: str) -> None:
    name, role, rule = BLIND[fault]
    with exact_float64(), instrument(build(name), renamed(ATTNLRP, role, rule)) as lrp:
        certificate = lrp.certify(LogitDiff(5, 7), input_ids=inputs(name))
    assert certificate.report.broken is None, "the ledger is blind to it"
    assert certificate.verdict is Verdict.REFUSED
    assert certificate.entries.error is not None
    assert certificate.entries.error > 0.01
    assert "some rule does not fit" in certificate.reason


NODES = {
    "MulBackward0": "gpt2",
    "BmmBackward0": "gpt2",
    "NativeLayerNormBackward0": "gpt2",
    "SiluBackward0": "llama",
    "TanhBackward0": "gemma2",
    "PowBackward0": "nemotron",
}


@pytest.mark.parametrize("node", NODES)
def test_each_rule_of_the_reference_matters(node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the ordinary gradient of one kind of node the comparison breaks."""
    from lrp_hooks.certificate import nodes

    rule = nodes.NodeRelevance.back

    def back(self: Any, at: Any, grads: Any) -> Any:
        return nodes.own_gradient(at, grads) if nodes.operation_of(at) == node else rule(self, at, grads)

    monkeypatch.setattr(nodes.NodeRelevance, "back", back)
    with instrument(build(NODES[node], dtype=torch.float32)) as lrp:
        certificate = lrp.certify(LogitDiff(5, 7), input_ids=inputs(NODES[node]))
    assert certificate.entries.error is not None
    assert certificate.entries.error > 0.01
    assert certificate.verdict is Verdict.REFUSED


class After(nn.Module):
    """A module with something done to its output."""

    def __init__(self, inner: nn.Module, change: Callable[[Tensor], Tensor]):
        super().__init__()
        self.inner, self.change = inner, change
        self.offset = nn.Buffer(torch.full((32,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.inner(x)) if self.change is not offset else self.inner(x) + self.offset


def offset(x: Tensor) -> Tensor:
    raise AssertionError("done in the module")


def planted(change: Callable[[Tensor], Tensor], block: int = 1) -> Any:
    model = build("llama", dtype=torch.float32)
    model.model.layers[block].mlp = After(model.model.layers[block].mlp, change)
    return model


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_constant_that_nothing_books_is_found_in_its_module(block: int) -> None:
    with instrument(planted(offset, block)) as lrp:
        certificate = lrp.certify(LogitDiff(5, 7), input_ids=inputs("llama"))
    assert certificate.verdict is Verdict.REFUSED
    assert certificate.report.broken is not None
    assert certificate.report.broken.point == block
    assert certificate.leak == f"model.layers.{block}.mlp"
    assert certificate.leak in certificate.reason


def test_in_float16_whose_seed_is_scaled_the_same_module_is_found() -> None:
    with instrument(planted(offset).half()) as lrp:
        certificate = lrp.certify(LogitDiff(5, 7), input_ids=inputs("llama"))
    assert certificate.verdict is Verdict.REFUSED
    assert certificate.leak == "model.layers.1.mlp"


def test_what_was_let_through_is_found_and_named() -> None:
    strict = ATTNLRP.extended("strict", (Role.INLINE, None))
    with instrument(planted(torch.tanh), strict, unknown="gradient") as lrp:
        certificate = lrp.certify(LogitDiff(5, 7), input_ids=inputs("llama"))
    assert certificate.verdict is Verdict.REFUSED
    assert certificate.leak == "model.layers.1.mlp"
    assert any("Tanh" in entry for entry in certificate.report.accepted)


@pytest.mark.parametrize(
    "change",
    [torch.tanh, lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6), lambda x: x * x.roll(1, -1)],
    ids=["tanh", "norm", "product"],
)
def test_an_inline_operation_with_a_rule_is_certified_entry_by_entry(change: Callable[[Tensor], Tensor]) -> None:
    with instrument(planted(change)) as lrp:
        certificate = lrp.certify(LogitDiff(5, 7), input_ids=inputs("llama"))
    assert certificate.verdict is Verdict.CERTIFIED, certificate.reason
    assert certificate.entries.error is not None
    assert certificate.entries.error < 1e-3


SATURATED: dict[str, Callable[[], Any]] = {
    "scores": lambda: with_loud_queries(build("gemma2", dtype=torch.float32)),
    "tanh": lambda: planted(lambda x: torch.tanh(20 * x)),
    "sigmoid": lambda: planted(lambda x: torch.sigmoid(20 * x)),
}


def with_loud_queries(model: Any) -> Any:
    """Scores far beyond the softcap, which is 1."""
    with torch.no_grad():
        for block in model.model.layers:
            block.self_attn.q_proj.weight.mul_(8)
    return model


@pytest.mark.parametrize("where", SATURATED)
def test_the_reference_knows_the_arguments_of_what_saturates(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 tanh(9) is 1 or the number below: 9 cannot be had back from it."""
    with instrument(SATURATED[where]()) as lrp:
        entries = lrp.certify(LogitDiff(5, 7), input_ids=inputs("llama")).entries
        monkeypatch.setattr(reference._Arguments, "NAMES", frozenset())
        inverted = lrp.certify(LogitDiff(5, 7), input_ids=inputs("llama")).entries
    assert entries.error is not None
    assert inverted.error is not None
    assert entries.error < 1e-5
    assert inverted.error > 1e-3


def test_arguments_are_noted_however_the_function_is_called() -> None:
    x = torch.linspace(-30, 30, 7, requires_grad=True)
    module = nn.Sigmoid()
    with reference._Arguments() as noting:
        made = [x.tanh(), torch.tanh(input=x), torch.sigmoid(x), torch.special.expit(x), module(x), (2 * x).tanh_()]
        x.detach().tanh()
    found = [noting.of_node[out.grad_fn] for out in made]
    assert all(torch.equal(argument, x.detach()) for argument in found[:-1])
    assert torch.equal(found[-1], 2 * x.detach())
    assert len(noting.of_node) == len(made)


def test_in_float16_the_heads_bias_is_booked_as_it_is_and_nothing_leaks() -> None:
    """Its seed is scaled, the bias's share too; the head is weighed above and below the scaling."""
    model, ids = build("phi", dtype=torch.float16), inputs("phi")
    bias = model.lm_head.bias.detach().double()
    with instrument(model) as lrp:
        relevance = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7))
        leak = first_leak(lrp, {"input_ids": ids}, LogitDiff(5, 7), 0.02)
    assert relevance.absorbed is not None
    assert float(relevance.absorbed.biases["lm_head"]) == pytest.approx(float(bias[5] - bias[7]), rel=1e-3)
    assert leak is None


def test_gradients_are_approximate_and_a_composite_of_ones_own_has_no_reference() -> None:
    model = build("llama", dtype=torch.float32)
    with instrument(model, "gradient") as lrp:
        certificate = lrp.certify()
    assert certificate.verdict is Verdict.APPROXIMATE
    assert "not LRP" in certificate.reason
    mine = CP_LRP.extended("mine", (Role.ACTIVATION, activation.slope))
    with instrument(model, mine) as lrp:
        certificate = lrp.certify()
    assert certificate.verdict is Verdict.CERTIFIED
    assert "composite 'mine'" in certificate.entries.reason


def test_a_suspended_model_is_the_untouched_one_and_comes_back() -> None:
    model, ids = planted(torch.tanh), inputs("llama")
    before = {id(m): dict(m.__dict__) for m in model.modules()}
    model.requires_grad_(False)
    with torch.no_grad():
        untouched = model(input_ids=ids).logits
    with instrument(model) as lrp:
        first = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7))
        with lrp.suspended():
            assert all(before[id(m)].keys() == m.__dict__.keys() for m in model.modules())
            assert torch.equal(model(input_ids=ids).logits, untouched)
        again = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7))
    assert torch.equal(first.layers, again.layers)
    assert torch.equal(first.tokens, again.tokens)


def test_long_prompts_are_compared_on_their_last_tokens_and_rows_may_be_padded() -> None:
    from lrp_hooks.certificate.entries import ENTRY_TOKENS

    model = build("llama", dtype=torch.float32)
    model.config.max_position_embeddings = 200
    ids = inputs("llama", batch=2, length=100)
    mask = torch.ones_like(ids)
    with instrument(model) as lrp:
        assert lrp.certify(input_ids=ids).entries.tokens == ENTRY_TOKENS
        mask[0, :80] = 0
        assert lrp.certify(input_ids=ids, attention_mask=mask).entries.tokens == 20


def test_the_certificate_is_plain_data() -> None:
    with instrument(build("llama", dtype=torch.float32)) as lrp:
        certificate = lrp.certify(LogitDiff(5, 7), input_ids=inputs("llama"))
    data = json.loads(json.dumps(certificate.to_dict()))
    assert data["verdict"] == "certified"
    assert data["report"]["ledger"]
    assert data["entries"]["error"] == certificate.entries.error
    assert set(data["versions"]) == {"python", "torch", "transformers", "lrp_hooks"}


HEADS = {
    "t5": ("AutoModelForSeq2SeqLM", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}),
    "bart": ("AutoModelForSeq2SeqLM", {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2}),
    "bert": ("AutoModelForSequenceClassification", {"hidden_size": 32, "num_hidden_layers": 2, "num_labels": 3}),
    "distilbert": ("AutoModelForTokenClassification", {"dim": 32, "n_layers": 2, "n_heads": 4}),
    "roberta": ("AutoModelForQuestionAnswering", {"hidden_size": 32, "num_hidden_layers": 2}),
    "modernbert": ("AutoModelForMaskedLM", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}),
    "vit": ("AutoModelForImageClassification", {"hidden_size": 32, "num_hidden_layers": 2, "image_size": 32}),
}
SMALL = {
    "vocab_size": 97,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "hidden_dim": 48,
    "patch_size": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", HEADS)
def test_heads_encoders_and_two_streams_are_compared_entry_by_entry(kind: str) -> None:
    import transformers

    from benchmarks.tiny import reinitialise

    auto, options = HEADS[kind]
    config = transformers.AutoConfig.for_model(kind, **{**SMALL, **options})
    model = getattr(transformers, auto).from_config(config).eval()
    reinitialise(model)
    with exact_float64(), instrument(model.double()) as lrp:
        certificate = lrp.certify()
    assert certificate.verdict is Verdict.CERTIFIED, certificate.reason
    assert certificate.entries.error is not None, certificate.entries.reason
    assert certificate.entries.error < 1e-10
    streams = [row.stream for row in certificate.report.ledger]
    assert streams == (["encoder"] * 3 if kind in ("t5", "bart") else []) + [""] * 3
