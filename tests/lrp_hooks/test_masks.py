"""Long windowed and padded prompts: masks stay intervals, nothing T x T is made, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from families import VOCABULARY, build, exact_float64
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.ops import Interval
from lrp_hooks.patching import masks
from lrp_hooks.patching.masks import IntervalMask

TARGET, LENGTH, PADDING = LogitDiff(5, 7), 24, 6
WINDOWED = ("mistral", "qwen2-window", "gemma3", "phi3-window", "cohere2")


def prompt(padding: str) -> dict[str, Tensor]:
    """Two sequences, the first padded on one side, or not."""
    ids = torch.arange(2 * LENGTH).remainder(VOCABULARY - 2).view(2, LENGTH)
    seen = torch.ones_like(ids)
    if padding == "left":
        seen[0, :PADDING] = 0
    elif padding == "right":
        seen[0, -PADDING:] = 0
    return {"input_ids": ids, "attention_mask": seen}


def explained(name: str, inputs: dict[str, Tensor], checkpoint: bool) -> list[Tensor]:
    with exact_float64(), instrument(build(name), checkpoint=checkpoint) as lrp:
        trace = lrp.trace(**inputs)
        relevance = trace.attribute(TARGET)
        graph = trace.edge_matrices(TARGET, row=1)
    assert relevance.ledger().max() < 1e-8
    return [relevance.value, relevance.layers, *graph.values()]


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", [*WINDOWED, "llama"])
def test_intervals_give_what_written_out_masks_give(
    name: str, padding: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = prompt(padding)
    expected = explained(name, inputs, checkpoint=False)
    made = list[Interval]()
    keep = IntervalMask.of
    monkeypatch.setattr(IntervalMask, "of", lambda interval: made.append(interval) or keep(interval))
    monkeypatch.setattr(masks, "MASK_ENTRIES", 1)
    for checkpoint in (False, True):
        found = explained(name, inputs, checkpoint)
        for a, b in zip(expected, found, strict=True):
            assert (a - b).abs().max() <= 1e-12 * a.abs().max()
    assert bool(made) == (name != "llama" or padding != "none"), "plain causal attention needs no mask at all"
    assert "written out" not in caplog.text


class Largest(TorchDispatchMode):
    """The most entries of any tensor that is made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        parts: Iterable[Any] = made if isinstance(made, (tuple, list)) else (made,)
        self.entries = max([self.entries, *(p.untyped_storage().nbytes() for p in parts if isinstance(p, Tensor))])
        return made


def largest(name: str, length: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes of the largest tensor of one attribution."""
    monkeypatch.setattr(masks, "MASK_ENTRIES", limit)
    ids = torch.arange(length).remainder(VOCABULARY - 2)[None]
    with instrument(build(name, dtype=torch.float32), checkpoint=True) as lrp, Largest() as seen:
        lrp.trace(input_ids=ids, allow_beyond_max=True).attribute(TARGET)
    return seen.entries


def test_nothing_is_as_large_as_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    length = 3000
    assert largest("mistral", length, 1 << 62, monkeypatch) >= length * length
    kept = [largest("mistral", n, 1 << 16, monkeypatch) for n in (length // 2, length)]
    assert kept[1] <= 2.1 * max(kept[0], 1 << 21), "linear, from the size of a block of rows on"
    assert kept[1] < length * length / 2


def test_whoever_asks_for_entries_gets_them(caplog: pytest.LogCaptureFixture) -> None:
    mask = IntervalMask.of(Interval(torch.tensor([[0, 0, 1]]), torch.tensor([[1, 2, 3]])))
    expected = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]], dtype=torch.bool)
    assert mask.shape == (1, 1, 3, 3)
    assert mask.dtype == torch.bool
    assert not caplog.records
    assert torch.equal(mask[..., :2], expected[None, None, :, :2])
    assert "written out" in caplog.text
    q = torch.eye(3)[None, None]
    attend = torch.nn.functional.scaled_dot_product_attention
    assert torch.equal(attend(q, q, q, attn_mask=mask), attend(q, q, q, attn_mask=expected))


def test_rows_with_gaps_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding in the middle of a sequence leaves rows that are no intervals."""
    inputs = prompt("none")
    inputs["attention_mask"][0, 8:12] = 0
    inputs["position_ids"] = torch.arange(LENGTH).expand(2, -1)
    expected = explained("llama", inputs, checkpoint=False)
    monkeypatch.setattr(masks, "MASK_ENTRIES", 1)
    for a, b in zip(expected, explained("llama", inputs, checkpoint=False), strict=True):
        assert torch.equal(a, b)


def test_the_decoder_gets_its_config_back_and_generates_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "MASK_ENTRIES", 1)
    model: Any = build("mistral", dtype=torch.float32)
    before, inputs = model.model.config, prompt("left")
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    plain = model.generate(**inputs, **options)
    with instrument(model):
        assert torch.equal(model.generate(**inputs, **options), plain)
    assert model.model.config is before
    assert model.config._attn_implementation == "sdpa"
