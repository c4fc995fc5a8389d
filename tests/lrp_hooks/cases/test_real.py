"""The whole way on the real model and three real prompts; segments of a real chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lrp_hooks.cases.answers.generate import encode_prompt
from lrp_hooks.cases.answers.run import run_benchmark
from lrp_hooks.cases.benchmarks.ifeval import ifeval_prompts
from lrp_hooks.cases.schema import Case, Message
from lrp_hooks.cases.search.find import find_cases, summarize
from lrp_hooks.cases.search.stages import Settings
from lrp_hooks.cases.segments import instruction_spans, token_segments

pytestmark = pytest.mark.slow


def test_segments_follow_the_chat_template(demo: Any) -> None:
    text = "Write a résumé 🙂.\n\nDo not use any commas. Be brief."
    spans = instruction_spans(text, ["punctuation:no_comma"], 0)
    messages = (Message(role="user", content=text),)
    case = Case(id="a", messages=messages, completion="Dear all", segments=spans)
    chat = [message.model_dump() for message in messages]
    ids = encode_prompt(demo.tokenizer, chat) + demo.tokenizer.encode(case.completion, add_special_tokens=False)
    parts = [(s.name, demo.tokenizer.decode(ids[s.start : s.stop])) for s in token_segments(case, demo.tokenizer, ids)]
    named = [(name, words.strip()) for name, words in parts if name != "special"]
    assert named == [
        ("query", "Write a résumé 🙂."),
        ("instruction", "Do not use any commas."),
        ("query", "Be brief."),
        ("answer", "Dear all"),
    ]


def test_three_real_prompts(demo: Any, tmp_path: Path) -> None:
    prompts = [p for p in ifeval_prompts("punctuation:no_comma") if len(p.instruction_ids) == 1][:3]
    answers = run_benchmark(demo, prompts, tmp_path / "answers.jsonl", max_new_tokens=48, batch_size=3)
    assert [answer.id for answer in answers] == [f"ifeval:{prompt.key}" for prompt in prompts]
    for answer in answers:
        assert answer.passed == ("," not in answer.response)
    outcomes = find_cases(demo, answers, tmp_path / "found.jsonl", settings=Settings(samples=0, alternatives=5))
    assert summarize(outcomes).searched == sum("," in answer.response for answer in answers)
    for outcome in outcomes:
        assert outcome.case or outcome.reason
        if outcome.case and outcome.case.kind == "one-way":
            assert outcome.case.target
            assert "," in (outcome.case.target.text or "")
