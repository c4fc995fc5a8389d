"""The command line on classifiers and masked language models: the same numbers as in Python, under the right names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from benchmarks.tiny import TASKS, tiny_model
from lrp_hooks import LogitDiff, instrument
from lrp_hooks.cli.inputs import PromptSource
from lrp_hooks.errors import ModelLoadError
from lrp_hooks.loading.heads import find_head
from lrp_hooks.loading.model import load_model

NAMES = ("NEGATIVE", "NEUTRAL", "POSITIVE")
WORDS = (
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "capital", "of", "france", "is", "paris", "rome", "film"),
    *("was", "good", "bad", ".", "#", "0", "1", "2", "3"),
)
Run = Any


def save_tokenizer(folder: Path) -> None:
    raw = Tokenizer(WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    marks = [("[CLS]", 2), ("[SEP]", 3)]
    raw.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=marks)
    names = {f"{name.lower()}_token": f"[{name}]" for name in ("PAD", "UNK", "CLS", "SEP", "MASK")}
    outputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, model_input_names=outputs, **names)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} # {% endif %}"
    )
    tokenizer.save_pretrained(folder)


def save(folder: Path, task: str, kind: str = "bert", **config: Any) -> Path:
    model = tiny_model(kind, torch.float32, task=TASKS[task])
    if "classification" in task and not config.get("num_labels"):
        model.config.id2label = dict(enumerate(NAMES))
        model.config.label2id = {name: i for i, name in enumerate(NAMES)}
    for name, value in config.items():
        setattr(model.config, name, value)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("heads")
    tasks = ("sequence classification", "masked language model", "token classification", "question answering")
    return {task: save(base / task.replace(" ", "-"), task) for task in tasks}


def explained(auto: Any, folder: Path, text: str, target: LogitDiff) -> tuple[Any, Any]:
    """In Python: relevance, and the logits of the untouched model."""
    model, batch = auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**batch).logits
    with instrument(model) as lrp:
        return lrp.trace(**batch).attribute(target), logits


def table(out: str) -> dict[str, list[str]]:
    """Rows of the table of candidates, by name: id, logit and, where there is one, the probability."""
    return {name: rest.split() for name, rest in re.findall(r"^ +\d+  '(.*?)' +(.*)$", out, re.MULTILINE)}


def test_a_classifier_is_explained_as_in_python_by_the_names_of_its_classes(
    run: Run, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder, text = folders["sequence classification"], "the film was good"
    outputs = [tmp_path / f"x{suffix}" for suffix in (".json", ".html", ".svg")]
    words = [word for path in outputs for word in ("-o", str(path))]
    status, out, err = run("attribute", str(folder), "-p", text, "-t", "POSITIVE", "-c", "NEGATIVE", *words)
    assert status == 0, err
    relevance, logits = explained(AutoModelForSequenceClassification, folder, text, LogitDiff("POSITIVE", "NEGATIVE"))
    (record,) = json.loads(outputs[0].read_text())
    assert record["scores"] == pytest.approx(relevance.tokens[0].tolist(), rel=1e-5)
    assert record["value"] == pytest.approx(float(logits[0, 2] - logits[0, 0]), rel=1e-4)
    assert record["target"] == "logit('POSITIVE') - logit('NEGATIVE')"
    assert out.splitlines()[0].strip() == "classes"
    assert "next token" not in out
    chances = logits[0].softmax(-1)
    assert table(out) == {name: [str(i), f"{logits[0, i]:.3f}", f"{chances[i]:.2%}"] for i, name in enumerate(NAMES)}
    assert "supports the target “POSITIVE”, - supports the contrast “NEGATIVE”" in out
    for path in outputs[1:]:
        assert "POSITIVE" in path.read_text()
        assert "NEGATIVE" in path.read_text()


def test_a_classifiers_first_choice_is_explained_against_its_second(run: Run, folders: dict[str, Path]) -> None:
    folder, text = folders["sequence classification"], "the film was bad"
    status, out, err = run("attribute", str(folder), "-p", text, "--head", "sequence-classification")
    assert status == 0, err
    _, logits = explained(AutoModelForSequenceClassification, folder, text, LogitDiff())
    first, second = (NAMES[i] for i in logits[0].topk(2).indices.tolist())
    assert f"logit('{first}') - logit('{second}') = {logits[0].topk(2).values.diff().abs().item():+.3f} logits" in out


def test_probabilities_are_those_that_the_head_was_trained_for(run: Run, tmp_path: Path) -> None:
    text = "the film was good"
    several = save(tmp_path / "several", "sequence classification", problem_type="multi_label_classification")
    _, logits = explained(AutoModelForSequenceClassification, several, text, LogitDiff())
    status, out, err = run("attribute", str(several), "-p", text, "--of", "logit", "-t", "NEUTRAL")
    assert status == 0, err
    assert {name: row[2] for name, row in table(out).items()} == {
        name: f"{chance:.2%}" for name, chance in zip(NAMES, logits[0].sigmoid().tolist(), strict=True)
    }
    single = tmp_path / "single"
    model = tiny_model("bert", torch.float32, task=TASKS["sequence classification"])
    model.config.num_labels = 1
    model.classifier = torch.nn.Linear(32, 1)
    model.save_pretrained(single)
    save_tokenizer(single)
    status, out, err = run("attribute", str(single), "-p", text)
    assert status == 0, err
    assert "probability" not in out
    assert "score" in out.splitlines()[0]
    assert "logit('LABEL_0') = " in out
    status, _, err = run("attribute", str(single), "-p", text, "-c", "LABEL_0")
    assert (status, "one score and no other class" in err) == (2, True)
    assert run("doctor", str(single), "-p", text)[0] == 0


def test_the_mask_is_what_a_masked_model_is_asked_about(run: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    folder, text = folders["masked language model"], "the capital of france is [MASK] ."
    words = ["attribute", str(folder), "-p", text, "-t", "paris", "-c", "rome", "-o", str(tmp_path / "x.json")]
    status, out, err = run(*words)
    assert status == 0, err
    target = LogitDiff(WORDS.index("paris"), WORDS.index("rome"), position=6)
    relevance, logits = explained(AutoModelForMaskedLM, folder, text, target)
    (record,) = json.loads((tmp_path / "x.json").read_text())
    assert record["scores"] == pytest.approx(relevance.tokens[0].tolist(), rel=1e-5)
    assert record["target"] == "logit('paris') - logit('rome')"
    assert out.splitlines()[0].strip() == "tokens for [MASK] at position 6"
    assert f"{logits[0, 6].max():.3f}" in out
    status, other, err = run(*words, "--position", "2")
    assert status == 0, err
    assert other.splitlines()[0].strip() == "tokens at position 2"
    (record,) = json.loads((tmp_path / "x.json").read_text())
    assert record["value"] == pytest.approx(
        float(logits[0, 2, target.target] - logits[0, 2, target.contrast]), rel=1e-3
    )


def test_a_token_classifier_is_asked_about_one_token(run: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    folder, text = folders["token classification"], "the film was good"
    status, _, err = run("attribute", str(folder), "-p", text)
    assert status == 2
    assert "--position, one of 0 [CLS], 1 the, 2 ␣film" in err
    words = ["-t", "POSITIVE", "-c", "NEGATIVE", "--position", "2", "-o", str(tmp_path / "x.json")]
    status, out, err = run("attribute", str(folder), "-p", text, *words)
    assert status == 0, err
    target = LogitDiff("POSITIVE", "NEGATIVE", position=2)
    relevance, _ = explained(AutoModelForTokenClassification, folder, text, target)
    (record,) = json.loads((tmp_path / "x.json").read_text())
    assert record["scores"] == pytest.approx(relevance.tokens[0].tolist(), rel=1e-5)
    assert out.splitlines()[0].strip() == "classes of the token at position 2"
    assert set(table(out)) == set(NAMES)


SEQUENCE, MASKED = "sequence classification", "masked language model"
ERRORS = {
    "no mask": (MASKED, ["-p", "the film"], "the prompt has no [MASK]"),
    "no mask among ids": (MASKED, ["--ids", "2,5,3"], "or give its --position"),
    "two masks": (MASKED, ["-p", "[MASK] is [MASK]"], "[MASK] is in the prompt 2 times. do: --position, one of 1, 3"),
    "unknown class": (SEQUENCE, ["-p", "a", "-t", "GOOD"], "'GOOD' names 0 of the classes NEGATIVE, NEUTRAL, POSITIVE"),
    "no such class": (SEQUENCE, ["-p", "a", "-t", "#3"], "outside"),
    "a classifier has no positions": (SEQUENCE, ["-p", "a", "--position", "1"], "there is no position 1"),
    "unknown head": (SEQUENCE, ["-p", "a", "--head", "x"], "choices: auto, causal-lm, masked-lm, sequence-classific"),
    "no weights for the head": (
        MASKED,
        ["-p", "a", "--head", "sequence-classification"],
        "classifier.weight: as a cla",
    ),
    "question answering": ("question answering", ["-p", "a"], "is none of causal-lm, masked-lm, sequence-class"),
    "how in Python": ("question answering", ["-p", "a"], "AnswerSpan(start, end)"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_cannot_be_asked_is_one_clear_line(run: Run, folders: dict[str, Path], case: str) -> None:
    task, words, message = ERRORS[case]
    status, _, err = run("attribute", str(folders[task]), *words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_an_encoder_decoder_classifier_is_not_shown_by_halves(run: Run, tmp_path: Path) -> None:
    folder = save(tmp_path, SEQUENCE, "bart")
    status, _, err = run("attribute", str(folder), "-p", "the film")
    assert status == 2
    assert "relevance.encoder.tokens" in err


@pytest.mark.parametrize(
    ("task", "text"), [(SEQUENCE, None), (SEQUENCE, "the film"), (MASKED, None), (MASKED, "a [MASK] b")]
)
def test_doctor_certifies_them(run: Run, folders: dict[str, Path], task: str, text: str | None) -> None:
    words = ["--json", *(["-p", text] if text else [])]
    status, out, err = run("doctor", str(folders[task]), *words)
    assert status == 0, err
    certificate = json.loads(out)
    assert certificate["verdict"] == "certified"
    assert certificate["report"]["model"].startswith("BertFor")
    if (task, text) == (MASKED, "a [MASK] b"):
        _, logits = explained(AutoModelForMaskedLM, folders[task], text, LogitDiff(position=2))
        first, second = logits[0, 2].topk(2).values.tolist()
        assert certificate["report"]["explained"] == pytest.approx(first - second, rel=1e-3)


@pytest.mark.parametrize("command", ["graph", "cases", "sweep"])
def test_other_commands_say_that_they_take_causal_models(
    run: Run, folders: dict[str, Path], tmp_path: Path, command: str
) -> None:
    folder = str(folders[SEQUENCE])
    case = {"id": "a", "prompt": "the", "target": {"text": "good"}, "contrast": {"text": "bad"}}
    (tmp_path / "cases.jsonl").write_text(json.dumps(case) + "\n")
    words = {
        "graph": ["graph", folder, "-p", "the film"],
        "cases": ["cases", "find", folder, str(tmp_path / "answers.jsonl"), "-o", str(tmp_path / "x.jsonl")],
        "sweep": ["sweep", str(tmp_path / "cases.jsonl"), "--model", folder, "-o", str(tmp_path / "sweep")],
    }
    (tmp_path / "answers.jsonl").write_text("")
    status, _, err = run(*words[command])
    assert status == 2
    assert f"lrp-hooks {command} takes causal language models only" in err
    assert "names BertForSequenceClassification. do: lrp-hooks attribute" in err


def test_heads_are_read_from_the_config(folders: dict[str, Path], tmp_path: Path) -> None:
    loaded = load_model(str(folders[MASKED]))
    assert (loaded.head, type(loaded.model).__name__) == ("masked-lm", "BertForMaskedLM")
    assert not loaded.model.training
    assert load_model(str(folders[MASKED]), head="masked-lm").head == "masked-lm"
    build("llama", dtype=torch.float32).save_pretrained(tmp_path)
    for head in ("auto", "causal-lm"):
        assert load_model(str(tmp_path), head=head).head == "causal-lm"
    with pytest.raises(ModelLoadError, match=r"LlamaForCausalLM|score.weight"):
        load_model(str(tmp_path), head="sequence-classification")
    with pytest.raises(ModelLoadError, match="the demo model is a causal language model"):
        load_model("demo", head="masked-lm")


@pytest.mark.parametrize(
    ("config", "head"),
    [
        ({"architectures": ["LlamaForCausalLM"]}, "causal-lm"),
        ({"architectures": ["GPT2LMHeadModel"]}, "causal-lm"),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "causal-lm"),
        ({"architectures": ["XForConditionalGeneration"], "auto_map": {"AutoModelForCausalLM": "x.X"}}, "causal-lm"),
        ({"architectures": ["LlamaModel"]}, "causal-lm"),
        ({"architectures": None}, "causal-lm"),
        ({}, "causal-lm"),
        ({"architectures": ["RobertaForMaskedLM"]}, "masked-lm"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "sequence-classification"),
        ({"architectures": ["BertForTokenClassification"]}, "token-classification"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "AutoModelForSeq2SeqLM"),
        ({"architectures": ["ViTForImageClassification"]}, "processor"),
        ({"architectures": ["BertForPreTraining"]}, "names BertForPreTraining, whose head is none of causal-lm"),
    ],
)
def test_the_first_architecture_decides(tmp_path: Path, config: dict[str, Any], head: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if head.endswith(("lm", "classification")) and not head.startswith("names"):
        assert find_head("x", str(tmp_path), {})[0] == head
    else:
        with pytest.raises(ModelLoadError, match=head):
            find_head("x", str(tmp_path), {})


def test_finished_texts_are_encoded_as_the_tokenizer_does(folders: dict[str, Path]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folders[SEQUENCE])
    chat = PromptSource(messages='[{"role": "user", "content": "the film"}]')
    ids = chat.encode(tokenizer)["input_ids"][0].tolist()
    assert chat.encode(tokenizer, next_token=False)["input_ids"][0].tolist() == ids[:-1], "nobody goes on from here"
    assert WORDS[ids[-1]] == "#"
    assert "token_type_ids" in PromptSource("the").encode(tokenizer, next_token=False)
    assert "token_type_ids" not in PromptSource("the").encode(tokenizer)
