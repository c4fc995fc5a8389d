"""A memory budget decides about checkpointing and chunks, and refuses what cannot fit with the least that would do."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import SIZES as FAMILY
from families import build, inputs, reinitialise
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.cli.app import app
from lrp_hooks.cli.inputs import parse_memory
from lrp_hooks.cli.pace import lines
from lrp_hooks.errors import InputError
from lrp_hooks.graph.packed import copies_that_fit
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.recording.checkpointing import Checkpointing
from lrp_hooks.recording.offload import Offload

CONTRAST = LogitDiff(5, 7)


def test_a_budget_turns_checkpointing_on_and_changes_no_result() -> None:
    model, ids = build("llama"), inputs("llama")
    with instrument(model) as lrp:
        free = lrp.trace(input_ids=ids).attribute(CONTRAST)
        memory = as_in_a_trace(lrp)
        whole, least = memory.whole_bytes(1, 12), memory.checkpointed_bytes(1, 12)
        assert not memory.active
        assert least < whole
    for budget, active in ((int(whole) + 1, False), (int(whole) - 1, True), (int(least) + 1, True)):
        with instrument(model, max_memory=budget) as lrp:
            tight = lrp.trace(input_ids=ids).attribute(CONTRAST)
            assert lrp.checkpointing.active is active
            assert torch.allclose(tight.layers, free.layers, atol=1e-12)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux' /proc")
def test_the_measured_peak_stays_within_the_budget() -> None:
    """Each budget is the least of its kind; what a first call takes at any length (pages of code) comes on top."""
    script = Path(__file__).parents[1] / "within_budget.py"
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(script)], env=variables, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["name"], r["kept"]) for r in rows] == [
        ("offloaded", [True, True]),
        ("checkpointed", [True, False]),
        ("whole", [False, False]),
    ]
    for row in rows:
        assert row["constant"] < row["budget"] / 2
        assert row["budget"] / 2 < row["added"] <= row["budget"] + row["constant"]


def as_in_a_trace(lrp: Any) -> Checkpointing:
    """What checkpointing goes by there: logits at one position, saved tensors that can be moved away."""
    memory: Checkpointing = lrp.checkpointing
    memory.can_offload = True
    return memory


def test_logits_count_at_one_position_in_a_trace_and_at_all_outside() -> None:
    needed, words = {}, {"few": 64, "many": 8192}
    for name, vocabulary in words.items():
        config = AutoConfig.for_model("llama", **{**FAMILY, "vocab_size": vocabulary})
        with instrument(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()) as lrp:
            outside = lrp.checkpointing.whole_bytes(1, 100)
            needed[name] = outside, as_in_a_trace(lrp).whole_bytes(1, 100), lrp.checkpointing.offloaded_bytes(1, 100)
    more = 4 * (words["many"] - words["few"])
    outside, inside, least = (many - few for many, few in zip(needed["many"], needed["few"], strict=True))
    assert outside >= 100 * more
    assert more <= inside == least <= 4 * more


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
    monkeypatch.setattr("lrp_hooks.recording.checkpointing.free_memory", lambda device: 10**9)
    memory = Checkpointing("auto", bytes_per_token=30_000.0, blocks=30)
    cpu = torch.device("cpu")
    assert copies_that_fit(memory, 1000, 1, cpu) == 64  # 1 MB per copy: as many as are of use
    assert copies_that_fit(memory, 10_000, 1, cpu) == 30
    assert copies_that_fit(memory, 10_000, 3, cpu) == 10
    memory.budget = 10**8
    assert copies_that_fit(memory, 10_000, 1, cpu) == 3
    memory.budget = 10
    assert copies_that_fit(memory, 10_000, 1, cpu) == 1


def tight(lrp: Any, length: int) -> int:
    """A budget for which even the residual streams are too much."""
    memory = as_in_a_trace(lrp)
    least, streams = memory.offloaded_bytes(1, length), memory.checkpointed_bytes(1, length)
    assert least < streams
    return int((least + streams) / 2)


def deep(layers: int = 8) -> Any:
    """Deep enough for streams to outweigh one block's inside."""
    config = AutoConfig.for_model("llama", **{**FAMILY, "num_hidden_layers": layers})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float64).eval()
    reinitialise(model)
    return model


def test_streams_are_moved_away_when_they_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, ids, moved = deep(), inputs("llama"), []
    move = Offload._move
    monkeypatch.setattr(Offload, "_move", lambda self, x: moved.append(x.shape) or move(self, x))
    with instrument(model) as lrp:
        free = lrp.trace(input_ids=ids)
        expected, graph = free.attribute(CONTRAST), free.graph(CONTRAST, node_threshold=0.0)
        budget = tight(lrp, 12)
    with instrument(model, max_memory=budget) as lrp:
        trace = lrp.trace(input_ids=ids)
        assert lrp.checkpointing.active
        assert lrp.checkpointing.offloading
        assert moved.count(torch.Size((1, 12, 32))) == 10  # every residual point once, and the embedding
        for _ in range(2):  # the file serves any number of passes
            made = trace.attribute(CONTRAST)
            assert torch.allclose(made.layers, expected.layers, atol=1e-12)
        again = trace.graph(CONTRAST, node_threshold=0.0)
        assert torch.allclose(again.weight, graph.weight, atol=1e-6)
        with pytest.raises(InputError, match=r"lrp\.trace\(\), which can move activations off the device"):
            model(input_ids=ids)
        assert lrp.tape.record is None


@pytest.mark.parametrize(
    ("free", "active", "offloading"),
    [(10**9, False, False), (200 * 10**6, True, False), (50 * 10**6, True, True)],
)
def test_without_a_budget_what_is_free_decides(
    free: int, active: bool, offloading: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrp_hooks.recording.checkpointing.free_memory", lambda device: free)
    memory = Checkpointing("auto", bytes_per_token=240_000.0, stream_bytes=2000.0, blocks=30, can_offload=True)
    memory.decide(1, 1000, torch.device("cpu"))  # 248 MB in all, 78 MB of streams and one block, 22 MB without streams
    assert (memory.active, memory.offloading) == (active, offloading)
    memory.can_offload = False
    memory.decide(1, 1000, torch.device("cpu"))
    assert not memory.offloading


def test_a_stream_is_written_once_and_read_as_it_was() -> None:
    away = Offload(least=1)
    leaf = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    with away.saving():
        x = leaf * 2
        x = x.clone()
        loss = (x * x).sum() + (x.view(4, 3) * 3).sum() + (x.view_as(x) ** 2).sum()
    bytes_of_x = 3 * 4 * 2
    assert bytes_of_x <= away.moved <= 2 * bytes_of_x  # x, shared by its views; nothing else is saved
    for _ in range(2):
        (grad,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        assert torch.allclose(grad, 8 * (leaf * 2).detach() + 6, rtol=2e-2)


def test_a_changed_tensor_is_written_again() -> None:
    away = Offload(least=1)
    leaf = torch.randn(5, requires_grad=True)
    with away.saving(), torch.no_grad():
        buffer = torch.ones(5)
        with torch.enable_grad():
            first = leaf * buffer
        buffer += 1
        with torch.enable_grad():
            second = leaf * buffer
    (grad,) = torch.autograd.grad(first.sum() + second.sum(), leaf)
    assert torch.equal(grad, torch.full((5,), 3.0))


def test_nothing_is_moved_without_need(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Offload, "_move", lambda *_: pytest.fail("moved"))
    with instrument(deep(), checkpoint=True) as lrp:
        lrp.trace(input_ids=inputs("llama")).attribute(CONTRAST)
        assert not lrp.checkpointing.offloading


@pytest.mark.parametrize("ask", ["attribute", "graph"])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_an_interrupt_leaves_the_model_clean(ask: str, checkpoint: bool) -> None:
    model, ids = build("llama"), inputs("llama")
    untouched = model(input_ids=ids).logits.detach()
    flags = [p.requires_grad for p in model.parameters()]
    with instrument(model, checkpoint=checkpoint) as lrp:
        trace = lrp.trace(input_ids=ids)
        expected = trace.attribute(CONTRAST).layers

        def interrupt(done: int, total: int) -> None:
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            getattr(trace, ask)(CONTRAST, progress=interrupt)
        assert lrp.tape.record is None
        assert lrp.tape.detour is None
        assert trace._record.on_point is None
        assert not trace._record.latest.parked
        assert torch.equal(trace.attribute(CONTRAST).layers, expected)
        assert torch.equal(lrp.trace(input_ids=ids).attribute(CONTRAST).layers, expected)
    assert torch.equal(model(input_ids=ids).logits, untouched)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())


def test_an_interrupt_inside_a_block_leaves_nothing_parked() -> None:
    def interrupt(gradient: torch.Tensor) -> None:
        raise KeyboardInterrupt

    model, ids = build("llama"), inputs("llama")
    with instrument(model) as lrp:
        norm = model.model.layers[1].input_layernorm  # its gradient comes after the attention's
        hook = norm.register_forward_hook(lambda _m, _a, out: out.register_hook(interrupt) and None)
        trace = lrp.trace(input_ids=ids)
        hook.remove()
        with pytest.raises(KeyboardInterrupt):
            trace.graph(CONTRAST)
        assert trace._record.latest is not None
        assert sorted(trace._record.latest.points) == [2, 3]  # it was in the middle of block 1
        assert not trace._record.latest.parked


def test_an_interrupted_forward_leaves_the_model_clean() -> None:
    model, ids = build("llama"), inputs("llama")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with instrument(model, checkpoint=True) as lrp:
        expected = lrp.trace(input_ids=ids).attribute(CONTRAST).layers
        hook = model.model.layers[1].mlp.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            lrp.trace(input_ids=ids)
        hook.remove()
        assert lrp.tape.record is None
        assert torch.equal(lrp.trace(input_ids=ids).attribute(CONTRAST).layers, expected)


def test_progress_counts_residual_points() -> None:
    told: list[tuple[int, int]] = []
    with instrument(build("llama")) as lrp:
        lrp.trace(input_ids=inputs("llama")).attribute(CONTRAST, progress=lambda *step: told.append(step))
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    ("text", "count"),
    [("6GB", 6 * 10**9), ("512 mb", 512 * 10**6), ("1.5GiB", 3 * 2**29), ("1000", 1000), (None, None)],
)
def test_amounts_of_memory(text: str | None, count: int | None) -> None:
    assert parse_memory(text) == count


@pytest.mark.parametrize("text", ["", "6 G B", "lots", "-1GB", "0", "6TBs", "1e9"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(InputError, match="is no amount of memory"):
        parse_memory(text)


def test_lines_say_the_time_left() -> None:
    said: list[str] = []
    now = [0.0]
    told = lines("transitions", said.append, lambda: now[0])
    for done in range(1, 31):
        now[0] += 20.0
        told(done, 30)
    assert said[0] == "transitions 2/30, about 9 min left"
    assert len(said) == 14
    assert said[-1] == "transitions 28/30, about 40 s left"


class _Stop(Exception):
    """Raised where the model would be instrumented."""


@pytest.mark.parametrize("command", ["attribute", "graph"])
def test_the_command_line_hands_the_budget_on(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module(f"lrp_hooks.cli.{command}")
    given: dict[str, Any] = {}

    def stop(model: Any, composite: str, **options: Any) -> None:
        given.update(options)
        raise _Stop

    monkeypatch.setattr(module, "instrument", stop)
    monkeypatch.setattr(module, "load_model", lambda *_, **__: LoadedModel(None, None, "made", "tiny"))
    monkeypatch.setattr("lrp_hooks.cli.graph.token_texts", lambda *_: [])
    runner = CliRunner()
    options = [command, "tiny", "--ids", "3,4,5", "-t", "#5", "-c", "#7"]
    done = runner.invoke(app, [*options, "--max-memory", "1.5GB"])
    assert isinstance(done.exception, _Stop)
    assert given["max_memory"] == 1_500_000_000
    wrong = runner.invoke(app, [*options, "--max-memory", "lots"])
    assert isinstance(wrong.exception, InputError)
