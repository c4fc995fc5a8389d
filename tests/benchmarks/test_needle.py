"""A fact planted in filler is the most relevant region of the prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks import needle


def check(found: needle.Found) -> None:
    assert found.lead > 0 > found.exchanged_lead  # the model uses the fact, and not a preference of its own
    assert found.rank == 1
    assert found.share > 2 * found.runner_up


def test_a_small_model_trained_on_short_prompts_shows_its_needle_in_a_long_one() -> None:
    check(needle.explain("tiny", needle.tiny_model(), needle.tiny_prompt(8192, 0.5)))


@pytest.mark.slow
def test_the_demo_model_shows_its_needle(demo: Any) -> None:
    check(needle.explain("demo", demo.model, needle.demo_prompt(demo.tokenizer, 2048, 0.25)))


@pytest.mark.slow
def test_prompts_differ_in_the_fact_only(demo: Any) -> None:
    for prompt in (needle.tiny_prompt(300, 0.3), needle.demo_prompt(demo.tokenizer, 700, 0.6)):
        different = torch.nonzero(prompt.ids[0] != prompt.exchanged[0]).flatten()
        assert len(different) == 1
        assert prompt.start <= int(different) < prompt.stop <= prompt.end < prompt.ids.shape[1]
        assert int(prompt.ids[0, different]) == prompt.target
        assert int(prompt.exchanged[0, different]) == prompt.contrast
