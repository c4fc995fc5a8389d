"""Cuts against the untouched model with masks, hooks and zeros put in by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import build, inputs
from torch import Tensor

from lrp_hooks import LogitDiff, MaxLogit, instrument
from lrp_hooks.errors import GraphError, InputError, TargetError
from lrp_hooks.targets import Custom, Rank, SequenceLogProb

CONTRAST = LogitDiff(5, 7)
NAMES = ["llama", "qwen2", "gpt2", "mistral", "gemma2", "gpt_neox"]


def blocks_of(model: Any) -> Any:
    decoder = getattr(model, "transformer", None) or getattr(model, "gpt_neox", None) or model.model
    return decoder.h if hasattr(decoder, "h") else decoder.layers


def attention_of(block: Any) -> Any:
    return next(getattr(block, name) for name in ("self_attn", "attn", "attention") if hasattr(block, name))


def difference(logits: Tensor) -> float:
    return float(logits[0, -1, 5] - logits[0, -1, 7])


def plain(model: Any, ids: Tensor) -> float:
    with torch.no_grad():
        return difference(model(input_ids=ids).logits)


def with_mask_hook(model: Any, block: int | None, ids: Tensor, change: Any) -> float:
    """The model's value when blocks (one, or all) get a changed additive mask."""
    lowest = torch.finfo(next(model.parameters()).dtype).min

    def hook(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        mask = kwargs.get("attention_mask")
        if mask is None:
            length = ids.shape[1]
            mask = torch.ones(1, 1, length, length).tril().bool()
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, lowest)
        mask = mask.clone()
        change(mask, lowest)
        return args, {**kwargs, "attention_mask": mask}

    chosen = [attention_of(b) for b in (blocks_of(model) if block is None else [blocks_of(model)[block]])]
    handles = [b.register_forward_pre_hook(hook, with_kwargs=True) for b in chosen]
    try:
        return plain(model, ids)
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize(
    ("name", "attention"),
    [*((name, "eager") for name in NAMES), *((name, "sdpa") for name in NAMES if name != "gemma2")],
)
def test_an_edge_cut_equals_the_models_own_mask(name: str, attention: str) -> None:
    ids = inputs(name)

    def change(mask: Tensor, lowest: float) -> None:
        mask[:, :, 11, 9] = lowest

    model = build(name)
    model.set_attn_implementation(attention)
    want = with_mask_hook(model, 1, ids, change)
    with instrument(model) as lrp:
        trace = lrp.trace(input_ids=ids)
        cut = trace.ablate(CONTRAST, edges=[(1, 9, 11)])
        assert cut.before == pytest.approx(plain(model, ids), abs=1e-6)
        assert cut.after == pytest.approx(want, abs=1e-6)
        assert abs(cut.change) > 1e-4
        assert cut.target == "logit('#5') - logit('#7')"
        assert float(cut.logits[5] - cut.logits[7]) == pytest.approx(cut.after, abs=1e-6)
        assert trace.ablate(CONTRAST, edges=[(1, 9, 11, h) for h in range(4)]).after == pytest.approx(want, abs=1e-6)
        assert trace.ablate(CONTRAST, edges=[(1, 9, 11, 0)]).after != pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_token_cut_is_seen_by_no_later_token(name: str) -> None:
    ids = inputs(name)

    def change(mask: Tensor, lowest: float) -> None:
        mask[:, :, 5:, 4] = lowest

    model = build(name)
    want = with_mask_hook(model, None, ids, change)
    with instrument(model) as lrp:
        cut = lrp.trace(input_ids=ids).ablate(CONTRAST, tokens=[4])
        assert cut.after == pytest.approx(want, abs=1e-6)
        assert abs(cut.change) > 1e-4
        other = ids.clone()
        other[0, 4] = (other[0, 4] + 1) % 40
        assert lrp.trace(input_ids=other).ablate(CONTRAST, tokens=[4]).after == pytest.approx(want, abs=1e-6)


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral"])
def test_a_head_cut_equals_zeros_before_the_output_projection(name: str) -> None:
    ids, model = inputs(name), build(name)
    size = model.config.hidden_size // model.config.num_attention_heads

    def zero(_module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        out = args[0].clone()
        out[..., 2 * size : 3 * size] = 0
        return (out,)

    handle = blocks_of(model)[1].self_attn.o_proj.register_forward_pre_hook(zero)
    want = plain(model, ids)
    handle.remove()
    with instrument(model) as lrp:
        cut = lrp.trace(input_ids=ids).ablate(CONTRAST, heads=[(1, 2)])
        assert cut.after == pytest.approx(want, abs=1e-6)
        assert abs(cut.change) > 1e-4


def test_a_row_of_a_padded_batch_is_cut_like_alone() -> None:
    short, long = inputs("llama", length=7, seed=1)[0], inputs("llama", length=12)[0]
    ids = torch.stack([long, torch.cat((torch.zeros(5, dtype=torch.long), short))])
    with instrument(build("llama")) as lrp:
        alone = lrp.trace(input_ids=short[None])
        batch = lrp.trace(input_ids=ids, attention_mask=torch.tensor([[1] * 12, [0] * 5 + [1] * 7]))
        for options, shifted in (
            ({"tokens": [2]}, {"tokens": [7]}),
            ({"edges": [(0, 1, 6)]}, {"edges": [(0, 6, 11)]}),
            ({"heads": [(2, 0)]}, {"heads": [(2, 0)]}),
        ):
            one, two = alone.ablate(CONTRAST, **options), batch.ablate(CONTRAST, row=1, **shifted)
            assert two.after == pytest.approx(one.after, abs=1e-6)
            assert two.change == pytest.approx(one.change, abs=1e-6)
        with pytest.raises(InputError, match="token 0 is outside the prompt, or padding"):
            batch.ablate(CONTRAST, row=1, tokens=[0])


def test_ranks_mean_the_tokens_before_the_cut() -> None:
    with instrument(build("llama")) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        first, second = (row.id for row in trace.top(2))
        heads = [(b, h) for b in range(3) for h in range(4)]
        for target in (LogitDiff(), LogitDiff(Rank(1), [Rank(2)])):
            cut = trace.ablate(target, heads=heads)
            assert cut.after == pytest.approx(float(cut.logits[first] - cut.logits[second]), abs=1e-6)
        assert trace.ablate(MaxLogit(), heads=heads).after == pytest.approx(float(cut.logits[first]), abs=1e-6)
        assert trace.ablate(lambda x: x[:, 3], heads=heads).after == pytest.approx(float(cut.logits[3]), abs=1e-6)
        assert isinstance(Custom(lambda x: x[:, 3]).fixed(cut.logits[None]), Custom)


def test_cutting_a_graphs_attention_edges_leaves_nothing_but_the_diagonal() -> None:
    with instrument(build("llama")) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        graph = trace.graph(CONTRAST, node_threshold=0, top_p=1.0, connected=False, mid=True)
        edges = graph.attention_edges()
        assert set(edges) == {(b, i, j) for b in range(3) for j in range(12) for i in range(j) if b < 2 or j == 11}
        everything = trace.ablate(CONTRAST, edges=edges)
        everywhere = trace.ablate(CONTRAST, edges=[(b, i, j) for b in range(3) for j in range(12) for i in range(j)])
        assert everything.after == pytest.approx(everywhere.after, abs=1e-6)
        with pytest.raises(GraphError, match="several blocks"):
            trace.graph(CONTRAST, points=[0, 3]).attention_edges()


def test_the_model_is_as_before_afterwards() -> None:
    with instrument(build("llama")) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        before = trace.attribute(CONTRAST)
        with pytest.raises(InputError):
            trace.ablate(CONTRAST, heads=[(0, 99)])
        trace.ablate(CONTRAST, tokens=[3])
        assert lrp.tape.detour is None
        assert torch.equal(trace.attribute(CONTRAST).layers, before.layers)


def test_impossible_cuts_are_clear_errors() -> None:
    with instrument(build("llama")) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        cases: tuple[tuple[dict[str, Any], str], ...] = (
            ({"heads": [(3, 0)]}, r"block 3 is outside 0\.\.2"),
            ({"heads": [(0, 4)]}, r"head 4 of block 0 is outside 0\.\.3"),
            ({"edges": [(0, 1, 12)]}, "token 12 is outside the prompt"),
            ({"edges": [(0, 5, 3)]}, "does not see the later token"),
            ({"edges": [(0, 0, 0)]}, "token 0 is left with nothing to see in block 0"),
            ({"edges": [(0, 0, 1, 7)]}, "head 7 of block 0"),
            ({"tokens": [11]}, "position that is explained"),
            ({"tokens": [-1]}, "outside the prompt"),
        )
        for options, message in cases:
            with pytest.raises(InputError, match=message):
                trace.ablate(CONTRAST, **options)
        with pytest.raises(TargetError, match="log-probability of a span"):
            trace.ablate(SequenceLogProb(3))
