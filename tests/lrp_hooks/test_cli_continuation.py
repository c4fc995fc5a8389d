"""``attribute --continuation``: a whole text after the prompt, alone or against another, as in Python."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from lrp_hooks import SequenceLogProb, SequenceLogProbDiff, instrument
from lrp_hooks.cli.continuations import Continuations
from lrp_hooks.cli.inputs import PromptSource

Run = Any


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with printable byte tokens, and one for "ab"."""
    path = tmp_path_factory.mktemp("model")
    build("llama", dtype=torch.float32).save_pretrained(path)
    letters = [c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c.isascii()]
    symbols = [*letters[:93], "Ġ", "ab"]
    raw = Tokenizer(BPE({s: i for i, s in enumerate(symbols)}, [("a", "b")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>").save_pretrained(path)
    return path


def log_p(model: Any, prompt: torch.Tensor, span: torch.Tensor) -> float:
    ids = torch.cat((prompt, span))
    with torch.no_grad():
        scores = model(input_ids=ids[None]).logits[0].log_softmax(-1)
    return sum(float(scores[place - 1, ids[place]]) for place in range(len(prompt), len(ids)))


def test_a_continuation_is_explained_as_in_python(run: Run, folder: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt, span = (tokenizer(text, return_tensors="pt")["input_ids"][0] for text in ("hello", " you"))
    value = log_p(model, prompt, span)
    with instrument(model) as lrp:
        expected = lrp.trace(input_ids=torch.cat((prompt, span))[None]).attribute(SequenceLogProb(len(prompt)))
    out_file = tmp_path / "x.json"
    status, out, err = run("attribute", str(folder), "-p", "hello", "--continuation", " you", "-o", str(out_file))
    assert status == 0, err
    (record,) = json.loads(out_file.read_text())
    assert record["scores"] == pytest.approx(expected.tokens[0].tolist(), rel=1e-5)
    assert record["target"] == "log p(' you')"
    assert record["target_value"] == pytest.approx(value, rel=1e-4)
    assert "next token" not in out
    assert re.search(rf"' you' +4 +{value:.3f}", out)
    assert "supports the target “␣you”" in out


def test_a_continuation_against_another_adds_up_on_the_prompt(run: Run, folder: Path, tmp_path: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    prompt, one, other = (tokenizer(text, return_tensors="pt")["input_ids"][0] for text in ("hello", " you", "!"))
    values = [log_p(model, prompt, span) for span in (one, other)]
    with instrument(model) as lrp:
        expected = lrp.trace_continuations(prompt, one, other).attribute(SequenceLogProbDiff())
    files = [tmp_path / "x.json", tmp_path / "x.html"]
    words = ["-o", str(files[0]), "-o", str(files[1]), "--against", "!"]
    status, out, err = run("attribute", str(folder), "-p", "hello", "--continuation", " you", *words)
    assert status == 0, err
    (record,) = json.loads(files[0].read_text())
    assert record["scores"] == pytest.approx((expected.tokens[0, :5] + expected.tokens[1, :5]).tolist(), rel=1e-4)
    assert record["target"] == "log p(' you') - log p('!')"
    assert record["target_value"] == pytest.approx(values[0] - values[1], rel=1e-4)
    assert "supports the target “␣you”, - supports the contrast “!”" in out
    assert f"' you' {float(expected.tokens[0, 5:].sum()):+.3f}, '!' +0.000" in out
    for text, value, count in ((" you", values[0], 4), ("!", values[1], 1)):
        assert re.search(rf"{re.escape(repr(text))} +{count} +{value:.3f}", out)
    assert "inside the continuations" in files[1].read_text()


REFUSED = {
    "a target": (["--continuation", "x", "-t", "a"], "--continuation explains a text after the prompt, --target one"),
    "contrast": (["--continuation", "x", "-c", "a"], "--contrast one token. do: either; --against"),
    "kind": (["--continuation", "x", "--of", "logit"], "--of one token"),
    "position": (["--continuation", "x", "--position", "1"], "--position one token"),
    "against alone": (["--against", "x"], "--against goes with --continuation"),
    "empty": (["--continuation", ""], "the continuation is empty"),
    "against nothing": (["--continuation", "x", "--against", ""], "the continuation is empty"),
    "the same": (["--continuation", "x", "--against", "x"], "the same text: their difference is 0"),
    "another head": (["--continuation", "x", "--head", "masked-lm"], "not for --head masked-lm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_combinations_are_refused_before_the_model_is_loaded(run: Run, case: str) -> None:
    words, message = REFUSED[case]
    status, _, err = run("attribute", "./nowhere", "-p", "a", *words)
    assert status == 2
    assert message in err
    assert "nowhere" not in err


def test_only_causal_models_continue(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"], "model_type": "bert"}')
    status, _, err = run("attribute", str(tmp_path), "-p", "a", "--continuation", "x")
    assert status == 2
    assert "lrp-hooks attribute --continuation takes causal language models only" in err


def test_a_continuation_begins_at_a_token(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    asked = Continuations.of(PromptSource("xab"), "abx", None, tokenizer)
    assert tokenizer.convert_ids_to_tokens(asked.spans[0]) == ["ab", "x"]
    split = Continuations.of(PromptSource("xa"), "bx", None, tokenizer)
    assert tokenizer.convert_ids_to_tokens(split.prompt) == ["x", "a"]
    assert tokenizer.convert_ids_to_tokens(split.spans[0]) == ["b", "x"], "the prompt keeps its tokens"
    monkeypatch.setattr(sys, "stdin", io.StringIO("typed"))
    typed = Continuations.of(PromptSource("-"), "x", "yz", tokenizer)
    assert [len(typed.prompt), *map(len, typed.spans)] == [5, 1, 2]
