"""Questions about one model: answers are the library's own, a forward is kept, and what is stopped leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch

from lrp_hooks import LogitDiff, instrument
from lrp_hooks.errors import ContextLengthError, InputError, LrpError, TargetError
from lrp_hooks.explorer.engine import Engine, Settings
from lrp_hooks.explorer.forms import Continuing, Explaining, Prompt, Reading
from lrp_hooks.explorer.jobs import Cancelled, Job
from lrp_hooks.render import graph_layout
from lrp_hooks.render.heatmap import Heatmap

TEXT = Prompt(text="say no more")
CHAT: Any = Prompt.model_validate({"messages": [{"role": "user", "content": "say it"}], "completion": "no"})
ASKED: dict[str, Any] = {"target": "a", "contrasts": ("b",)}


@pytest.fixture
def engine() -> Engine:
    return Engine(tiny.loaded(0))


def job() -> Job:
    return Job(1, "test")


def forwards(engine: Engine) -> Callable[[], int]:
    """How often the first block has run since."""
    count = [0]

    def hook(*_: Any) -> None:
        count[0] += 1

    engine.loaded.model.model.layers[0].register_forward_pre_hook(hook)
    return lambda: count[0]


def expected(prompt: str, composite: str = "attnlrp", position: int = -1) -> Any:
    """Straight from the library, on a model of its own."""
    loaded = tiny.loaded(0)
    batch = loaded.tokenizer(prompt, return_tensors="pt")
    with instrument(loaded.model, composite) as lrp:
        trace = lrp.trace(input_ids=batch["input_ids"])
        relevance = trace.attribute(LogitDiff("a", "b", position, loaded.tokenizer))
        graph = trace.graph(LogitDiff("a", "b", position, loaded.tokenizer), tokenizer=loaded.tokenizer)
        top = trace.top(5, position=position, tokenizer=loaded.tokenizer)
    return Heatmap.from_relevance(relevance, loaded.tokenizer), graph, top


@pytest.mark.parametrize("composite", ["attnlrp", "cp-lrp", "gradient"])
@pytest.mark.parametrize("position", [-1, 4])
def test_answers_are_those_of_the_library(engine: Engine, composite: Any, position: int) -> None:
    form = Explaining(prompt=TEXT, composite=composite, position=position, **ASKED)
    heatmap, graph, top = expected("say no more", composite, position)
    made = engine.heatmap(form, job())
    assert made.scores == heatmap.scores
    assert made.layers == heatmap.layers
    assert (made.target, made.value, made.model) == ("logit('a') - logit('b')", heatmap.value, "tiny-0")
    (drawn,) = engine.graphs(form, job())
    assert torch.equal(drawn.weight, graph.weight)
    assert drawn.about["model"] == "tiny-0"
    read = engine.read(Reading(prompt=TEXT, position=position, top=5, composite=composite), job())
    assert [(row["id"], row["logit"]) for row in read["candidates"]] == [(row.id, row.logit) for row in top]
    assert read["position"] == position % 11
    assert "".join(token["text"] for token in read["tokens"]) == "say no more"


def test_another_question_about_the_same_prompt_costs_no_forward(engine: Engine) -> None:
    count = forwards(engine)
    engine.read(Reading(prompt=TEXT), job())
    once = count()
    engine.heatmap(Explaining(prompt=TEXT, **ASKED), job())
    engine.heatmap(Explaining(prompt=TEXT, target="c", contrasts=("d",)), job())
    list(engine.graphs(Explaining(prompt=TEXT, position=3, **ASKED), job()))
    engine.read(Reading(prompt=TEXT, position=2, extra=("z", "#7")), job())
    assert count() == once
    engine.heatmap(Explaining(prompt=Prompt(text="another"), **ASKED), job())
    assert count() == once + 1


def test_other_rules_are_patched_in_anew(engine: Engine) -> None:
    first = engine.heatmap(Explaining(prompt=TEXT, **ASKED), job())
    second = engine.heatmap(Explaining(prompt=TEXT, composite="gradient", **ASKED), job())
    assert first.scores != second.scores
    assert (first.composite, second.composite) == ("attnlrp", "gradient")
    assert engine.heatmap(Explaining(prompt=TEXT, **ASKED), job()).scores == first.scores


def test_the_model_writes_as_it_would_untouched(engine: Engine) -> None:
    untouched = tiny.loaded(0)
    ids = untouched.tokenizer("say no more", return_tensors="pt")["input_ids"]
    expected = untouched.model.generate(torch.cat([ids, torch.tensor([[20]])], 1), max_new_tokens=12, do_sample=False)
    engine.heatmap(Explaining(prompt=TEXT, **ASKED), job())
    work = job()
    said = engine.go_on(Continuing(prompt=TEXT, token=20, new_tokens=12), work)
    assert said["text"] == untouched.tokenizer.decode(expected[0, 11:], skip_special_tokens=True)
    assert said["tokens"] <= 12
    assert work.text
    assert said["text"].startswith(work.text)
    assert all(p.requires_grad for p in engine.loaded.model.parameters())
    assert not any("forward" in vars(module) for module in engine.loaded.model.modules())
    assert engine.heatmap(Explaining(prompt=TEXT, **ASKED), job()).scores  # and can be asked again


def test_a_continuation_keeps_the_space_that_a_decoder_drops_at_the_start_of_a_text(engine: Engine) -> None:
    class Strips:
        def __init__(self, tokenizer: Any):
            self._tokenizer = tokenizer

        def __getattr__(self, name: str) -> Any:
            return getattr(self._tokenizer, name)

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self._tokenizer(*args, **kwargs)

        def decode(self, ids: Any, **options: Any) -> str:
            return str(self._tokenizer.decode(ids, **options)).removeprefix(" ")

    from dataclasses import replace

    space = engine.loaded.tokenizer.convert_tokens_to_ids(" ")
    stripping = Engine(replace(engine.loaded, tokenizer=Strips(engine.loaded.tokenizer)))
    said = stripping.go_on(Continuing(prompt=TEXT, token=space, new_tokens=3), job())
    assert said["text"].startswith(" ")
    assert said["text"] == engine.go_on(Continuing(prompt=TEXT, token=space, new_tokens=3), job())["text"]


def test_a_chat_goes_through_the_template_with_what_has_been_said(engine: Engine) -> None:
    ids = engine.encode(CHAT)
    tokenizer = engine.loaded.tokenizer
    assert tokenizer.convert_ids_to_tokens(ids) == ["<user>", *"say", " ", *"it", "<answer>", *"no"]
    assert engine.read(Reading(prompt=CHAT), job())["tokens"][0]["special"]


def test_a_large_graph_comes_with_one_of_sentences(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    form = Explaining(prompt=Prompt(text="one. two. three"), **ASKED)
    assert len(list(engine.graphs(form, job()))) == 1
    monkeypatch.setattr(graph_layout, "SMOOTH_EDGES", 0)
    fine, coarse = engine.graphs(form, job())
    assert [segment.name for segment in coarse.segments or ()] == ["one.", "two.", "three"]
    assert fine.segments is None
    (chosen,) = engine.graphs(form.model_copy(update={"segments": "4"}), job())
    assert [len(segment) for segment in chosen.segments or ()] == [4, 4, 4, 3]


def test_a_whole_graph_stays_when_its_sentences_are_stopped(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_layout, "SMOOTH_EDGES", 0)
    made = engine.graphs(Explaining(prompt=Prompt(text="one. two. three"), **ASKED), StopsIn("building a graph of"))
    assert len(next(made)) > 0
    with pytest.raises(Cancelled):
        next(made)


@pytest.mark.parametrize("step", ["patching", "reading", "propagating", "building"])
@pytest.mark.parametrize("checkpoint", [True, False])
def test_what_is_stopped_leaves_the_model_usable(step: str, checkpoint: bool) -> None:
    engine = Engine(tiny.loaded(0), Settings(checkpoint=checkpoint))
    form = Explaining(prompt=TEXT, show="graph" if step == "building" else "heatmap", **ASKED)
    work = StopsIn(step)
    with pytest.raises(Cancelled):
        list(engine.graphs(form, work)) if step == "building" else engine.heatmap(form, work)
    heatmap, graph, _ = expected("say no more")
    assert engine.heatmap(form, job()).scores == heatmap.scores
    (drawn,) = engine.graphs(form, job())
    assert torch.equal(drawn.weight, graph.weight)
    engine.release()
    assert not any("forward" in vars(module) for module in engine.loaded.model.modules())
    assert not any(module._forward_pre_hooks for module in engine.loaded.model.modules())


class StopsIn(Job):
    """Is asked to stop once a step has begun to count, or begins."""

    def __init__(self, step: str):
        super().__init__(1, "stops")
        self._step = step

    def begin(self, step: str) -> Callable[[int, int], None]:
        told = super().begin(step)
        if not step.startswith(self._step):
            return told

        def stop(done: int, total: int) -> None:
            self.asked_to_stop = done >= 1
            told(done, total)

        if step.startswith("patching"):
            self.asked_to_stop = True
            self.check()
        return stop


def test_progress_reaches_the_end_of_every_step(engine: Engine) -> None:
    seen: list[tuple[str, int, int]] = []

    class Telling(Job):
        def begin(self, step: str) -> Callable[[int, int], None]:
            return lambda done, total: seen.append((step, done, total))

    engine.heatmap(Explaining(prompt=TEXT, **ASKED), Telling(1, "x"))
    layers = engine.loaded.model.config.num_hidden_layers
    assert [s for s in seen if s[0].startswith("reading 11 tokens")] == [
        ("reading 11 tokens: blocks", done, layers) for done in range(layers)
    ]
    assert seen[-1] == ("propagating relevance", layers + 1, layers + 1)


@pytest.mark.parametrize(
    ("form", "kind", "message"),
    [
        (Explaining(prompt=Prompt(text="")), InputError, "the prompt is empty"),
        (Explaining(prompt=Prompt(text="abc"), target="ab", contrasts=("c",)), TargetError, "ab"),
        (Explaining(prompt=Prompt(text="abc"), target="a", contrasts=("a",)), TargetError, "same token"),
        (Explaining(prompt=Prompt(text="abc"), target="rank:x"), TargetError, "a rank is written"),
        (Explaining(prompt=Prompt(text="abc"), position=5), TargetError, "outside the 3 tokens"),
        (Explaining(prompt=Prompt(text="abc"), kind="logit", contrasts=("a",)), InputError, "goes with logit-diff"),
        (Explaining(prompt=Prompt(text="abc"), segments="words", show="graph"), InputError, "choices: sentences"),
        (Explaining(prompt=Prompt(text="a" * 5000)), ContextLengthError, "5000 tokens"),
        (Reading(prompt=Prompt(text="abc"), extra=("rank:2",)), InputError, "is a rank"),
        (Reading(prompt=Prompt(messages=())), InputError, "no message"),
        (Reading(prompt=Prompt(text="abc"), extra=("#100000",)), LrpError, "outside the vocabulary"),
        (Continuing(prompt=Prompt(text="abc"), token=100000), LrpError, "outside the vocabulary"),
    ],
)
def test_what_cannot_be_answered_says_why(engine: Engine, form: Any, kind: type[Exception], message: str) -> None:
    ask = {Reading: engine.read, Continuing: engine.go_on}.get(type(form), engine.heatmap)
    if getattr(form, "show", "") == "graph":
        ask = lambda form, job: list(engine.graphs(form, job))  # noqa: E731
    with pytest.raises(kind, match=message):
        ask(form, job())
    assert engine.heatmap(Explaining(prompt=TEXT, **ASKED), job()).scores


def test_a_model_without_a_tokenizer_is_refused() -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="no tokenizer"):
        Engine(replace(tiny.loaded(0), tokenizer=None)).encode(TEXT)
