"""What a mask lets each token see, as intervals."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_hooks.ops import Interval
from lrp_hooks.rules.attention import visible as module
from lrp_hooks.rules.attention.visible import visible

T = 6
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()
PADDED = CAUSAL & (torch.arange(T) >= 2)


def seen(mask: Any, base: str = "sdpa", keys: int = T, **options: Any) -> Interval | None:
    q, k = torch.zeros(2, 4, T, 8), torch.zeros(2, 2, keys, 8)
    redirected = SimpleNamespace(config=SimpleNamespace(_lrp_hooks_base=base))
    return visible(redirected, q, k, mask, options)


def dense(interval: Interval | None) -> Tensor:
    assert interval is not None
    return interval.allowed(torch.arange(T), T)


def test_without_a_mask_sdpa_is_causal_unless_told_and_eager_sees_all() -> None:
    assert torch.equal(dense(seen(None)), CAUSAL)
    assert dense(seen(None, is_causal=False)).all()
    assert dense(seen(None, base="eager")).all()
    assert seen(None, base="flash_attention_2") is None  # it applies windows and padding by itself


def test_masks_that_are_intervals() -> None:
    window = CAUSAL & ~CAUSAL.tril(-3)
    assert torch.equal(dense(seen(window[None, None])), window)
    both = torch.stack((window, PADDED))[:, None]
    assert torch.equal(dense(seen(both)), both[:, 0])
    heads = window.expand(1, 4, T, T)  # one mask, shown to every head
    assert torch.equal(dense(seen(heads)), window)
    lowest = torch.finfo(torch.float32).min
    for low in (lowest, -torch.inf):
        added = torch.zeros(T, T).masked_fill(~PADDED, low)
        assert torch.equal(dense(seen(added[None, None], base="eager")), PADDED)


@pytest.mark.parametrize(
    "mask",
    [
        (CAUSAL & (torch.arange(T) != 2))[None, None],
        torch.randn(1, 1, T, T),
        CAUSAL.float().log()[None, None] - 0.5,
        torch.stack([CAUSAL] * 4)[None],
        CAUSAL[None, None, :, :4],
        "block mask",
    ],
    ids=["hole", "numbers", "numbers and -inf", "per head", "fewer keys", "no tensor"],
)
def test_masks_that_are_none(mask: Any) -> None:
    assert seen(mask) is None


def test_other_keys_than_queries_are_no_interval() -> None:
    assert seen(None, keys=T + 1) is None


def test_a_mask_that_all_blocks_share_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mask, reads = PADDED[None, None].clone(), []
    right = module._of_mask
    monkeypatch.setattr(module, "_of_mask", lambda m: reads.append(1) or right(m))
    assert torch.equal(dense(seen(mask)), dense(seen(mask)))
    assert len(reads) == 1
    other = CAUSAL[None, None].clone()
    assert torch.equal(dense(seen(other)), CAUSAL)
    assert len(reads) == 2
