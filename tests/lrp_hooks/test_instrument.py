"""Life cycle: in place, this instance only, exact undo, and the traps that have been met."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from families import build, inputs, reinitialise
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from lrp_hooks import Composite, LogitDiff, Role, instrument
from lrp_hooks.composites import ATTNLRP
from lrp_hooks.errors import (
    AlreadyInstrumentedError,
    CacheError,
    GradientError,
    InstrumentedCopyError,
    InstrumentError,
    NonFiniteError,
    RemovedError,
    UnclaimedModuleError,
    UnsupportedModelError,
)
from lrp_hooks.structure.probe import with_cache

CONTRAST = LogitDiff(5, 7)


def llama(**options: Any) -> nn.Module:
    return build("llama", dtype=torch.float32, **options)


def snapshot(model: nn.Module) -> list[tuple[Any, ...]]:
    """Everything that instrumenting could leave behind, by identity."""
    return [
        (
            path,
            {
                key: id(value)
                for key, value in module.__dict__.items()
                if not key.startswith("_") or key == "_old_forward"
            },
            module.training,
            [len(getattr(module, name)) for name in vars(nn.Module()) if name.endswith("_hooks")],
            [
                (name, p.requires_grad, None if p.is_meta else id(p))  # accelerate makes new placeholders on every call
                for name, p in module.named_parameters(recurse=False)
            ],
            id(type(module).forward),
        )
        for path, module in model.named_modules()
    ]


def input_gradient(model: nn.Module, ids: Tensor) -> Tensor:
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeds).logits
    (gradient,) = torch.autograd.grad(logits[0, -1, 5] - logits[0, -1, 7], embeds)
    return gradient


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp", "gradient"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_remove_restores_the_model_bit_for_bit(name: str, composite: str) -> None:
    model = build(name, dtype=torch.float32)
    model.train()
    model.model.layers[0].eval() if name != "gpt2" else None
    next(iter(model.parameters())).requires_grad_(False)
    before, config = snapshot(model), copy.deepcopy(vars(model.config))
    model.eval()
    ids = inputs(name)
    logits, gradient = model(ids).logits.detach(), input_gradient(model, ids)
    for module, (_, _, training, *_) in zip(model.modules(), before, strict=True):
        module.training = training
    lrp = instrument(model, composite)
    assert not any(p.requires_grad for p in model.parameters())
    model(ids).logits[0, -1, 3].backward()
    lrp.remove()
    lrp.remove()
    assert snapshot(model) == before
    assert vars(model.config) == config
    model.eval()
    assert torch.equal(model(ids).logits, logits)
    assert torch.equal(input_gradient(model, ids), gradient)


def test_instrumenting_changes_gradients_but_not_values() -> None:
    model, ids = llama(), inputs("llama")
    logits, gradient = model(ids).logits, input_gradient(model, ids)
    with instrument(model) as lrp:
        assert lrp.value_error == 0.0
        assert torch.equal(model(ids).logits, logits)
        assert not torch.allclose(input_gradient(model, ids), gradient, rtol=0.01)


def test_an_exception_in_the_block_still_removes() -> None:
    model = llama()
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError), instrument(model):
        raise ZeroDivisionError
    assert snapshot(model) == before


def test_two_models_with_one_config_are_independent() -> None:
    first = llama()
    second = AutoModelForCausalLM.from_config(first.config).eval()
    second.load_state_dict(first.state_dict())
    assert first.config is second.config
    ids = inputs("llama")
    plain = input_gradient(second, ids)
    with instrument(first, "attnlrp") as a:
        assert torch.equal(input_gradient(second, ids), plain)
        with instrument(second, "cp-lrp") as b:
            one = a.trace(input_ids=ids).attribute(CONTRAST)
            two = b.trace(input_ids=ids).attribute(CONTRAST)
            again = a.trace(input_ids=ids).attribute(CONTRAST)
        assert torch.equal(one.tokens, again.tokens)
        assert not torch.allclose(one.tokens, two.tokens, rtol=0.01)
        assert torch.equal(input_gradient(second, ids), plain)


def test_double_instrumentation_is_an_error_also_for_parts() -> None:
    model = llama()
    with instrument(model):
        before = snapshot(model)
        with pytest.raises(AlreadyInstrumentedError, match="instrumented already"):
            instrument(model, "cp-lrp")
        with pytest.raises(AlreadyInstrumentedError):
            instrument(model.model)
        assert snapshot(model) == before
    with instrument(model):
        pass


def test_copying_or_pickling_an_instrumented_model_raises() -> None:
    model = llama()
    with instrument(model):
        for duplicate in (copy.deepcopy, pickle.dumps):
            with pytest.raises(InstrumentedCopyError, match="remove"):
                duplicate(model)
            with pytest.raises(InstrumentedCopyError):
                duplicate(model.model.layers[0].self_attn)
    assert torch.equal(copy.deepcopy(model)(inputs("llama")).logits, model(inputs("llama")).logits)


def test_user_hooks_keep_firing_on_every_module() -> None:
    model, ids = llama(), inputs("llama")
    fired: set[str] = set()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: fired.add(path))
    with torch.no_grad():
        model(ids)
    expected, logits = set(fired), model(ids).logits
    with instrument(model) as lrp:
        fired.clear()
        relevance = lrp.trace(input_ids=ids).attribute(CONTRAST)
        assert fired == expected
        assert torch.equal(model(ids).logits, logits)
    with instrument(llama()) as lrp:
        other = lrp.trace(input_ids=ids).attribute(CONTRAST)
    assert torch.allclose(other.tokens, relevance.tokens, rtol=1e-4, atol=1e-6)


def test_a_users_backward_hook_sees_lrp_gradients() -> None:
    model, ids = llama(), inputs("llama")
    seen: list[Tensor] = []
    with instrument(model) as lrp:
        handle = model.model.layers[1].register_full_backward_hook(lambda _m, _i, grad: seen.append(grad[0]))
        lrp.trace(input_ids=ids).attribute(CONTRAST)
        handle.remove()
    assert len(seen) == 1


@pytest.mark.parametrize("checkpoint", [False, True])
def test_repeated_backward_passes_give_identical_relevance(checkpoint: bool) -> None:
    model, ids = llama(), inputs("llama")
    with instrument(model, checkpoint=checkpoint) as lrp:
        logits = model(ids).logits
        scores = []
        for _ in range(3):
            (logits[0, -1, 5] - logits[0, -1, 7]).backward(retain_graph=True)
            scores.append(lrp.relevance())
        high = lrp.trace(input_ids=ids).attribute([CONTRAST, CONTRAST])
    for other in (*scores[1:], *high):
        assert torch.equal(other.tokens, scores[0].tokens)
        assert torch.equal(other.layers, scores[0].layers)
        assert torch.allclose(other.value, scores[0].value, rtol=1e-6)


def test_checkpointing_changes_nothing_but_memory() -> None:
    model, ids = build("gpt2", dtype=torch.float32), inputs("gpt2")
    with instrument(model, checkpoint=False) as lrp:
        kept = lrp.trace(input_ids=ids).attribute(CONTRAST, heads=True, neurons=True)
    saved: list[int] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x)
    with instrument(model, checkpoint=False) as lrp, hooks:
        lrp.trace(input_ids=ids)
    plain, saved[:] = sum(saved), []
    with instrument(model, checkpoint=True) as lrp:
        with hooks:
            trace = lrp.trace(input_ids=ids)
        recomputed = trace.attribute(CONTRAST, heads=True, neurons=True)
        assert lrp.checkpointing.active
    assert sum(saved) < plain / 2
    assert torch.equal(kept.tokens, recomputed.tokens)
    assert torch.equal(kept.mid, recomputed.mid)
    assert torch.equal(kept.heads, recomputed.heads)
    assert torch.equal(kept.neurons[1], recomputed.neurons[1])
    assert torch.equal(kept.absorbed.attention, recomputed.absorbed.attention)
    assert kept.absorbed.biases.keys() == recomputed.absorbed.biases.keys()


def test_removing_before_a_recomputing_backward_is_an_error() -> None:
    model, ids = llama(), inputs("llama")
    lrp = instrument(model, checkpoint=True)
    logits = model(ids).logits
    lrp.remove()
    with pytest.raises(RemovedError, match="before remove"):
        logits[0, -1, 3].backward()


def test_auto_checkpointing_follows_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids = llama(), inputs("llama")
    with instrument(model) as lrp:
        assert lrp.checkpointing.bytes_per_token > 0
        model(ids)
        assert not lrp.checkpointing.active
        monkeypatch.setattr("lrp_hooks.recording.checkpointing.free_memory", lambda device: 1000)
        model(ids)
        assert lrp.checkpointing.active
    with pytest.raises(InstrumentError, match="choices"):
        instrument(model, checkpoint="always")  # type: ignore[arg-type]


def test_generate_is_unaffected() -> None:
    model, ids = llama(), inputs("llama")
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(ids, **options)
    with instrument(model) as lrp:
        assert torch.equal(model.generate(ids, **options), plain)
        with pytest.raises(GradientError, match="no forward has run with gradients"):
            lrp.relevance()


def test_a_filled_cache_is_refused_and_an_empty_one_ignored() -> None:
    model, ids = llama(), inputs("llama")
    filled = DynamicCache()
    with torch.no_grad():
        model(ids, **with_cache(model, filled))
    assert filled.get_seq_length() == ids.shape[1]
    with instrument(model) as lrp:
        with pytest.raises(CacheError, match=r"without (past_key_values|cache)"):
            model(ids, **with_cache(model, filled))
        empty = DynamicCache()
        out = model(ids, **with_cache(model, empty))
        assert set(out) == {"logits"}
        assert empty.get_seq_length() == 0
        out.logits[0, -1, 3].backward()
        assert lrp.relevance().tokens.shape == ids.shape


def test_records_need_a_forward_and_a_backward() -> None:
    model, ids = llama(), inputs("llama")
    lrp = instrument(model)
    with torch.no_grad():
        model(ids)
    with pytest.raises(GradientError, match="no_grad"):
        lrp.relevance()
    model(ids)
    with pytest.raises(GradientError, match="no backward pass"):
        lrp.relevance()
    with torch.no_grad():
        assert lrp.trace(input_ids=ids).attribute(CONTRAST).tokens.abs().sum() > 0
    with torch.inference_mode(), pytest.raises(GradientError, match="inference_mode"):
        lrp.trace(input_ids=ids)
    trace = lrp.trace(input_ids=ids)
    lrp.remove()
    for call in (lrp.relevance, lambda: lrp.trace(input_ids=ids), lambda: trace.attribute(CONTRAST), lrp.__enter__):
        with pytest.raises(RemovedError, match="instrument"):
            call()


def test_training_mode_while_instrumented_is_an_error_and_dropout_is_off() -> None:
    model = build("gpt2", dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.5
    model.train()
    ids = inputs("gpt2")
    with instrument(model) as lrp:
        first = lrp.trace(input_ids=ids).attribute(CONTRAST)
        assert torch.equal(first.tokens, lrp.trace(input_ids=ids).attribute(CONTRAST).tokens)
        model.train()
        with pytest.raises(InstrumentError, match="training mode"):
            model(ids)
    assert model.training


def test_what_cannot_be_instrumented_is_refused_and_left_untouched() -> None:
    with pytest.raises(UnsupportedModelError, match="not a transformers model"):
        instrument(nn.Linear(2, 2))
    model = llama()
    with pytest.raises(UnsupportedModelError, match="head"):
        instrument(model.model)
    model._use_kernels = True
    with pytest.raises(UnsupportedModelError, match="use_kernels"):
        instrument(model)
    model._use_kernels = False
    with pytest.raises(InstrumentError, match="choices: attnlrp, cp-lrp, gradient"):
        instrument(model, "lrp-epsilon")
    with pytest.raises(InstrumentError, match="unknown='ignore'"):
        instrument(model, unknown="ignore")  # type: ignore[arg-type]
    before = snapshot(model)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"layers\.1\.mlp\.down_proj\.weight"):
        instrument(model)
    assert snapshot(model) == before


def test_relevance_is_of_the_latest_backward_whichever_forward() -> None:
    model, ids = llama(), inputs("llama", batch=2)
    with instrument(model) as lrp:
        first, second = model(ids[:1]).logits, model(ids[1:]).logits
        for row, logits in ((1, second), (0, first)):
            (logits[0, -1, 5] - logits[0, -1, 7]).backward(retain_graph=True)
            alone = lrp.relevance()
            assert torch.equal(alone.input_ids, ids[row : row + 1])
        assert torch.equal(lrp.trace(input_ids=ids[:1]).attribute(CONTRAST).tokens, alone.tokens)
        (first[0, -1, 5] + second[0, -1, 5]).backward()
        with pytest.raises(GradientError, match="several forwards"):
            lrp.relevance()


def test_a_decoder_whose_wrapper_is_skipped_is_found() -> None:
    """OPTForCausalLM calls ``model.decoder`` and never ``model``."""
    config = AutoConfig.for_model("opt", hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4)
    model = AutoModelForCausalLM.from_config(config).eval()
    reinitialise(model)
    with instrument(model) as lrp:
        assert lrp.skeleton.decoder is model.model.decoder
        assert lrp.trace(input_ids=inputs("llama")).attribute(CONTRAST).ledger().max() < 1e-4


def test_a_compiled_model_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="_orig_mod"):
        instrument(torch.compile(llama()))


def test_positional_arguments_and_other_outputs_are_understood() -> None:
    model = llama()
    ids = inputs("llama", batch=2)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    plain = model(ids, mask, output_hidden_states=True)
    with instrument(model) as lrp:
        out = model(ids, mask, output_hidden_states=True)
        assert all(torch.equal(a, b) for a, b in zip(out.hidden_states, plain.hidden_states, strict=True))
        as_tuple = model(input_ids=ids, attention_mask=mask, return_dict=False)
        assert torch.equal(as_tuple[0], plain.logits)
        (out.logits[:, -1, 5] - out.logits[:, -1, 7]).sum().backward()
        relevance = lrp.relevance()
    assert (relevance.tokens[1, :4] == 0).all()
    assert relevance.tokens[1, 4:].abs().min() > 0


def test_a_causal_language_model_that_is_not_causal_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    config = BertConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    model = BertLMHeadModel(config).eval()
    reinitialise(model)
    with pytest.raises(UnsupportedModelError, match="not causal"):
        instrument(model)


class Planted(nn.Module):
    """Wraps an MLP with something that no rule claims."""

    def __init__(self, mlp: nn.Module, leak: Any):
        super().__init__()
        self.inner, self.leak = mlp, leak

    def forward(self, x: Tensor) -> Tensor:
        return self.leak(self.inner(x))


LEAKS = {
    "Tanh": torch.tanh,
    "Mul": lambda y: y * y.sigmoid().detach() * y,
    "Exp": torch.exp,
    "Pow": lambda y: y / y.pow(2).mean(-1, keepdim=True).sqrt(),
    "Softmax": lambda y: y.softmax(-1),
    "Reciprocal": lambda y: 1.0 / (y.abs().detach() + y + 9.0),
    "Div": lambda y: y.detach() / (y.abs().detach() + y + 9.0),
}


@pytest.mark.parametrize("operation", LEAKS)
def test_a_planted_inline_leak_is_named(operation: str) -> None:
    """Without the rules for inline operations. (With them: the next test.)"""
    model = llama()
    model.model.layers[1].mlp = Planted(model.model.layers[1].mlp, LEAKS[operation])
    before = snapshot(model)
    strict = ATTNLRP.extended("strict", (Role.INLINE, None))
    with pytest.raises(UnclaimedModuleError) as caught:
        instrument(model, strict)
    assert caught.value.path == "model.layers.1.mlp"
    assert caught.value.class_name == "Planted"
    assert operation in str(caught.value)
    assert 'unknown="gradient"' in str(caught.value)
    assert snapshot(model) == before
    with instrument(model, strict, unknown="gradient") as lrp:
        assert any(operation in u.operation for u in lrp.accepted)
        report = lrp.report()
        assert any("model.layers.1.mlp" in entry for entry in report.accepted)


CLAIMED = ("Tanh", "Mul", "Pow", "Softmax")
"""Operations with a rule; the others are constants where they belong (decays, normalisers), not in a residual sum."""


@pytest.mark.parametrize("operation", LEAKS)
def test_an_inline_operation_has_its_rule_or_the_ledger_refuses_the_model(operation: str) -> None:
    model, ids = llama(), inputs("llama")
    model.model.layers[1].mlp = Planted(model.model.layers[1].mlp, LEAKS[operation])
    before = snapshot(model)
    if operation in CLAIMED:
        with instrument(model) as lrp:
            assert ("inline", "model.layers.1.mlp") in {(site.role.value, site.path) for site in lrp.sites}
            assert lrp.trace(input_ids=ids).attribute(CONTRAST).ledger().max() < 1e-4
    else:
        with pytest.raises(UnsupportedModelError, match="relevance does not add up"):
            instrument(model)
    assert snapshot(model) == before


def test_an_operation_without_any_rule_is_refused_by_name() -> None:
    model = llama()
    model.model.layers[1].mlp = Planted(model.model.layers[1].mlp, torch.atan)
    with pytest.raises(UnclaimedModuleError, match=r"model\.layers\.1\.mlp \(Planted\) computes Atan"):
        instrument(model)


def test_a_module_of_another_width_hook_is_claimed_by_a_user_rule_in_ten_lines() -> None:
    """The documented example of CONTRIBUTING.md: a user's own module, rule and composite."""
    from lrp_hooks.ops import ACTIVATIONS, slope_activation
    from lrp_hooks.patching import replace_forward

    class Squash(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x)

    def squash_rule(site: Any) -> Any:
        def forward(original: Any, x: Tensor) -> Tensor:
            return slope_activation(x, original(x.detach()), ACTIVATIONS["tanh"])

        return replace_forward(site.module, forward)

    composite = ATTNLRP.extended("mine", ("*.mlp.leak", squash_rule))
    model, ids = llama(), inputs("llama")
    model.model.layers[1].mlp = Planted(model.model.layers[1].mlp, Squash())
    with instrument(model, composite) as lrp:
        assert lrp.composite.name == "mine"
        relevance = lrp.trace(input_ids=ids).attribute(CONTRAST)
    assert relevance.ledger().max() < 1e-4


def test_composites_match_by_role_glob_and_predicate_in_order() -> None:
    calls: list[str] = []

    def noting(name: str) -> Any:
        def rule(site: Any) -> Any:
            calls.append(f"{name}:{site.path}")
            return site.module.register_forward_hook(lambda *_: None)

        return rule

    table = Composite(
        "table",
        (
            (lambda site: site.path == "model.norm", noting("predicate")),
            ("model.layers.0.*", noting("glob")),
            (Role.NORM, noting("role")),
        ),
        is_lrp=False,
    )
    with instrument(llama(), table):
        assert "predicate:model.norm" in calls
        assert "glob:model.layers.0.input_layernorm" in calls
        assert "role:model.layers.1.input_layernorm" in calls
        assert not any(c == "role:model.layers.0.input_layernorm" for c in calls)


def test_accelerate_offload_gives_the_same_relevance_and_undo() -> None:
    model, ids = llama(), inputs("llama")
    with instrument(model) as lrp:
        plain = lrp.trace(input_ids=ids).attribute(CONTRAST)
    offloaded = cpu_offload(llama(), execution_device="cpu", offload_buffers=False)
    before = snapshot(offloaded)
    with instrument(offloaded) as lrp:
        hooked = lrp.trace(input_ids=ids).attribute(CONTRAST)
    assert torch.equal(plain.tokens, hooked.tokens)
    assert snapshot(offloaded) == before


def test_nothing_holds_the_graph_after_a_trace_is_dropped() -> None:
    import gc
    import weakref

    model, ids = llama(), inputs("llama")
    with instrument(model) as lrp:
        trace = lrp.trace(input_ids=ids)
        trace.attribute(CONTRAST)
        graph = weakref.ref(trace._hidden.last_hidden_state.grad_fn)
        assert graph() is not None
        gc.disable()
        try:
            del trace
            assert graph() is None, "the graph waits for the garbage collector: something holds a reference cycle"
        finally:
            gc.enable()
