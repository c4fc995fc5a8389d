"""Classifiers, question answering, masked language models, encoder-decoders and image classifiers: what users meet."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from families import VOCABULARY, exact_float64
from torch import Tensor

from benchmarks.tiny import TASKS, reinitialise, tiny_model
from lrp_hooks import AnswerSpan, Logit, LogitDiff, SequenceLogProb, instrument
from lrp_hooks.errors import GraphError, InputError, TargetError, TokenError, UnsupportedModelError

SEQUENCE, TOKENS, ANSWERS, MASKED, PAIRS, IMAGES = TASKS.values()
F64 = torch.float64


@cache
def model(kind: str, task: str = SEQUENCE.name, dtype: torch.dtype = torch.float32) -> Any:
    return tiny_model(kind, dtype, task=TASKS[task])


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(4, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def pixels(batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


# Targets -------------------------------------------------------------------------------------------------------------


def test_classes_are_named_and_have_no_position() -> None:
    bert = model("bert")
    with instrument(bert) as lrp:
        trace = lrp.trace(input_ids=ids(1, 9))
        named = trace.attribute(LogitDiff("LABEL_2", "LABEL_0"))
        by_id = trace.attribute(LogitDiff(2, 0))
        assert torch.equal(named.layers, by_id.layers)
        assert named.target == "logit('LABEL_2') - logit('LABEL_0')"
        assert named.position is None
        assert [row.text for row in trace.top(3)] == [
            bert.config.id2label[int(i)] for i in trace.logits()[0].argsort(descending=True)
        ]
        with pytest.raises(TargetError, match="no position 3"):
            trace.attribute(Logit(1, position=3))
        with pytest.raises(TokenError, match="LABEL_0, LABEL_1, LABEL_2"):
            trace.attribute(Logit("POSITIVE"))
        with pytest.raises(TokenError, match="outside"):
            trace.attribute(Logit(3))
        with pytest.raises(TargetError, match="does not predict the next token"):
            trace.attribute(SequenceLogProb(2))
    assert (named.layers[0, -1, 1:] == 0).all(), "the pooler reads the first token only"


def test_the_position_of_a_token_classifier_is_the_classified_token() -> None:
    tagger, tokens = model("bert", TOKENS.name), ids(1, 9)
    with instrument(tagger) as lrp:
        relevance = lrp.trace(input_ids=tokens).attribute(LogitDiff("LABEL_1", "LABEL_0", position=4))
        expected = tagger(input_ids=tokens).logits[0, 4].detach()
    assert relevance.value[0] == pytest.approx(float(expected[1] - expected[0]), rel=1e-4)
    assert relevance.layers[0, -1].nonzero().flatten().tolist() == [4]
    assert relevance.tokens.abs().min() > 0, "attention looks both ways"


def test_an_answer_is_explained_by_its_start_and_its_end() -> None:
    reader, tokens = model("bert", ANSWERS.name), ids(2, 9)
    with instrument(reader) as lrp:
        trace = lrp.trace(input_ids=tokens)
        out = reader(input_ids=tokens)
        start, end = out.start_logits.detach(), out.end_logits.detach()
        answer = trace.attribute(AnswerSpan(3, 5, contrast=AnswerSpan(1, 2)))
        assert torch.allclose(answer.value, start[:, 3] + end[:, 5] - start[:, 1] - end[:, 2], rtol=1e-4)
        assert answer.target == "start(3) + end(5) - (start(1) + end(2))"
        assert answer.layers[0, -1].nonzero().flatten().tolist() == [1, 2, 3, 5]
        only_start = trace.attribute(AnswerSpan(start=3))
        by_function = trace.attribute(lambda logits: logits[:, 0, 3])
        assert torch.equal(only_start.tokens, by_function.tokens)
        assert trace.logits().shape == (2, 2, 9)
        with pytest.raises(TargetError, match="AnswerSpan"):
            trace.attribute(Logit(3))
        with pytest.raises(TargetError, match="outside the 9 tokens"):
            trace.attribute(AnswerSpan(3, 9))
        with pytest.raises(TargetError, match="same answer"):
            trace.attribute(AnswerSpan(3, 5, contrast=AnswerSpan(3, 5)))
        with pytest.raises(TargetError, match="a start, an end"):
            trace.attribute(AnswerSpan())
        with pytest.raises(TargetError, match="rank positions"):
            trace.top(3)
    with instrument(model("bert")) as lrp, pytest.raises(TargetError, match="start and end logits"):
        lrp.trace(input_ids=tokens).attribute(AnswerSpan(3, 5))


# Both ways of asking, batches, checkpointing -------------------------------------------------------------------------

MODELS = [
    ("roberta", SEQUENCE.name),
    ("modernbert", TOKENS.name),
    ("deberta-v2", SEQUENCE.name),
    ("electra", MASKED.name),
    ("bart", PAIRS.name),
    ("vit", IMAGES.name),
]


def example(kind: str, task: str, rows: int = 1) -> dict[str, Tensor]:
    if task == IMAGES.name:
        return {"pixel_values": pixels(rows)}
    given = {"input_ids": ids(rows, 9)}
    return {**given, "decoder_input_ids": ids(rows, 6, seed=1)} if task == PAIRS.name else given


@pytest.mark.parametrize(("kind", "task"), MODELS)
def test_a_trace_says_what_a_backward_pass_says_and_checkpointing_changes_nothing(kind: str, task: str) -> None:
    subject, inputs, found = model(kind, task), example(kind, task), []
    for checkpoint in (False, True):
        with instrument(subject, checkpoint=checkpoint) as lrp:
            found.append(lrp.trace(**inputs).attribute(LogitDiff(2, 0)))
            logits = subject(**inputs).logits
            logits = logits[:, -1] if logits.dim() == 3 else logits
            (logits[0, 2] - logits[0, 0]).backward()
            found.append(lrp.relevance())
    for other in found[1:]:
        assert torch.allclose(found[0].layers, other.layers, rtol=1e-4, atol=1e-5)
        assert torch.allclose(found[0].tokens, other.tokens, rtol=1e-4, atol=1e-5)
        assert (found[0].encoder is None) == (other.encoder is None)
        if other.encoder is not None and found[0].encoder is not None:
            assert torch.allclose(found[0].encoder.layers, other.encoder.layers, rtol=1e-4, atol=1e-5)
            assert other.encoder.ledger().max() < 1e-4


@pytest.mark.parametrize(("kind", "task"), MODELS)
def test_a_padded_row_of_a_batch_has_the_relevance_it_has_alone(kind: str, task: str) -> None:
    subject, inputs = model(kind, task), example(kind, task, rows=2)
    target = LogitDiff(2, 0, position=3) if task in (MASKED.name, TOKENS.name) else LogitDiff(2, 0)
    if "input_ids" in inputs:
        pad = subject.config.pad_token_id
        inputs["attention_mask"] = torch.tensor([[1] * 9, [1] * 6 + [0] * 3])
        inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, pad)
    with instrument(subject) as lrp:
        both = lrp.trace(**inputs).attribute(target)
        short = {name: x[1:] if "decoder" in name or "pixel" in name else x[1:, :6] for name, x in inputs.items()}
        alone = lrp.trace(**short).attribute(target)
    pairs = [(both, alone)] if both.encoder is None else [(both, alone), (both.encoder, alone.encoder)]
    for whole, single in pairs:
        length = single.layers.shape[2]
        assert torch.allclose(whole.layers[1, :, :length], single.layers[0], rtol=1e-3, atol=1e-4)
        assert (whole.layers[1, :, length:] == 0).all()
        assert whole.ledger().max() < 1e-4


@pytest.mark.parametrize(("kind", "task"), MODELS)
def test_undo_is_exact(kind: str, task: str) -> None:
    subject, inputs = model(kind, task), example(kind, task)
    before = subject(**inputs).logits
    attributes = [sorted(m.__dict__) for m in subject.modules()]
    with instrument(subject) as lrp:
        lrp.trace(**inputs).attribute(LogitDiff(2, 0))
        assert torch.equal(subject(**inputs).logits, before)
    assert torch.equal(subject(**inputs).logits, before)
    assert [sorted(m.__dict__) for m in subject.modules()] == attributes
    assert all(p.requires_grad for p in subject.parameters())


# Images --------------------------------------------------------------------------------------------------------------


def test_patches_come_after_learned_tokens_and_pixels_have_relevance_too() -> None:
    with exact_float64():
        vit = tiny_model("vit", F64, task=IMAGES)
        image = pixels().double().requires_grad_()
        with instrument(vit) as lrp:
            logits = vit(pixel_values=image).logits
            (logits[0, 2] - logits[0, 0]).backward()
            relevance = lrp.relevance()
    assert relevance.tokens.shape == (1, 17)
    assert relevance.tokens[0, 0] == 0, "CLS is a constant"
    assert relevance.layers[0, 0, 0] != 0
    assert image.grad is not None
    per_patch = (image * image.grad).sum(1)[0].unfold(0, 8, 8).unfold(1, 8, 8).sum((2, 3)).flatten()
    bias = vit.vit.embeddings.patch_embeddings.projection.bias.detach()
    absorbed = relevance.tokens[0, 1:].double() - per_patch.detach()
    assert bias.abs().min() > 0
    assert absorbed.abs().max() > 1e-3, "the projection's bias absorbs"
    grads: list[Tensor] = []
    with instrument(vit):
        embed = vit.vit.embeddings.patch_embeddings
        handle = embed.register_forward_hook(lambda _m, _a, out: [out.register_hook(grads.append), None][1])
        logits = vit(pixel_values=image).logits
        (logits[0, 2] - logits[0, 0]).backward()
        handle.remove()
    assert torch.allclose(absorbed, grads[0][0] @ bias, rtol=1e-8, atol=1e-12)


def test_other_sizes_of_images_work_where_positions_are_interpolated() -> None:
    vit = model("vit", IMAGES.name)
    image = torch.randn(1, 3, 48, 32, generator=torch.Generator().manual_seed(0))
    with instrument(vit) as lrp:
        relevance = lrp.trace(pixel_values=image, interpolate_pos_encoding=True).attribute(LogitDiff(2, 0))
    assert relevance.tokens.shape == (1, 1 + 6 * 4)
    assert relevance.ledger().max() < 1e-4


# Encoder-decoders ----------------------------------------------------------------------------------------------------


def test_a_bias_of_the_logits_is_in_the_value_and_in_the_ledger() -> None:
    bart, inputs = model("bart", PAIRS.name), example("bart", PAIRS.name)
    bias = bart.final_logits_bias[0]
    assert (bias[5] - bias[7]).abs() > 0.1
    logits = bart(**inputs).logits[0, -1].detach()
    with instrument(bart) as lrp:
        relevance = lrp.trace(**inputs).attribute(LogitDiff(5, 7))
    assert relevance.value[0] == pytest.approx(float(logits[5] - logits[7]), rel=1e-4)
    assert relevance.absorbed is not None
    assert relevance.absorbed.biases[".inline"][0] == pytest.approx(float(bias[5] - bias[7]), rel=1e-4)
    assert relevance.ledger().max() < 1e-4


def test_the_probability_of_the_output_so_far_is_explained_in_both_streams() -> None:
    t5, inputs = model("t5", PAIRS.name), example("t5", PAIRS.name)
    log_p = t5(**inputs).logits.detach().log_softmax(-1)[0]
    output = inputs["decoder_input_ids"][0]
    with instrument(t5) as lrp:
        relevance = lrp.trace(**inputs).attribute(SequenceLogProb(2))
    expected = sum(float(log_p[i - 1, output[i]]) for i in range(2, len(output)))
    assert relevance.target_value is not None
    assert relevance.target_value[0] == pytest.approx(expected, rel=1e-4)
    assert relevance.encoder is not None
    assert torch.equal(relevance.encoder.input_ids, inputs["input_ids"])
    assert torch.equal(relevance.input_ids, inputs["decoder_input_ids"])
    assert relevance.encoder.tokens.abs().min() > 0
    assert max(relevance.ledger().max(), relevance.encoder.ledger().max()) < 1e-4


def test_generation_with_an_instrumented_encoder_decoder_is_what_it_was() -> None:
    t5, tokens = model("t5", PAIRS.name), ids(1, 9)
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": 1, "decoder_start_token_id": 4}
    plain = t5.generate(tokens, **options)
    with instrument(t5):
        assert torch.equal(t5.generate(tokens, **options), plain)


# Graphs and cuts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "task", "attention", "composite"),
    [
        ("bert", SEQUENCE, "sdpa", "attnlrp"),
        ("bert", SEQUENCE, "sdpa", "gradient"),
        ("layoutlm", MASKED, "eager", "attnlrp"),  # one row of the mask for all
        ("splinter", ANSWERS, "eager", "attnlrp"),  # says nowhere that it is not causal
        ("modernbert", TOKENS, "sdpa", "attnlrp"),
        ("vit", IMAGES, "sdpa", "cp-lrp"),
    ],
)
def test_edges_of_attention_that_looks_both_ways_are_exact(
    kind: str, task: Any, attention: str, composite: str
) -> None:
    with exact_float64():
        subject = tiny_model(kind, F64, attention, task=task)
        inputs = {name: x.double() if x.is_floating_point() else x for name, x in example(kind, task.name).items()}
        with instrument(subject, composite) as lrp:
            trace = lrp.trace(**inputs)
            target = AnswerSpan(3, 5) if task is ANSWERS else LogitDiff(2, 0)
            exact = trace.edge_matrices(target)
            packed = trace.edge_matrices(target, method="packed")
    for pair, matrix in packed.items():
        assert (exact[pair] - matrix).abs().max() < 1e-10 * matrix.abs().max()
    assert exact[0, 1].triu(1).abs().max() > 0, "later tokens speak for earlier ones"


def test_positions_that_are_added_to_scores_are_in_the_edges() -> None:
    with exact_float64():
        tagger = tiny_model("t5", F64, task=TOKENS)
        with instrument(tagger) as lrp:
            trace = lrp.trace(input_ids=ids(1, 9))
            exact = trace.edge_matrices(LogitDiff(2, 0, position=4))
            packed = trace.edge_matrices(LogitDiff(2, 0, position=4), method="packed")
    for pair, matrix in packed.items():
        assert (exact[pair] - matrix).abs().max() < 1e-10 * matrix.abs().max()


def test_a_classifier_has_a_graph_that_ends_where_its_head_reads() -> None:
    with instrument(model("bert")) as lrp:
        graph = lrp.trace(input_ids=ids(1, 9)).graph(LogitDiff(2, 0), node_threshold=0)
    assert graph.positions == (0,)
    assert len(graph) > 0
    with instrument(model("beit", IMAGES.name)) as lrp:
        trace = lrp.trace(pixel_values=pixels())
        pooled = trace.graph(LogitDiff(2, 0), node_threshold=0)
        last = trace.attribute(LogitDiff(2, 0)).layers[0, -1]
    assert len(pooled.positions) in (16, 17), "patches, and perhaps the classification token"
    assert pooled.positions == tuple(torch.nonzero(last).flatten().tolist())
    assert sum(path.strength for path in pooled.strongest_paths(10_000)) <= 1 + 1e-6
    assert {path.nodes[-1][1] for path in pooled.strongest_paths(50)} <= set(pooled.positions)


def test_graphs_and_cuts_of_encoder_decoders_are_refused() -> None:
    with instrument(model("t5", PAIRS.name)) as lrp:
        trace = lrp.trace(**example("t5", PAIRS.name))
        for method in ("exact", "packed"):
            with pytest.raises(GraphError, match="encoder's output"):
                trace.edge_matrices(LogitDiff(2, 0), method=method)
        with pytest.raises(GraphError, match="encoder's output"):
            trace.graph(LogitDiff(2, 0))
        with pytest.raises(InputError, match="encoder-decoder"):
            trace.ablate(LogitDiff(2, 0), tokens=[1])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_cutting_a_token_of_an_encoder_is_masking_it(attention: str) -> None:
    bert, tokens = tiny_model("bert", attention=attention, task=SEQUENCE), ids(1, 9)
    mask = torch.ones(1, 9, dtype=torch.long)
    mask[0, 5] = 0
    masked = bert(input_ids=tokens, attention_mask=mask).logits[0].detach()
    with instrument(bert) as lrp:
        trace = lrp.trace(input_ids=tokens)
        cut = trace.ablate(LogitDiff(2, 0), tokens=[5])
        edge = trace.ablate(LogitDiff(2, 0), edges=[(0, 7, 2)])  # the later token's to the earlier one
    assert cut.after == pytest.approx(float(masked[2] - masked[0]), rel=1e-4)
    assert abs(cut.change) > 1e-3
    assert abs(edge.change) > 1e-6


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": ids(1, 5)}, "decoder_start_token_id"),
        ({"decoder_input_ids": ids(1, 5)}, "input_ids or inputs_embeds"),
        ({"input_ids": ids(1, 5), "decoder_input_ids": ids(1, 5)[0]}, "decoder_input_ids must be"),
        ({"input_ids": ids(1, 5), "decoder_input_ids": ids(1, 5), "encoder_outputs": (torch.zeros(1),)}, "hide"),
    ],
)
def test_inputs_that_an_encoder_decoder_cannot_use(inputs: dict[str, Any], message: str) -> None:
    with instrument(model("t5", PAIRS.name)) as lrp, pytest.raises(InputError, match=message):
        lrp.trace(**inputs)


@pytest.mark.parametrize("given", [None, pixels()[0], (pixels() * 9).long(), pixels() / 0])
def test_inputs_that_are_no_images(given: Any) -> None:
    with instrument(model("vit", IMAGES.name)) as lrp, pytest.raises(InputError, match="pixel_values"):
        lrp.trace(pixel_values=given)


def test_a_loss_made_inside_the_model_is_refused() -> None:
    bert = model("bert")
    with instrument(bert), pytest.raises(InputError, match="labels"):
        bert(input_ids=ids(1, 9), labels=torch.tensor([1]))


REFUSED = {
    ("albert", SEQUENCE.name): "several times per forward",
    ("swin", IMAGES.name): "their number changes",
    ("resnet", IMAGES.name): "no list of blocks|no input embedding|input embedding",
}


@pytest.mark.parametrize(("kind", "task"), REFUSED)
def test_what_is_not_understood_is_refused_by_name(kind: str, task: str) -> None:
    with pytest.raises(UnsupportedModelError, match=REFUSED[kind, task]):
        instrument(model(kind, task))


def test_a_model_without_a_head_is_refused_with_a_list_of_heads() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    with pytest.raises(UnsupportedModelError, match="AutoModelForCausalLM, MaskedLM, Seq2SeqLM"):
        instrument(BertModel(config).eval())


def test_a_constant_that_no_rule_books_is_refused() -> None:
    """Mutation: a classifier with a learned shift in its head, hidden from every hook."""
    bert = tiny_model("bert", task=SEQUENCE)
    plain = bert.classifier.forward
    shift = torch.randn(1, 32, generator=torch.Generator().manual_seed(1))
    bert.classifier.forward = lambda x: plain(x + shift)
    with pytest.raises(UnsupportedModelError, match="does not add up"):
        instrument(bert)


def test_half_precision_has_both_streams() -> None:
    t5 = tiny_model("t5", torch.bfloat16, task=PAIRS)
    reinitialise(t5)
    with instrument(t5) as lrp:
        relevance = lrp.trace(**example("t5", PAIRS.name)).attribute(LogitDiff(5, 7))
    assert relevance.encoder is not None
    assert relevance.ledger().max() < 0.1
    assert relevance.encoder.ledger().max() < 0.1
