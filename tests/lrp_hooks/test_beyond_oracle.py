"""A BERT classifier, a T5 and a ViT, entry by entry against equations written out by hand in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import oracle_beyond
import pytest
import torch
from families import VOCABULARY, exact_float64
from oracle import COMPOSITES as BY_HAND
from oracle import Rules
from torch import Tensor

from benchmarks.tiny import reinitialise
from lrp_hooks import Relevance, Role, instrument
from lrp_hooks.composites import ATTNLRP

EXACT = 1e-10
NOTICED = 0.01
SIZES = {"num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48, "num_labels": 3}
T5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 3}
# fewer buckets than distances, so that wide buckets occur
POSITIONS = {"num_heads": 4, "relative_attention_num_buckets": 8, "relative_attention_max_distance": 7}


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its input, the weights of the explained logits, and the same by hand."""

    model: Any
    inputs: dict[str, Tensor]
    seed: Tensor
    hand: Callable[[Rules], oracle_beyond.Answer]


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def bert() -> Case:
    from transformers import BertConfig, BertForSequenceClassification

    model = BertForSequenceClassification(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=32, **SIZES))
    tokens, real, types = ids(2, 9), torch.ones(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
    real[1, 6:], types[:, 4:] = 0, 1
    seed = torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, -0.5]], dtype=torch.float64)
    inputs = {"input_ids": tokens, "attention_mask": real, "token_type_ids": types}
    model = ready(model)
    return Case(model, inputs, seed, lambda rules: oracle_beyond.bert(model, tokens, real.bool(), types, seed, rules))


def vit() -> Case:
    from transformers import ViTConfig, ViTForImageClassification

    model = ready(ViTForImageClassification(ViTConfig(image_size=24, patch_size=8, **SIZES)))
    pixels = torch.randn(2, 3, 24, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    seed = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    return Case(model, {"pixel_values": pixels}, seed, lambda rules: oracle_beyond.vit(model, pixels, seed, rules))


def t5(feed: str) -> Case:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(feed_forward_proj=feed, decoder_start_token_id=0, **T5, **POSITIONS)
    model = ready(T5ForConditionalGeneration(config))
    tokens, output, real = ids(2, 11), ids(2, 6, seed=1), torch.ones(2, 11, dtype=torch.long)
    real[1, 8:] = 0
    seed = torch.zeros(2, 6, VOCABULARY, dtype=torch.float64)
    seed[:, -1, 5], seed[:, -1, 7] = 1.0, -1.0
    inputs = {"input_ids": tokens, "attention_mask": real, "decoder_input_ids": output}
    return Case(model, inputs, seed, lambda rules: oracle_beyond.t5(model, tokens, real.bool(), output, seed, rules))


def ready(model: Any) -> Any:
    model = model.eval().double()
    reinitialise(model)
    return model


CASES = {"bert": bert, "vit": vit, "t5": lambda: t5("relu"), "t5-gated": lambda: t5("gated-gelu")}
ROLES = {  # a ReLU's slope is its derivative; an activation in a gated MLP belongs to the product's rule
    "bert": (Role.NORM, Role.ATTENTION, Role.ACTIVATION),
    "vit": (Role.NORM, Role.ATTENTION, Role.ACTIVATION),
    "t5": (Role.NORM, Role.ATTENTION),
    "t5-gated": (Role.NORM, Role.ATTENTION, Role.GATED),
}


@cache
def made(name: str) -> Case:
    return CASES[name]()


@cache
def by_rule(name: str) -> Relevance:
    return explained(made(name), "attnlrp")[0]


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    with exact_float64():
        yield


def explained(case: Case, composite: Any, **options: Any) -> tuple[Relevance, Tensor]:
    with instrument(case.model, composite, **options) as lrp:
        logits = case.model(**case.inputs).logits
        (logits * case.seed).sum().backward()
        return lrp.relevance(), logits.detach()


def parts(relevance: Relevance) -> Iterator[tuple[Tensor, Tensor]]:
    """(tokens, layers) per stream, the decoder's first."""
    yield relevance.tokens, relevance.layers
    if relevance.encoder is not None:
        yield relevance.encoder.tokens, relevance.encoder.layers


def distance(relevance: Relevance, hand: oracle_beyond.Answer) -> float:
    """Largest difference of any entry, per stream relative to its largest entry."""
    worst = 0.0
    for (tokens, layers), stream in zip(parts(relevance), hand.streams, strict=True):
        by_hand = stream.tokens.relevance()
        learned = tokens.shape[1] - by_hand.shape[1]  # ViT's CLS, which embeds nothing
        assert (tokens[:, :learned] == 0).all()
        for ours, theirs in ((tokens[:, learned:], by_hand), (layers, stream.layers())):
            worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max()))
    return worst


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp", "gradient"])
def test_every_entry_is_that_of_the_equations(name: str, composite: str) -> None:
    hand = made(name).hand(BY_HAND[composite])
    relevance, logits = explained(made(name), composite)
    assert (logits - hand.logits).abs().max() < 1e-12
    assert (relevance.value - hand.value).abs().max() < 1e-12
    assert distance(relevance, hand) < EXACT


@pytest.mark.parametrize("name", CASES)
def test_ledgers_close(name: str) -> None:
    assert by_rule(name).ledger().max() < EXACT


@pytest.mark.parametrize("name", ["t5", "t5-gated"])
def test_the_encoder_receives_what_cross_attention_passes(name: str) -> None:
    relevance = by_rule(name)
    assert relevance.encoder is not None
    assert relevance.absorbed is not None
    passed = relevance.absorbed.around
    assert passed is not None
    assert relevance.encoder.ledger().max() < EXACT
    assert torch.allclose(passed[:, 0], relevance.encoder.value, rtol=1e-12)
    assert passed[:, 0].abs().min() > 0
    assert (passed[:, -1] == 0).all(), "nothing reads the encoder above the last block"


@pytest.mark.parametrize(("name", "role"), [(name, role) for name, roles in ROLES.items() for role in roles])
def test_every_rule_that_is_taken_away_is_noticed(name: str, role: Role) -> None:
    wrong, _ = explained(made(name), ATTNLRP.extended("mutated", (role, None)), unknown="gradient")
    assert distance(wrong, made(name).hand(BY_HAND["attnlrp"])) > NOTICED


def test_every_role_of_these_models_is_taken_away_once() -> None:
    for name, roles in ROLES.items():
        with instrument(made(name).model) as lrp:
            present = {site.role for site in lrp.sites if getattr(site.spec, "name", "") != "relu"}
        assert present - {Role.DROPOUT} <= {*roles, *([Role.ACTIVATION] if Role.GATED in roles else [])}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("change", [{"query": 0.5}, {"key": 0.5}, {"value": 1.0}, {"detach_norm": False}])
def test_the_comparison_sees_each_factor(name: str, change: dict[str, Any]) -> None:
    assert distance(by_rule(name), made(name).hand(replace(BY_HAND["attnlrp"], **change))) > NOTICED
