"""What is written about a GPU, and which launch configurations are tried on one; none is needed here."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("triton")
from benchmarks import gpu, gpu_page, gpu_tuning


def row(kernel: str, model: str, tokens: int, seconds: float) -> dict[str, Any]:
    return {
        "kernel": kernel, "model": model, "tokens": tokens, "seconds": seconds, "floor": seconds / 4,
        "times_floor": 4.0, "peak_megabytes": 12.0, "runs": 3,
    }  # fmt: skip


def test_the_page_is_made_from_the_committed_results() -> None:
    results = (json.loads(path.read_text()) for path in (gpu.RESULT, gpu.LAUNCHES))
    assert gpu.PAGE.read_text() == gpu_page.page(*results)


def test_the_page_sets_predictions_peers_and_plain_models_beside_what_was_measured() -> None:
    at = gpu_page.AT
    facts = dict.fromkeys(gpu_page.NAMED, "x") | {
        "device": "NVIDIA H200",
        "checks": [
            {"kernel": "norm, scale", "dtype": "float16", "error": error, "limit": 1e-3, "setting": ""}
            for error in (1e-4, 5e-4)
        ],
        "rows": [
            row("a copy", "", 0, 0.001), row("attention, forward", *at, 0.002),
            row("torch's attention, forward", *at, 0.001), row("model, forward and backward", *at, 0.5),
            row("model, attribution", *at, 0.75), row("attention, forward", at[0], 1536, 0.25),
        ],
    }  # fmt: skip
    launch = {"kernel": "dk and dv", "width": 64, "dtype": "bfloat16", "before": [1, 2], "now": [3, 4]}
    made = gpu_page.page(facts, {"rows": [{**launch, "before_seconds": 0.002, "now_seconds": 0.001}]}).splitlines()
    assert "| dk and dv | 64 | bfloat16 | 1, 2 | 2.00 | 3, 4 | 1.00 | 0.50 |" in made
    assert "| a copy | 1.000 | 4.00 |" in made
    assert "| Qwen3-0.6B | 12,288 | attention, forward | 2.000 | 4.0 | 2.5 | 1.000 | 12 |" in made
    assert "| Qwen3-0.6B | 1,536 | attention, forward | 250.000 | 4.0 |  |  | 12 |" in made
    assert "| Qwen3-0.6B | 12,288 | attribution | 0.750 | 1.50 | 4.0 | 3.0 | 0.0 |" in made
    assert "| norm, scale | float16 | 2 | 5.0e-04 | 50% |" in made
    assert "4.80 TB/s" in "\n".join(made)


@pytest.mark.parametrize("kernel", gpu_tuning.TABLES)
def test_what_is_tried_starts_with_what_is_chosen_and_is_put_back(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_tuning, "_kind", lambda: "sm_90 half")
    tried = list(gpu_tuning.trials(kernel, 128))
    assert [trial.chosen for trial in tried] == [True] + [False] * (len(tried) - 1)
    sizes = [(trial.rows, trial.columns, trial.warps, trial.stages) for trial in tried]
    assert len(set(sizes)) == len(sizes) > 10
    table = gpu_tuning._table(kernel)
    before = table["sm_90 half"]
    with gpu_tuning._configured(tried[-1]):
        assert table["sm_90 half"] == ((1 << 16, *sizes[-1]),)
    assert table["sm_90 half"] == before
