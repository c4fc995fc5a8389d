"""Targets, positions and traces: values against plain arithmetic, first-order values, clear errors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import build, inputs
from oracle import oracle
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lrp_hooks import (
    Custom,
    DemeanedLogit,
    Instrumentation,
    Logit,
    LogitDiff,
    LogProb,
    MaxLogit,
    Rank,
    SequenceLogProb,
    SequenceLogProbDiff,
    TopKMeanLogit,
    instrument,
)
from lrp_hooks.errors import ContextLengthError, InputError, NonFiniteError, TargetError, TokenError
from lrp_hooks.targets import Target, target_by_name, token_id


@pytest.fixture(scope="module")
def lrp() -> Any:
    return instrument(build("llama", dtype=torch.float64))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A byte-level BPE whose vocabulary holds ' Mary' and ' John' but not ' Alice'."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["Ġ", "M", "Ma", "ĠMa", "ry", "ĠMary", "J", "oh", "Joh", "ĠJoh", "n", "ĠJohn", "r", "y"]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*alphabet, *words]))}
    merges = [("M", "a"), ("Ġ", "Ma"), ("r", "y"), ("ĠMa", "ry"), ("o", "h"), ("J", "oh"), ("Ġ", "Joh"), ("ĠJoh", "n")]
    raw = Tokenizer(models.BPE(vocabulary, merges))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>")


def logits_at(lrp: Instrumentation, ids: Tensor, column: int = -1) -> Tensor:
    with torch.no_grad():
        return lrp.model(ids).logits[:, column].double()


def expected(target: Target, logits: Tensor) -> Tensor:
    first = logits.argmax(-1)
    if isinstance(target, Logit):
        return logits[:, 5]
    if isinstance(target, MaxLogit):
        return logits.max(-1).values
    if isinstance(target, DemeanedLogit):
        return logits[:, 5] - logits.mean(-1)
    if isinstance(target, TopKMeanLogit):
        return logits[:, 5] - logits.sort(-1, descending=True).values[:, :10].mean(-1)
    if isinstance(target, LogProb):
        return logits[:, 5] - logits.exp().sum(-1).log()
    assert isinstance(target, LogitDiff)
    if target.contrast == Rank(3):
        return logits.gather(1, first[:, None])[:, 0] - logits.sort(-1, descending=True).values[:, 2]
    return logits[:, 5] - logits[:, [7, 9]].mean(-1)


CONTRASTS = [LogitDiff(5, [7, 9]), LogitDiff(contrast=Rank(3))]


@pytest.mark.parametrize(
    "target",
    [Logit(5), MaxLogit(), DemeanedLogit(5), TopKMeanLogit(5), LogProb(5), *CONTRASTS],
    ids=lambda t: type(t).__name__,
)
def test_values_and_first_order_values(lrp: Instrumentation, target: Target) -> None:
    ids = inputs("llama", batch=2)
    logits = logits_at(lrp, ids).requires_grad_()
    want = expected(target, logits)
    (gradient,) = torch.autograd.grad(want.sum(), logits)
    relevance = lrp.trace(input_ids=ids).attribute(target)
    assert torch.allclose(relevance.target_value.double(), want.detach(), rtol=1e-5)
    assert torch.allclose(relevance.value.double(), (logits * gradient).sum(-1).detach(), rtol=1e-4, atol=1e-5)
    assert relevance.ledger().max() < 1e-4
    for row in range(2):
        weights = gradient[row] if row == 0 else gradient[1]
        theirs = oracle(lrp.model, ids[row : row + 1], weights)
        assert torch.allclose(relevance.tokens[row].double(), theirs.tokens[0], rtol=1e-3, atol=1e-4)


def test_any_position_counts_among_the_rows_real_tokens(lrp: Instrumentation) -> None:
    rows = [inputs("llama", length=n, seed=n)[0] for n in (9, 6)]
    ids = torch.stack([rows[0], torch.cat((torch.zeros(3, dtype=torch.long), rows[1]))])
    mask = (ids != 0).long()
    trace = lrp.trace(input_ids=ids, attention_mask=mask)
    for position in (-1, -2, 0, 4):
        batch = trace.attribute(LogitDiff(5, 7, position=position))
        for row, alone in enumerate(rows):
            single = lrp.trace(input_ids=alone[None]).attribute(LogitDiff(5, 7, position=position))
            assert torch.allclose(batch.tokens[row, -len(alone) :], single.tokens[0], rtol=1e-4, atol=1e-6)
            column = position % len(alone) + (9 - len(alone))
            assert batch.position[row] == column
            assert (batch.tokens[row, column + 1 :] == 0).all(), "later tokens cannot matter"
    for bad in (6, -7):
        with pytest.raises(TargetError, match=f"position {bad}"):
            trace.attribute(LogitDiff(5, 7, position=bad))


def test_sequence_log_prob_is_the_teacher_forced_sum(lrp: Instrumentation) -> None:
    ids = inputs("llama")
    trace = lrp.trace(input_ids=ids)
    with torch.no_grad():
        log_p = lrp.model(ids).logits.double().log_softmax(-1)[0]
    for start, end in ((4, 8), (-3, None), (1, 12)):
        columns = range(12)[start:end]
        want = sum(log_p[c - 1, ids[0, c]] for c in columns)
        assert trace.attribute(SequenceLogProb(start, end if end != 12 else None)).target_value[0] == pytest.approx(
            float(want), rel=1e-5
        )
    for start, end in ((5, 5), (0, 3)):
        with pytest.raises(TargetError, match="span"):
            trace.attribute(SequenceLogProb(start, end))


def test_the_difference_of_two_continuations(lrp: Instrumentation) -> None:
    prompt, target, contrast = inputs("llama")[0], torch.tensor([5, 6, 9]), torch.tensor([7])
    relevance = lrp.trace_continuations(prompt, target, contrast).attribute(SequenceLogProbDiff())
    for row, (span, sign) in enumerate(((target, 1), (contrast, -1))):
        alone = lrp.trace(input_ids=torch.cat((prompt, span))[None]).attribute(SequenceLogProb(len(prompt)))
        assert relevance.target_value[row] == pytest.approx(sign * alone.target_value.item(), rel=1e-5)
        assert torch.allclose(relevance.tokens[row, : len(prompt)], sign * alone.tokens[0, : len(prompt)], atol=1e-5)
    with pytest.raises(TargetError, match="trace_continuations"):
        lrp.trace(input_ids=prompt[None]).attribute(SequenceLogProbDiff())
    with pytest.raises(InputError, match="at least one token"):
        lrp.trace_continuations(prompt, target, contrast[:0])


def test_any_callable_is_a_target(lrp: Instrumentation) -> None:
    trace = lrp.trace(input_ids=inputs("llama"))
    custom = trace.attribute(lambda logits: logits[:, 5] - logits[:, 7])
    assert torch.equal(custom.tokens, trace.attribute(LogitDiff(5, 7)).tokens)
    with pytest.raises(TargetError, match="one scalar per row"):
        trace.attribute(Custom(lambda logits: logits.sum()))
    with pytest.raises(TargetError, match="not a target"):
        trace.attribute(3)  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError, match="not finite"):
        trace.attribute(lambda logits: logits[:, 5] / 0)


def test_several_questions_about_one_forward(lrp: Instrumentation) -> None:
    forwards: list[int] = []
    handle = lrp.model.model.layers[0].register_forward_hook(lambda *_: forwards.append(1))
    trace = lrp.trace(input_ids=inputs("llama"))
    first, second = trace.attribute([Logit(5), Logit(7)])
    both = trace.attribute(LogitDiff(5, 7))
    handle.remove()
    assert len(forwards) == 1
    assert torch.allclose(both.tokens, first.tokens - second.tokens, atol=1e-6)


def test_only_the_logits_asked_about_are_computed(lrp: Instrumentation) -> None:
    sizes: list[int] = []
    handle = lrp.model.lm_head.register_forward_hook(lambda _m, _a, out: sizes.append(out.shape[1]))
    lrp.trace(input_ids=inputs("llama")).attribute(LogitDiff(5, 7, position=3))
    handle.remove()
    assert sizes == [1, 1]


def test_tokens_by_text_id_and_rank(tokenizer: Any) -> None:
    assert token_id(" Mary", tokenizer) == tokenizer.convert_tokens_to_ids("ĠMary")
    assert token_id("<|end|>", tokenizer) == tokenizer.eos_token_id
    assert token_id(7, vocabulary=9) == 7
    with pytest.raises(TokenError, match=r"'Mary' is 2 tokens: \['Ma', 'ry'\].*did you mean ' Mary'"):
        token_id("Mary", tokenizer)
    with pytest.raises(TokenError, match="is 6 tokens"):
        token_id(" Alice", tokenizer)
    with pytest.raises(TokenError, match="is 0 tokens"):
        token_id("", tokenizer)
    with pytest.raises(TokenError, match="no tokenizer"):
        token_id(" Mary")
    for bad in (-1, 9):
        with pytest.raises(TokenError, match="outside the vocabulary of 9"):
            token_id(bad, vocabulary=9)
    with pytest.raises(TokenError, match="not float"):
        token_id(1.5)  # type: ignore[arg-type]
    with pytest.raises(TokenError, match="count from 1"):
        Rank(0)


def test_impossible_targets_are_errors(lrp: Instrumentation) -> None:
    trace = lrp.trace(input_ids=inputs("llama"))
    for target, message in (
        (LogitDiff(5, 5), "same token"),
        (LogitDiff(5, [7, 5]), "same token"),
        (LogitDiff(5, []), "at least one contrast"),
        (Logit(97), "outside the vocabulary"),
        (Logit(Rank(98)), "rank 98"),
        (TopKMeanLogit(5, k=0), "k = 0"),
    ):
        with pytest.raises(TargetError, match=message):
            trace.attribute(target)
    with pytest.raises(TargetError, match=r"unknown target 'logitdiff'.*logit-diff"):
        target_by_name("logitdiff")


def test_descriptions_name_the_tokens(lrp: Instrumentation, tokenizer: Any) -> None:
    trace = lrp.trace(input_ids=inputs("llama"))
    assert trace.attribute(LogitDiff(5, 7)).target == "logit('#5') - logit('#7')"
    mary = tokenizer.convert_tokens_to_ids("M")
    words = LogitDiff(mary, [7, 9], tokenizer=tokenizer).describe(torch.zeros(1, 300))
    assert words == "logit('M') - mean logit('(', '*')"


def test_the_top_k_table(lrp: Instrumentation) -> None:
    ids = inputs("llama")
    logits = logits_at(lrp, ids)[0]
    rows = lrp.trace(input_ids=ids).top(3, extra=[int(logits.argmin())])
    assert [row.rank for row in rows] == [1, 2, 3, 97]
    assert rows[0].id == int(logits.argmax())
    assert rows[0].probability == pytest.approx(float(logits.softmax(-1).max()), rel=1e-5)
    with pytest.raises(TargetError, match="k = 0"):
        lrp.trace(input_ids=ids).top(0)


def test_extra_tokens_of_the_table_are_named_by_text(lrp: Instrumentation, tokenizer: Any) -> None:
    ids = inputs("llama", batch=2)
    trace = lrp.trace(input_ids=ids)
    logits = logits_at(lrp, ids, 4)[1]
    first = tokenizer.decode([int(logits.argmax())])
    order = logits.argsort(descending=True).tolist()
    wanted = {text: tokenizer.convert_tokens_to_ids(text) for text in ("a", "Z", "~")}
    rows = trace.top(1, position=4, row=1, tokenizer=tokenizer, extra=[*wanted, "a", first])
    assert [row.id for row in rows] == sorted({order[0], *wanted.values()}, key=order.index), "each once, best first"
    for row in rows:
        assert row.rank == order.index(row.id) + 1
        assert row.text == tokenizer.decode([row.id])
        assert row.logit == pytest.approx(float(logits[row.id]), rel=1e-6)
    with pytest.raises(TokenError, match="is 2 tokens"):
        trace.top(1, tokenizer=tokenizer, extra=["aZ"])
    with pytest.raises(TokenError, match="there is no tokenizer"):
        trace.top(1, extra=["a"])


def test_bad_batches_are_named(lrp: Instrumentation) -> None:
    ids = inputs("llama")
    for batch, message in (
        ({"input_ids": ids[:, :0]}, "the prompt is empty"),
        ({}, "either input_ids or inputs_embeds"),
        ({"input_ids": ids[0]}, r"tensor \[B, T\]"),
        ({"input_ids": ids.tolist()}, r"tensor \[B, T\]"),
        ({"input_ids": ids.float()}, "must be integers"),
        ({"input_ids": ids + 97}, "outside the embedding's 97"),
        ({"input_ids": ids, "attention_mask": torch.ones(1, 5)}, "attention_mask must have"),
        ({"input_ids": ids, "attention_mask": torch.zeros(1, 12)}, "padding only"),
    ):
        with pytest.raises(InputError, match=message):
            lrp.trace(**batch)
    long = inputs("llama", length=65)
    with pytest.raises(ContextLengthError, match="65 tokens, the model's maximum is 64"):
        lrp.trace(input_ids=long)
    assert lrp.trace(input_ids=long, allow_beyond_max=True).attribute(Logit(5)).tokens.shape == (1, 65)
    assert lrp.tape.record is None


def test_inputs_embeds_work_without_ids(lrp: Instrumentation) -> None:
    ids = inputs("llama")
    embeds = lrp.model.get_input_embeddings()(ids).detach()
    by_ids = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7))
    by_embeds = lrp.trace(inputs_embeds=embeds).attribute(LogitDiff(5, 7))
    assert torch.equal(by_ids.tokens, by_embeds.tokens)
    assert by_embeds.input_ids is None
