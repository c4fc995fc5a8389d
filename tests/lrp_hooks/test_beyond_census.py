"""The census beyond causal language models: its checks on one type per pattern, and the committed results."""

from __future__ import annotations

import pytest
import torch

from benchmarks import families, heads
from benchmarks.census import NOTICED, examine, ledger_error, make
from benchmarks.tiny import TASKS
from lrp_hooks import instrument
from lrp_hooks.recording.records import ForwardRecord

pytestmark = pytest.mark.filterwarnings("ignore")

PATTERNS = {
    ("deberta-v2", "sequence classification"): "attention written out, with relative positions in its keys",
    ("convbert", "token classification"): "convolutions beside attention",
    ("t5", "question answering"): "an encoder-decoder with a head on the decoder's states",
    ("llama", "question answering"): "a body that makes a cache of its own accord",
    ("mobilebert", "masked language model"): "bottlenecks, norms without a scale",
    ("beit", "image classification"): "scaled residuals, mean pooling",
}


@pytest.mark.parametrize(("kind", "task"), PATTERNS)
def test_one_type_of_every_pattern_is_certified(kind: str, task: str) -> None:
    result = examine(kind, TASKS[task])
    assert result.status == "certified", result.reason
    assert min(result.removed.values(), default=NOTICED) >= NOTICED
    assert bool(result.removed) == TASKS[task].removals


def test_an_encoder_whose_relevance_is_lost_opens_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: what the encoder's blocks record is dropped."""
    subject = make("bart", TASKS["sequence to sequence"], torch.float32)
    with instrument(subject.model) as lrp:
        trace = lrp.trace(**subject.inputs)
        assert ledger_error(trace.attribute(subject.target)) < 1e-4
        current = ForwardRecord.current

        def forgetful(record: ForwardRecord) -> object:
            found = current(record)
            if record.decoder is not None:
                found.attention.clear()
            return found

        monkeypatch.setattr(ForwardRecord, "current", forgetful)
        assert ledger_error(trace.attribute(subject.target)) > 1e-2


def test_the_committed_results_cover_every_type_and_nothing_failed() -> None:
    results, _ = heads.load()
    assert [(r.task, r.kind) for r in results] == [(t.name, kind) for t in TASKS.values() for kind in t.types]
    assert {r.status for r in results} <= {"certified", "refused", "not built"}
    assert all(r.reason for r in results if r.status != "certified")
    for task in TASKS:
        assert any(r.status == "certified" for r in results if r.task == task), task


def test_what_is_certified_is_within_the_limits() -> None:
    for result in heads.load()[0]:
        if result.status != "certified":
            continue
        assert result.logits == 0
        assert result.undone
        assert max(v for k, v in result.ledger.items() if "float32" in k) <= 1e-3
        assert max((v for k, v in result.ledger.items() if "float64" in k), default=0.0) <= 1e-8
        assert min(result.removed.values(), default=NOTICED) >= NOTICED
        assert result.removed or not TASKS[result.task].removals


def test_the_committed_section_is_that_of_the_committed_results() -> None:
    assert families.TABLE.read_text() == families.committed()
