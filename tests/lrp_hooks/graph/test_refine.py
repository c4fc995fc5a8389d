"""Parts of nodes and edges between neurons, against the ordinary backward pass and hooks put in by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import build, exact_float64, inputs
from torch import Tensor

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.errors import GraphError

CONTRAST = LogitDiff(5, 7)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_the_parts_of_a_node_are_those_of_the_attribution(name: str) -> None:
    with exact_float64(), instrument(build(name)) as lrp:
        trace = lrp.trace(input_ids=inputs(name))
        relevance = trace.attribute(CONTRAST, heads=True, neurons=True)
        start, middle, end = trace.refine(CONTRAST, [(0, 4), (2, 9), (3, 11)])
        assert relevance.heads is not None
        assert relevance.neurons is not None
        for part in (start, middle, end):
            whole = relevance.layers[0, part.point, part.token]
            assert part.relevance == pytest.approx(float(whole), abs=1e-10)
            assert part.dimensions.shape == (lrp.model.config.hidden_size,)
            assert float(part.dimensions.sum()) == pytest.approx(float(whole), abs=1e-10)
        assert start.heads is None
        assert start.neurons is None
        assert torch.allclose(middle.heads, relevance.heads[0, 1, :, 9], atol=1e-12)
        assert torch.allclose(middle.neurons, relevance.neurons[1][0, 9], atol=1e-12)
        assert torch.allclose(end.neurons, relevance.neurons[2][0, 11], atol=1e-12)
        assert trace.attribute(CONTRAST, neurons=True).neurons.keys() == {0, 1, 2}  # the limit is gone


def neuron_value(model: Any, name: str, block: int) -> tuple[Any, bool]:
    if name == "gpt2":
        return model.transformer.h[block].mlp.act, False
    return model.model.layers[block].mlp.down_proj, True


@pytest.mark.parametrize("composite", ["attnlrp", "gradient"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_neuron_edges_equal_explaining_the_neuron_itself(name: str, composite: str) -> None:
    """With x_m g_m (g_m held) as the backward's seed the ordinary neuron scores are the edges."""
    model, ids = build(name), inputs(name)
    with exact_float64(), instrument(model, composite) as lrp:
        trace = lrp.trace(input_ids=ids)
        scores = trace.attribute(CONTRAST, neurons=True).neurons
        edges = trace.neuron_edges(CONTRAST, block=2, token=11, neurons=[3, 8], lowest=0)
        if composite == "attnlrp":
            assert scores is not None
            assert torch.allclose(edges.relevance, scores[2][0, 11, [3, 8]], atol=1e-12)
        for index, neuron in enumerate((3, 8)):
            want = oracle(lrp, name, ids, neuron, float(edges.relevance[index]))
            for block in (0, 1):
                assert torch.allclose(edges.below[block][index], want[block], atol=1e-11)
                assert want[block].abs().max() > 1e-6
        best = edges.strongest(5)
        flat = torch.cat([edges.below[b].flatten() for b in (0, 1)]).abs().sort(descending=True).values
        assert [abs(e.weight) for e in best] == pytest.approx(flat[:5].tolist())
        first = best[0]
        assert first.weight == float(edges.below[first.block][[3, 8].index(first.upper), first.token, first.neuron])


def oracle(lrp: Any, name: str, ids: Tensor, neuron: int, share: float) -> dict[int, Tensor]:
    """Whole forward, then backward from the neuron scaled so that its own value x gradient is its share."""
    values: dict[int, Tensor] = {}

    def hook(block: int, at_input: bool) -> Any:
        def before(_m: Any, args: Any) -> None:
            values[block] = args[0]
            args[0].retain_grad()

        def after(_m: Any, _a: Any, out: Tensor) -> None:
            values[block] = out
            out.retain_grad()

        return before if at_input else after

    handles = []
    for block in range(3):
        module, at_input = neuron_value(lrp.model, name, block)
        register = module.register_forward_pre_hook if at_input else module.register_forward_hook
        handles.append(register(hook(block, at_input)))
    lrp.model(input_ids=ids)
    for handle in handles:
        handle.remove()
    value = values[2][0, 11, neuron]
    (value * (share / value.detach())).backward()
    return {block: (values[block] * values[block].grad).detach()[0] for block in (0, 1)}


def test_bad_nodes_and_neurons_are_clear_errors() -> None:
    with instrument(build("llama")) as lrp:
        trace = lrp.trace(input_ids=inputs("llama"))
        for node, message in (((4, 0), r"in 0\.\.3"), ((0.5, 0), "whole number"), ((1, 12), "token 12 is outside")):
            with pytest.raises(GraphError, match=message):
                trace.refine(CONTRAST, [node])
        for options, message in (
            ({"block": 0, "token": 3, "neurons": [1]}, "must ascend"),
            ({"block": 3, "token": 3, "neurons": [1]}, "must ascend"),
            ({"block": 2, "token": 99, "neurons": [1]}, "token 99"),
            ({"block": 2, "token": 3, "neurons": [10**6]}, "must lie in 0"),
        ):
            with pytest.raises(GraphError, match=message):
                trace.neuron_edges(CONTRAST, **options)
