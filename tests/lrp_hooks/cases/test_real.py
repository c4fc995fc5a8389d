"""The whole way on the real model and ten real prompts; segments of a real chat template."""

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
from lrp_hooks.cases.sweep.store import Store
from lrp_hooks.cases.sweep.sweep import Plan, sweep
from lrp_hooks.cases.validation.validate import Rules
from lrp_hooks.cases.verifiers import verifiers_of
from lrp_hooks.cli.sweep import read_report
from lrp_hooks.render.failures import write_report

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


def test_ten_real_prompts_from_answers_to_a_report(demo: Any, tmp_path: Path) -> None:
    """What `make demo-failures` does, on shorter answers and two cases at most."""
    prompts = [p for p in ifeval_prompts("punctuation:no_comma") if len(p.instruction_ids) == 1][:10]
    answers = run_benchmark(demo, prompts, tmp_path / "answers.jsonl", max_new_tokens=40, batch_size=10)
    assert [answer.id for answer in answers] == [f"ifeval:{prompt.key}" for prompt in prompts]
    for answer in answers:
        assert answer.passed == ("," not in answer.response)
    outcomes = find_cases(demo, answers, tmp_path / "found.jsonl", settings=Settings(samples=0, alternatives=3, near=0))
    summary = summarize(outcomes)
    assert summary.searched == sum("," in answer.response for answer in answers) >= 3
    assert summary.kept >= 1
    assert summary.kept + sum(summary.reasons.values()) == summary.searched
    cases = [outcome.case for outcome in outcomes if outcome.case is not None][:2]
    for case in cases:
        assert case.target is not None
        if case.kind == "one-way":
            assert "," in (case.target.text or "")

    plan = Plan(("demo",), ("attnlrp", "gradient"), Rules(most=2, draws=1, max_new_tokens=40))
    store = Store(tmp_path / "sweep")
    made = sweep(cases, plan, store, lambda _: demo, verifiers=verifiers_of(cases))
    assert made == len(cases) * 3
    report = read_report(store)
    assert not report.errors
    for record in report.attributed:
        case = next(each for each in cases if each.id == record.case)
        assert record.value == pytest.approx(case.delta_logit, rel=1e-3)  # of a prompt without and with padding
    for record in report.validated:
        assert record.validation is not None
        assert {flip.ranking for flip in record.validation.flips} == {"attnlrp", "gradient", "random"}
        assert all(flip.passes is not None for flip in record.validation.flips)
    html = next(path for path in write_report(report, store.folder) if path.suffix == ".html").read_text()
    assert all(case.id in html for case in cases)
