"""What must be shown, on the real demo model."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_hooks import LogitDiff, instrument

pytestmark = pytest.mark.slow

PROMPT = "When Mary and John went to the store, John gave a drink to"
PROMPTS = (
    PROMPT,
    "The capital of France is",
    "The keys to the cabinet",
    "The doctor told the nurse that she",
    "Water boils at a temperature of 100 degrees",
    "Anna has three apples and eats one. Now she has",
)


def encode(demo: Any, text: str) -> dict[str, Any]:
    return dict(demo.tokenizer(text, return_tensors="pt"))


def contrast(demo: Any) -> LogitDiff:
    return LogitDiff(" Mary", " John", tokenizer=demo.tokenizer)


def test_the_known_explanation(demo: Any) -> None:
    batch = encode(demo, PROMPT)
    with torch.no_grad():
        untouched = demo.model(**batch).logits
    with instrument(demo.model) as lrp:
        logits = demo.model(**batch).logits
        assert torch.equal(logits, untouched)
        mary, john = (demo.tokenizer.encode(word)[0] for word in (" Mary", " John"))
        (logits[0, -1, mary] - logits[0, -1, john]).backward()
        low = lrp.relevance()
        high = lrp.trace(**batch).attribute(contrast(demo))
    assert low.value.item() == pytest.approx(6.12, abs=0.005)
    assert torch.allclose(low.tokens, high.tokens, rtol=1e-4, atol=1e-5)
    assert torch.allclose(low.layers, high.layers, rtol=1e-4, atol=1e-4)
    scores = dict(enumerate(low.tokens[0].tolist()))
    words = [demo.tokenizer.decode([i]) for i in batch["input_ids"][0]]
    assert words[1] == " Mary"
    assert words[3] == " John"
    assert scores[1] == pytest.approx(2.05, abs=0.02)
    assert scores[3] == pytest.approx(-0.64, abs=0.02)
    assert max(scores, key=lambda i: scores[i]) == 1
    assert scores[1] > 2.5 * sorted(scores.values())[-2]
    assert high.ledger().max() < 1e-4


def ranks(x: Tensor) -> Tensor:
    return x.argsort().argsort().double()


def test_bfloat16_ranks_tokens_as_float32_does(demo: Any) -> None:
    """Spearman correlation >= 0.99 over the tokens of several prompts, pooled per prompt by their ranks."""
    exact, rounded = {}, {}
    for dtype, store in ((torch.float32, exact), (torch.bfloat16, rounded)):
        model = copy.deepcopy(demo.model).to(dtype)  # the shared one must keep its weights unrounded
        with instrument(model) as lrp:
            for text in PROMPTS:
                store[text] = lrp.trace(**encode(demo, text)).attribute(contrast(demo)).tokens[0]
    assert all(torch.isfinite(scores).all() for scores in rounded.values())
    pooled = [torch.cat([store[text] / exact[text].abs().max() for text in PROMPTS]) for store in (exact, rounded)]
    assert torch.corrcoef(torch.stack([ranks(p) for p in pooled]))[0, 1] >= 0.99


def test_float16_is_finite_and_close(demo: Any) -> None:
    batch = encode(demo, PROMPT)
    with instrument(demo.model) as lrp:
        exact = lrp.trace(**batch).attribute(contrast(demo)).tokens[0]
    with instrument(copy.deepcopy(demo.model).to(torch.float16)) as lrp:
        half = lrp.trace(**batch).attribute(contrast(demo)).tokens[0]
    assert torch.corrcoef(torch.stack([exact, half]))[0, 1] > 0.999


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_of_real_prompts_equals_each_prompt_alone(demo: Any, side: str) -> None:
    tokenizer = demo.tokenizer
    before, tokenizer.padding_side = tokenizer.padding_side, side
    batch = dict(tokenizer(list(PROMPTS[:3]), return_tensors="pt", padding=True))
    tokenizer.padding_side = before
    with instrument(demo.model) as lrp:
        together = lrp.trace(**batch).attribute(contrast(demo))
        for row, text in enumerate(PROMPTS[:3]):
            alone = lrp.trace(**encode(demo, text)).attribute(contrast(demo))
            inside = batch["attention_mask"][row].bool()
            error = (together.tokens[row, inside] - alone.tokens[0]).abs().max() / alone.tokens.abs().max()
            assert error < 1e-5
            assert (together.tokens[row, ~inside] == 0).all()


def test_generate_on_the_instrumented_model(demo: Any) -> None:
    batch = encode(demo, "The capital of France is")
    plain = demo.model.generate(**batch, max_new_tokens=5, do_sample=False)
    with instrument(demo.model):
        assert torch.equal(demo.model.generate(**batch, max_new_tokens=5, do_sample=False), plain)
    assert " Paris" in demo.tokenizer.decode(plain[0])


def run(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lrp_hooks", *words]
    return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=300)


def test_the_commands(tmp_path: Path) -> None:
    shown = run("demo", "--folder", str(tmp_path))
    assert shown.returncode == 0, shown.stderr
    assert "+6.120 logits" in shown.stdout
    assert {p.name for p in tmp_path.iterdir()} == {
        "comma.html",
        *(f"mary{s}" for s in (".html", ".svg", ".png", ".pdf", ".json")),
    }
    messages = json.dumps([{"role": "user", "content": "Name a colour."}])
    chat = run("attribute", "demo", "--messages", "-", "-c", "rank:3", "--top", "3", stdin=messages)
    assert chat.returncode == 0, chat.stderr
    assert "<|im_start|>" in chat.stdout
    piped = run(
        "attribute", "demo", "-p", "-", "-t", " Mary", "-c", " John", "-o", str(tmp_path / "x.txt"), stdin=PROMPT
    )
    assert piped.returncode == 0, piped.stderr
    assert "Mary" in (tmp_path / "x.txt").read_text()
    multi = run("attribute", "demo", "-p", PROMPT, "-t", " Maryland and")
    assert multi.returncode == 2
    assert "tokens: [" in multi.stderr
    healthy = run("doctor", "demo", "--json")
    assert healthy.returncode == 0, healthy.stderr
    certificate = json.loads(healthy.stdout)
    report = certificate["report"]
    assert certificate["verdict"] == "certified"
    assert certificate["entries"]["error"] < 1e-4
    assert max(row["error"] for row in report["ledger"]) < 1e-4
    assert {row["role"] for row in report["sites"]} == {"attention", "activation", "norm", "gated"}


def test_the_failure_of_the_demo_is_the_first_comma(demo: Any) -> None:
    """IFEval 1418 forbids commas; " comma" in the prompt speaks for one, and cutting it agrees."""
    from lrp_hooks.cli.demo import first_comma

    failure = first_comma(demo)
    text = demo.tokenizer.decode
    assert "without any comma" in failure.prompt
    assert (text([failure.target]), text([failure.contrast])) == (",", " lies")
    assert failure.said == "In the realm of poetry"
    target = LogitDiff(failure.target, failure.contrast)
    with instrument(demo.model) as lrp:
        trace = lrp.trace(input_ids=torch.tensor([failure.ids]))
        graph = trace.graph(target, detail=True, tokenizer=demo.tokenizer)
        first = graph.strongest_paths(1)[0]
        assert graph.about["value"] == pytest.approx(3.10, abs=0.02)
        assert graph.detail is not None
        assert (first.sign, [graph.tokens[i] for _, i in first.nodes][:: len(first.nodes) - 1]) == (
            -1,
            [" realm", " poetry"],
        )
        for word, helps in ((" comma", True), ("In", True), (" realm", False)):
            token = graph.tokens.index(word)
            assert (float(graph.relevance[0, token]) > 0) == helps
            assert (trace.ablate(target, tokens=[token]).change < 0) == helps
