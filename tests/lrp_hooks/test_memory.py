"""A memory budget decides about checkpointing and chunks, and refuses what cannot fit with the least that would do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from families import build, inputs

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.checkpointing import Checkpointing
from lrp_hooks.errors import InputError
from lrp_hooks.graph.packed import copies_that_fit

CONTRAST = LogitDiff(5, 7)


def test_a_budget_turns_checkpointing_on_and_changes_no_result() -> None:
    model, ids = build("llama"), inputs("llama")
    with instrument(model) as lrp:
        free = lrp.trace(input_ids=ids).attribute(CONTRAST)
        memory = lrp.checkpointing
        whole, least = memory.block_bytes(1, 12) * 3, memory.checkpointed_bytes(1, 12)
        assert not memory.active
        assert least < whole
    for budget, active in ((int(whole) + 1, False), (int(whole) - 1, True), (int(least) + 1, True)):
        with instrument(model, max_memory=budget) as lrp:
            tight = lrp.trace(input_ids=ids).attribute(CONTRAST)
            assert lrp.checkpointing.active is active
            assert torch.allclose(tight.layers, free.layers, atol=1e-12)


def test_the_stream_is_measured_right() -> None:
    with instrument(build("llama", dtype=torch.float32)) as lrp:
        assert lrp.checkpointing.stream_bytes == 4 * lrp.model.config.hidden_size
        assert lrp.checkpointing.blocks == 3


@pytest.mark.parametrize("checkpoint", ["auto", True, False])
def test_too_small_a_budget_names_one_that_does(checkpoint: Any) -> None:
    model, ids = build("llama"), inputs("llama")
    with instrument(model, checkpoint=checkpoint, max_memory=5000) as lrp:
        with pytest.raises(InputError, match=r"1 x 12 tokens need about .* MB for activations") as caught:
            lrp.trace(input_ids=ids)
        assert ('checkpoint="auto"' in str(caught.value)) == (checkpoint is False)
        assert lrp.tape.record is None
    found = re.search(r"max_memory=(\d+)", str(caught.value))
    assert found is not None
    with instrument(model, checkpoint=checkpoint, max_memory=int(found[1])) as lrp:
        lrp.trace(input_ids=ids).attribute(CONTRAST)


def test_chunks_of_copies_follow_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lrp_hooks.checkpointing.free_memory", lambda device: 10**9)
    memory = Checkpointing("auto", bytes_per_token=30_000.0, blocks=30)
    cpu = torch.device("cpu")
    assert copies_that_fit(memory, 1000, 1, cpu) == 64  # 1 MB per copy: as many as are of use
    assert copies_that_fit(memory, 10_000, 1, cpu) == 30
    assert copies_that_fit(memory, 10_000, 3, cpu) == 10
    memory.budget = 10**8
    assert copies_that_fit(memory, 10_000, 1, cpu) == 3
    memory.budget = 10
    assert copies_that_fit(memory, 10_000, 1, cpu) == 1
