"""The scaling suite: what its clocks and predictions are, and that what it times is what it says."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import measure, predicted, scaling
from benchmarks.resume import Records
from benchmarks.shapes import Budget, Shape, random_model
from lrp_hooks import Logit, LogitDiff, instrument

TINY = Shape("SmolLM2-135M", "llama", 3, 16, 24, 4, 2, 8, 60, tied=True)
TOKENS = 6
PROFILE = scaling.Profile(Budget(1e6, 1e6, TOKENS), (TINY,), 2, TINY, (1, 3), (TOKENS, 9))


@pytest.fixture(scope="module")
def model() -> Any:
    return random_model(TINY)


def test_rounds_alternate_after_one_that_does_not_count() -> None:
    ran: list[str] = []
    found = measure.alternating([lambda: ran.append("a"), lambda: ran.append("b")], 3, lambda: float(len(ran)))
    assert "".join(ran) == "ab" + "ab" + "ba" + "ab"
    assert found == [[1.0] * 3, [1.0] * 3]


def test_each_step_gets_its_own_times() -> None:
    now = [0.0]

    def step(seconds: float) -> Any:
        return lambda: now.__setitem__(0, now[0] + seconds)

    assert measure.alternating([step(1.0), step(4.0)], 2, lambda: now[0]) == [[1.0, 1.0], [4.0, 4.0]]


def test_ratios_are_taken_round_by_round() -> None:
    found = measure.compared([2.0, 12.0, 4.0], [1.0, 3.0, 4.0])
    assert (found.ratio, found.fastest, found.spread) == (2.0, 2.0, (1.0, 4.0))


def test_predictions_by_hand() -> None:
    """One block: matrices 2·16·(32 + 16) + 3·16·24 = 2,688 numbers; 21 causal pairs in 6 tokens, 32 wide, 1,344 FLOPs a
    product; the head 60·16."""
    one = replace(TINY, layers=1)
    forward = 2 * 2688 * 6 + 2 * 1344 + 2 * 960
    backward = 2 * 2688 * 6 + 5 * 1344 + 2 * 960
    assert predicted.predicted_graph(one, 6) == pytest.approx(1 + 4 * 1344 / (forward + backward))
    to_one, to_separate = predicted.predicted_targets(one, 6, 3)
    assert to_one == pytest.approx((forward + 3 * backward) / (forward + backward))
    assert to_separate == pytest.approx((forward + 3 * backward) / (3 * forward + 3 * backward))
    block = forward + backward - 4 * 960
    whole = (forward + backward + 5.0 * block) / (forward + backward + 4 * 1344)
    assert predicted.predicted_packed(one, 6, 5.0) == pytest.approx(whole)


def test_a_twin_has_the_same_weights_and_stays_untouched(model: Any) -> None:
    other, ids = scaling.twin(model), scaling.ids_of(TINY, TOKENS)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert all(a.data_ptr() == b.data_ptr() for a, b in pairs)
    assert other.lm_head.weight is other.model.embed_tokens.weight
    with instrument(model, "gradient"), torch.no_grad():
        assert torch.equal(other(ids).logits, model(ids).logits)
        assert not any("forward" in vars(module) or module._forward_hooks for module in other.modules())


def test_targets_of_one_trace_are_those_of_as_many_traces(model: Any) -> None:
    ids, asked = scaling.ids_of(TINY, TOKENS), [Logit(i) for i in range(3)]
    with instrument(model, checkpoint=False) as lrp:
        together = lrp.trace(input_ids=ids).attribute(asked)
        apart = [lrp.trace(input_ids=ids).attribute(target) for target in asked]
    assert all(torch.equal(a.layers, b.layers) for a, b in zip(together, apart, strict=True))
    assert not torch.equal(together[0].layers, together[1].layers)


def test_packed_and_exact_edges_are_the_same(model: Any) -> None:
    with instrument(model.double(), checkpoint=False) as lrp:
        trace = lrp.trace(input_ids=scaling.ids_of(TINY, TOKENS))
        exact, packed = (trace.edge_matrices(LogitDiff(), method=m) for m in ("exact", "packed"))
    model.float()
    for pair, edges in exact.items():
        error, scale = float((edges - packed[pair]).abs().max()), float(edges.abs().max())
        assert error <= 4 * torch.finfo(torch.float32).eps * scale, pair  # both are handed over in float32


def test_packed_times_are_extrapolated_to_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[int] = []

    def samples(trace: Any, target: Any, copies: int, sampled: int, clock: Any) -> list[float]:
        chunks.append(copies)
        return [1.0, 3.0] * (sampled // 2)

    monkeypatch.setattr(scaling, "packed_samples", samples)
    monkeypatch.setattr(scaling, "PACKED_TOKENS", 50)
    first, second = (scaling.packed(tokens, replace(PROFILE, rounds=1)) for tokens in (TOKENS, 9))
    assert chunks == [50 // TOKENS, 50 // 9]
    assert first.rows == pytest.approx((2 * TOKENS + 1) / 3)  # every row, but one in the last of three blocks
    assert first.packed_seconds == pytest.approx(2.0 * 3 * first.rows, rel=0.05)
    assert first.ratio == pytest.approx(first.packed_seconds / first.exact_seconds)
    assert first.spread[0] < first.ratio < first.spread[1]
    assert second.predicted == pytest.approx(second.rows / predicted.predicted_graph(TINY, 9), rel=0.3)


def test_every_shape_gives_rows_that_say_what_part_it_is() -> None:
    own, handled = scaling.both(TINY, PROFILE)
    for row in (own, handled):
        assert (row.model, row.layers) == ("SmolLM2-135M", "3 of 30")
        assert row.megabytes == pytest.approx(TINY.parameters * 4 / 2**20)
    assert own.spread[0] <= own.ratio <= own.spread[1]
    assert own.graph_spread[0] <= own.graph_ratio <= own.graph_spread[1]
    assert handled.instrument_ratio > handled.remove_ratio > 0


def test_what_was_loaded_is_instrumented_and_undone(tmp_path: Path, model: Any) -> None:
    model.save_pretrained(tmp_path)
    _, loaded = scaling.handling(TINY, tmp_path, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert not any("forward" in vars(module) or module._forward_hooks for module in loaded.modules())


def test_rows_of_targets_count_them() -> None:
    rows = [scaling.targets(count, PROFILE) for count in (1, 3)]
    assert [row.targets for row in rows] == [1, 3]
    for row in rows:
        expected = predicted.predicted_targets(TINY, TOKENS, row.targets)
        assert (row.to_one_predicted, row.to_separate_predicted) == expected
        assert row.to_separate_spread[0] <= row.to_separate <= row.to_separate_spread[1]
    assert rows[1].to_one > rows[1].to_separate


ROW = scaling.TargetsRow(4, "4 of 30", 32, 1.0, 4.0, (4.0, 4.0), 2.5, 0.9, 0.95, (0.9, 0.9), 0.63)


def test_targets_that_cost_as_much_as_traces_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling.smoke_status({"targets": [asdict(ROW)]}) == 1
    assert "4 targets of one trace cost 0.90 of as many traces, at most 0.85" in capsys.readouterr().err
    assert scaling.smoke_status({"targets": [asdict(replace(ROW, to_separate_fastest=0.7))]}) == 0


def test_a_run_keeps_what_was_measured_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[int] = []

    def packed(tokens: int, profile: scaling.Profile) -> scaling.PackedRow:
        made.append(tokens)
        if len(made) == 2:
            raise KeyboardInterrupt
        return scaling.PackedRow(tokens, "3 of 30", 1.0, 2.0, 3.0, 4.0, (5.0, 6.0), 7.0)

    monkeypatch.setattr(scaling, "both", lambda shape, profile: (ROW, ROW))
    monkeypatch.setattr(scaling, "targets", lambda count, profile: replace(ROW, targets=count))
    monkeypatch.setattr(scaling, "packed", packed)
    monkeypatch.setattr(scaling, "FULL", PROFILE)
    monkeypatch.setattr(scaling, "Records", lambda name, settings: Records(name, settings, tmp_path))
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["scaling"])
    with pytest.raises(KeyboardInterrupt):
        scaling.main()
    assert not (tmp_path / "scaling.json").exists()
    assert scaling.main() == 0
    assert made == [TOKENS, 9, 9]
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert [row["tokens"] for row in result["packed"]] == [TOKENS, 9]
    assert [row["targets"] for row in result["targets"]] == [1, 3]
    assert (len(result["rows"]), len(result["handling"])) == (1, 1)
    assert result["command"] == "python -m benchmarks.scaling"
    assert {"threads", "load", "load_before", "commit"} <= result.keys()
    assert not (tmp_path / "scaling.jsonl").exists()
