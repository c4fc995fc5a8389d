"""Residual points that are no cuts: what passes them on another way has no edge, and the graph says so or refuses."""

from __future__ import annotations

import logging

import pytest
import torch
from families import exact_float64

from benchmarks.tiny import tiny_ids, tiny_model
from lrp_hooks import AttributionGraph, LogitDiff, instrument
from lrp_hooks.errors import NoClosedFormError
from lrp_hooks.render.graph_words import caption

pytestmark = pytest.mark.filterwarnings("ignore")

TARGET = LogitDiff(5, 7)


def test_inputs_per_layer_and_shared_keys_are_said_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    with exact_float64(), instrument(tiny_model("gemma4_text", torch.float64)) as lrp:
        trace = lrp.trace(input_ids=tiny_ids())
        relevance = trace.attribute(TARGET)
        with pytest.raises(NoClosedFormError, match="passes residual points on other ways"):
            trace.graph(TARGET, method="exact")
        with caplog.at_level(logging.WARNING):
            graph = trace.graph(TARGET, node_threshold=0)
    assert relevance.absorbed is not None
    assert relevance.absorbed.around is not None
    shares = relevance.absorbed.around[0].abs() / relevance.layers[0].abs().sum(-1)
    assert graph.about["around"] == pytest.approx(float(shares.max()))
    assert "other ways" in caplog.text
    assert any("other ways" in line for line in caption(graph))


def test_a_network_whose_points_are_cuts_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with instrument(tiny_model("llama")) as lrp:
        graph: AttributionGraph = lrp.trace(input_ids=tiny_ids()).graph(TARGET, method="exact")
    assert "around" not in graph.about
    assert not [record for record in caplog.records if record.name.startswith("lrp_hooks")]
