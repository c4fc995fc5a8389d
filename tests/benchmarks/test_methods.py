"""Every attribution method against what it must give where the answer is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import build, inputs
from torch import Tensor, nn

from benchmarks.methods import METHODS, Method, available

TARGET, CONTRAST = 5, 7
BY_NAME = {method.name: method for method in METHODS}


class Additive(nn.Module):
    """Logits are sums over tokens of a linear map: every attribution method must find each token's own summand."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 50, bias=False)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embedding

    def forward(self, ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **_: Any) -> Any:
        states = self.embedding(ids) if inputs_embeds is None else inputs_embeds
        return SimpleNamespace(logits=self.head(states.sum(1, keepdim=True)))


def scores(method: Method, model: Any, ids: Tensor) -> Tensor:
    if method.missing:
        pytest.skip(method.missing)
    with method.open(model) as attribute:
        return attribute(ids, TARGET, CONTRAST)


@pytest.mark.parametrize("name", ["gradient x input", "integrated gradients", "occlusion"])
def test_a_sum_over_tokens_is_attributed_to_its_summands(name: str) -> None:
    model, ids = Additive(), torch.randint(50, (1, 9))
    each = model.head(model.embedding(ids)).detach()[0]
    torch.testing.assert_close(scores(BY_NAME[name], model, ids), each[:, TARGET] - each[:, CONTRAST])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_methods_give_one_score_per_token_twice_the_same_and_leave_the_model(method: Method) -> None:
    model, ids = build("llama"), inputs("llama")
    before, kind = model(ids).logits.detach(), model.config._attn_implementation
    first, second = scores(method, model, ids), scores(method, model, ids)
    assert first.shape == (ids.shape[1],)
    assert first.dtype == torch.float32
    assert torch.equal(first, second)
    assert len(first.unique()) > 1
    assert torch.equal(model(ids).logits, before)
    assert model.config._attn_implementation == kind


@pytest.mark.parametrize("method", [m for m in METHODS if m.signed], ids=lambda method: method.name)
def test_exchanging_target_and_contrast_turns_the_sign(method: Method) -> None:
    if method.name == "random":
        pytest.skip("chance has no sign")
    if method.missing:
        pytest.skip(method.missing)
    model, ids = build("llama"), inputs("llama")
    with method.open(model) as attribute:
        there, back = attribute(ids, TARGET, CONTRAST), attribute(ids, CONTRAST, TARGET)
    torch.testing.assert_close(there, -back)


def test_our_gradient_is_the_plain_one() -> None:
    """The project's "gradient" composite and a bare backward pass, two ways to one result."""
    from lrp_hooks import LogitDiff, instrument

    model, ids = build("llama"), inputs("llama")
    plain = scores(BY_NAME["gradient x input"], model, ids)
    with instrument(model, "gradient") as lrp:
        ours = lrp.trace(input_ids=ids).attribute(LogitDiff(TARGET, CONTRAST)).tokens[0]
    torch.testing.assert_close(ours.float(), plain)


def test_rollout_is_the_product_of_mixed_attention() -> None:
    model, ids = build("llama", attn_implementation="eager"), inputs("llama")
    with torch.no_grad():
        weights = model(ids, output_attentions=True).attentions
    product = torch.eye(ids.shape[1], dtype=torch.float64)
    for block in weights:
        product = (0.5 * torch.eye(ids.shape[1]) + 0.5 * block[0].mean(0)).double() @ product
    rolled = scores(BY_NAME["attention rollout"], model, ids)
    torch.testing.assert_close(rolled.double(), product[-1], rtol=1e-5, atol=1e-7)
    assert float(rolled.sum()) == pytest.approx(1.0, abs=1e-5)


def test_integrated_gradients_are_complete() -> None:
    """Scores sum to the difference between prompt and baseline, up to the error of 32 points on the path."""
    model, ids = build("llama"), inputs("llama")
    given = scores(BY_NAME["integrated gradients"], model, ids)
    embeds = model.get_input_embeddings()(ids).detach()

    def value(states: Tensor) -> float:
        logits = model(inputs_embeds=states).logits[0, -1]
        return float(logits[TARGET] - logits[CONTRAST])

    with torch.no_grad():
        change = value(embeds) - value(torch.zeros_like(embeds))
    coarse = sum(
        float((torch.autograd.grad(_difference(model, x), x)[0] * embeds).sum()) / 8
        for x in ((embeds * (k + 0.5) / 8).detach().requires_grad_() for k in range(8))
    )
    assert abs(float(given.sum()) - change) <= max(abs(coarse - change), 1e-3 * abs(change))


def _difference(model: Any, embeds: Tensor) -> Tensor:
    logits: Tensor = model(inputs_embeds=embeds).logits[0, -1]
    return logits[TARGET] - logits[CONTRAST]


def test_methods_are_chosen_by_name_and_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="choices: attnlrp"):
        available(("lime",))
    assert [m.name for m in available(("random", "attnlrp"))[0]] == ["attnlrp", "random"]
    monkeypatch.setattr("benchmarks.methods.find_spec", lambda name: None)
    there, missing = available()
    assert "integrated gradients" not in [m.name for m in there]
    assert "integrated gradients needs captum: pip install captum" in missing
