"""Attention that a forward writes out, or calls past transformers' interface: exact edges, tangents and cuts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import exact_float64

from benchmarks.tiny import tiny_ids, tiny_model
from lrp_hooks import LogitDiff, instrument
from lrp_hooks.errors import InputError, NoClosedFormError
from lrp_hooks.rules.inline import written

pytestmark = pytest.mark.filterwarnings("ignore")

TARGET = LogitDiff(5, 7)
WRITTEN = {
    "gptj": "scores divided after the product",
    "bloom": "heads joined with the batch, ALiBi inside baddbmm",
    "mpt": "ALiBi added to scaled scores",
    "gpt_neox_japanese": "the scale inside baddbmm",
    "openai-gpt": "one projection for q, k and v, with biases",
    "megatron-bert": "biases, scores divided",
    "falcon": "scaled_dot_product_attention, one key/value head",
}


def both(kind: str, composite: str, ids: torch.Tensor, row: int = 0) -> tuple[dict[Any, Any], dict[Any, Any]]:
    with exact_float64(), instrument(tiny_model(kind, torch.float64), composite) as lrp:
        trace = lrp.trace(input_ids=ids)
        return tuple(trace.edge_matrices(TARGET, method=m, row=row) for m in ("exact", "packed"))  # type: ignore[return-value]


def error(exact: dict[Any, Any], packed: dict[Any, Any]) -> float:
    assert exact.keys() == packed.keys()
    return max(float((exact[s] - packed[s]).abs().max() / packed[s].abs().max()) for s in packed)


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp"])
@pytest.mark.parametrize("kind", WRITTEN)
def test_exact_edges_are_those_of_packed_products(kind: str, composite: str) -> None:
    assert error(*both(kind, composite, tiny_ids())) < 1e-12


@pytest.mark.parametrize("kind", ["gptj", "gpt_neox_japanese"])
def test_a_row_of_a_batch(kind: str) -> None:
    ids = torch.cat([tiny_ids(seed=seed) for seed in (0, 1)])
    assert error(*both(kind, "attnlrp", ids, row=1)) < 1e-12


@pytest.mark.parametrize("kind", ["gptj", "bloom"])
def test_heads_and_paths_add_up(kind: str) -> None:
    with exact_float64(), instrument(tiny_model(kind, torch.float64)) as lrp:
        trace = lrp.trace(input_ids=tiny_ids())
        whole, heads, paths = (trace.edge_matrices(TARGET, by=by) for by in ("sum", "head", "path"))
    for step, edges in whole.items():
        off = ~torch.eye(len(edges), dtype=torch.bool)
        assert torch.allclose(heads[step].sum(0)[off], edges[off], atol=1e-12)
        assert torch.allclose(paths[step].sum(0), edges, atol=1e-12)
        assert heads[step].shape[0] > 1
        assert float(paths[step][1].abs().max()) > 0, "the key path"


@pytest.mark.parametrize(
    ("broken", "effect"),
    [("_scale", lambda *_: 1.0), ("role_of", lambda scope, a, b: written.PLAIN)],
    ids=["scale", "roles"],
)
def test_without_its_parts_the_closed_form_breaks(broken: str, effect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if broken == "role_of":
        monkeypatch.setattr("lrp_hooks.rules.inline.products.role_of", effect)
        with pytest.raises(NoClosedFormError, match="made no softmax attention call"):
            both("gptj", "attnlrp", tiny_ids())
    else:
        monkeypatch.setattr(written, broken, effect)
        assert error(*both("gptj", "attnlrp", tiny_ids())) > 0.01


def test_cutting_a_token_is_masking_it() -> None:
    model, ids = tiny_model("gptj", torch.float64), tiny_ids()
    mask = torch.ones_like(ids)
    mask[0, 4] = 0
    positions = torch.arange(ids.shape[1])[None]
    with exact_float64():
        with torch.no_grad():
            masked = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0, -1]
        with instrument(model) as lrp:
            trace = lrp.trace(input_ids=ids)
            cut = trace.ablate(TARGET, tokens=[4])
            every = [(block, 4, token) for block in range(len(lrp.skeleton.blocks)) for token in range(5, 12)]
            edges = trace.ablate(TARGET, edges=every)
            with pytest.raises(InputError, match="left with nothing to see"):
                trace.ablate(TARGET, edges=[(0, 0, 0)])
    assert cut.after == pytest.approx(float(masked[5] - masked[7]), abs=1e-9)
    assert edges.after == pytest.approx(cut.after, abs=1e-12)
    assert abs(cut.after - cut.before) > 1e-3


def test_cutting_a_head_is_zeroing_what_it_returns() -> None:
    model, ids = tiny_model("gptj", torch.float64), tiny_ids()
    attention = model.transformer.h[1].attn
    width = attention.out_proj.in_features // model.config.n_head

    def without_head(_module: Any, args: Any) -> Any:
        out = args[0].clone()
        out[..., 2 * width : 3 * width] = 0.0
        return (out,)

    with exact_float64():
        handle = attention.out_proj.register_forward_pre_hook(without_head)
        with torch.no_grad():
            expected = model(input_ids=ids).logits[0, -1]
        handle.remove()
        with instrument(model) as lrp:
            cut = lrp.trace(input_ids=ids).ablate(TARGET, heads=[(1, 2)])
    assert cut.after == pytest.approx(float(expected[5] - expected[7]), abs=1e-9)
