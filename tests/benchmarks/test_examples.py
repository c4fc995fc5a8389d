"""README's examples: its figures are those of the committed result, and a cut is what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build, inputs

from benchmarks.examples import COMMA, CUT, NAMES, cut, places
from benchmarks.measure import RESULTS

README = (Path(__file__).parents[2] / "README.md").read_text()
RESULT: dict[str, Any] = json.loads((RESULTS / "examples.json").read_text())


class Letters:
    """Token 0 is a, 1 is b."""

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(97 + token) for token in ids)


def test_readme_says_what_the_result_says() -> None:
    text = " ".join(README.split())
    cuts = {row["token"]: row["change"] for row in RESULT["rows"] if row["example"] == COMMA}
    assert f"without “ comma” the difference falls by {-cuts[' comma']:.2f} logits" in text
    assert f"without “In” by {-cuts['In']:.2f}" in text
    assert f"without “ realm” it rises by {cuts[' realm']:.2f}" in text
    for graph in RESULT["graphs"]:
        target, contrast = graph["pair"]
        assert f"logit({target!r}) - logit({contrast!r}) = {graph['difference']:+.3f} logits" in text
        for path in graph["paths"]:
            assert f"{path['share']:.2%} " in text


def test_every_example_has_all_its_cuts() -> None:
    for name in (NAMES, COMMA):
        assert {row["token"] for row in RESULT["rows"] if row["example"] == name} == set(CUT[name])


def test_tokens_are_found_wherever_they_are_but_at_the_end() -> None:
    assert places([1, 0, 1, 2, 1], "b", Letters()) == [0, 2]
    with pytest.raises(ValueError, match="no token of the prompt reads 'z'"):
        places([1, 0], "z", Letters())


def test_a_cut_token_is_seen_by_no_other() -> None:
    """Replacing a token that is cut changes nothing at the last position, where it did before."""
    from lrp_hooks import LogitDiff, instrument

    model, ids = build("llama", dtype=torch.float32), inputs("llama", length=6)
    other = ids.clone()
    other[0, 2] = (ids[0, 2] + 1) % model.config.vocab_size
    with instrument(model) as lrp:
        first, second = (cut(lrp.trace(input_ids=prompt), LogitDiff(5, 7), "x", 2) for prompt in (ids, other))
    assert first["before"] != pytest.approx(second["before"], abs=1e-6)
    after = [one["before"] + one["change"] for one in (first, second)]
    assert after[0] == pytest.approx(after[1], abs=1e-5)
