"""The command line on a tiny model: every source of prompts, every kind of error, one line each."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from families import build
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama with 97 printable byte tokens."""
    path = tmp_path_factory.mktemp("model")
    build("llama", dtype=torch.float32).save_pretrained(path)
    symbols = [c for c in sorted(pre_tokenizers.ByteLevel.alphabet()) if c.isascii()] + ["Ġ"]
    raw = Tokenizer(BPE({s: i for i, s in enumerate(symbols[:95])}, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>")
    tokenizer.chat_template = "{% for m in messages %}<|end|>{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(path)
    return path


def test_a_prompt_is_explained_and_saved(run: Any, folder: Path, tmp_path: Path) -> None:
    files = [str(tmp_path / f"x{s}") for s in (".html", ".json")]
    words = ["attribute", str(folder), "-p", "hello", "-t", "a", "-c", "b", "--compare", "cp-lrp"]
    status, out, err = run(*words, "-o", files[0], "-o", files[1])
    assert status == 0, err
    assert "logit('a') - logit('b')" in out
    assert "next token" in out
    panels = json.loads(Path(files[1]).read_text())
    assert [panel["composite"] for panel in panels] == ["attnlrp", "cp-lrp"]
    assert len(panels[0]["scores"]) == 5
    assert f"wrote {files[0]}" in err


@pytest.mark.parametrize(
    "words",
    [
        ["--ids", "5, 6 7", "-t", "#3", "-c", "rank:2", "-c", "#9"],
        ["--messages", '[{"role": "user", "content": "hello"}]'],
        ["-p", "hello", "--completion", "world", "--position", "-3"],
        ["-p", "hello", "--of", "log-prob", "-t", "a"],
        ["-p", "hello", "--of", "max-logit", "--composite", "gradient"],
        ["-p", "hello", "--of", "topk-mean-logit", "--normalize", "sum", "--first-token-special"],
    ],
)
def test_other_ways_to_ask(run: Any, folder: Path, words: list[str]) -> None:
    status, out, err = run("attribute", str(folder), *words)
    assert status == 0, err
    assert "relevance" in out


def test_prompts_from_files_and_standard_input(
    run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import io

    (tmp_path / "prompt.txt").write_text("from a file")
    (tmp_path / "chat.json").write_text('[{"role": "user", "content": "hello"}]')
    for words in (["--prompt-file", str(tmp_path / "prompt.txt")], ["--messages", str(tmp_path / "chat.json")]):
        assert run("attribute", str(folder), *words)[0] == 0
    monkeypatch.setattr(sys, "stdin", io.StringIO("typed"))
    assert run("attribute", str(folder), "-p", "-")[0] == 0


ERRORS = {
    "no prompt": ([], "exactly one of --prompt"),
    "two prompts": (["-p", "a", "--ids", "1"], "got prompt, ids"),
    "empty prompt": (["-p", ""], "the prompt is empty"),
    "no ids": (["--ids", ","], "the prompt is empty"),
    "words as ids": (["--ids", "a"], "--ids takes whole numbers"),
    "unknown token": (["-p", "a", "-t", "xyz"], "'xyz' is 3 tokens: ['x', 'y', 'z']"),
    "same tokens": (["-p", "a", "-t", "b", "-c", "b"], "same token"),
    "unknown target": (["-p", "a", "--of", "logits"], "unknown target 'logits'. choices: logit,"),
    "contrast without difference": (["-p", "a", "--of", "logit", "-c", "b"], "a contrast goes with logit-diff"),
    "bad rank": (["-p", "a", "-c", "rank:x"], "a rank is written rank:1"),
    "unknown composite": (["-p", "a", "--composite", "x"], "choices: attnlrp, cp-lrp, gradient"),
    "unknown palette": (["-p", "a", "--palette", "x"], "choices: red-blue, orange-purple"),
    "unknown normalization": (["-p", "a", "--normalize", "x"], "choices: max, sum"),
    "unknown format": (["-p", "a", "-o", "x.gif"], "unknown format '.gif'"),
    "missing file": (["--prompt-file", "nowhere.txt"], "cannot read the prompt from nowhere.txt"),
    "broken messages": (["--messages", "[{]"], "--messages is no JSON"),
    "wrong messages": (["--messages", "[1]"], '[{"role": "user"'),
    "far position": (["-p", "a", "--position", "9"], "position 9 is outside the 1 tokens"),
    "too long": (["-p", "a" * 65], "65 tokens, the model's maximum is 64"),
    "bad checkpoint option": (["-p", "a", "--checkpoint", "maybe"], "choices: auto, on, off"),
    "no rows": (["-p", "a", "--top", "0"], "--top must be at least 1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_input_is_one_clear_line(run: Any, folder: Path, case: str) -> None:
    words, message = ERRORS[case]
    status, _, err = run("attribute", str(folder), *words)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_ids_work_without_a_tokenizer(run: Any, tmp_path: Path) -> None:
    build("llama", dtype=torch.float32).save_pretrained(tmp_path)
    status, out, _ = run("attribute", str(tmp_path), "--ids", "5,6,7", "-t", "#3", "-c", "#4")
    assert status == 0
    assert "logit('#3') - logit('#4')" in out
    status, _, err = run("attribute", str(tmp_path), "-p", "hello")
    assert status == 2
    assert "no tokenizer" in err
    assert run("doctor", str(tmp_path))[0] == 0


def test_doctor_reports_and_its_status_is_for_ci(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = run("doctor", str(folder), "-p", "hello")
    assert status == 0
    assert "verdict certified" in re.sub(r"\s+", " ", out)
    assert "constant of o_proj" in out
    assert "model.layers.1.mlp.act_fn" not in out
    load = AutoModelForCausalLM.from_pretrained

    def with_leak(*args: Any, **kwargs: Any) -> Any:
        model = load(*args, **kwargs)
        model.model.layers[1].input_layernorm = nn.Sequential(model.model.layers[1].input_layernorm, Leak())
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", with_leak)
    status, out, _ = run("doctor", str(folder), "--json")
    assert status == 1
    refusal = json.loads(out)
    assert (refusal["verdict"], refusal["path"], refusal["class"]) == (
        "refused",
        "model.layers.1.input_layernorm.1",
        "Leak",
    )
    status, out, _ = run("doctor", str(folder), "--unknown", "gradient", "--json")
    assert status == 1
    certificate = json.loads(out)
    assert certificate["verdict"] == "refused", "the ledger sees the leak even when it is let through"
    assert certificate["leak"] == "model.layers.1.input_layernorm.1"
    assert certificate["report"]["accepted"]
    status, _, err = run("attribute", str(folder), "-p", "a")
    assert status == 2
    assert "Leak" in err


def test_doctor_lists_every_module_and_every_point(run: Any, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    paths = [path or "<root>" for path, _ in model.named_modules()]
    status, out, _ = run("doctor", str(folder), "-p", "hello", "--all")
    assert status == 0
    listed = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    assert set(paths) <= set(listed)
    assert listed["model.layers.1.self_attn.q_proj"] == ["model.layers.1.self_attn.q_proj", "Linear"]
    assert listed["model.layers.1.input_layernorm"][1:3] == ["LlamaRMSNorm", "norm"]
    ledger = out[out.index("residual point") :].splitlines()[1:5]
    assert [line.split()[0] for line in ledger] == ["0", "1", "2", "3"]
    status, out, _ = run("doctor", str(folder), "-p", "hello", "--json")
    report = json.loads(out)["report"]
    assert list(dict.fromkeys(row["path"] for row in report["modules"])) == paths
    roles = {row["path"]: row["role"] for row in report["modules"]}
    assert (roles["lm_head"], roles["model.norm"], roles["model.layers.0.mlp"]) == ("", "norm", "gated")
    assert sum(row["count"] for row in report["sites"]) == sum(bool(row["role"]) for row in report["modules"])
    assert [row["point"] for row in report["ledger"]] == [0, 1, 2, 3]


class Leak(nn.Module):
    """Mixes neighbours by a function that no rule knows."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.atan(x.roll(1, -1))


def test_a_graph_is_made_printed_and_saved(run: Any, folder: Path, tmp_path: Path) -> None:
    from lrp_hooks import AttributionGraph

    names = [
        f"g{s}" for s in (".safetensors", ".html", ".png", ".svg", ".graphml", ".csv", ".parquet", ".circuit.json")
    ]
    outputs = [word for name in names for word in ("-o", str(tmp_path / name))]
    status, out, err = run("graph", str(folder), "-p", "hello", "-t", "a", "-c", "b", "--paths", "2", *outputs)
    assert status == 0, err
    assert "logit('a') - logit('b')" in out
    assert re.search(r"\d+\.\d\d%\s+'.'@\d \[", out)
    assert {p.name for p in tmp_path.glob("g*")} == {*names, "g.nodes.csv", "g.nodes.parquet"}
    graph = AttributionGraph.load(tmp_path / "g.safetensors")
    assert len(graph.tokens) == 5
    assert graph.about["target"] == "logit('a') - logit('b')"
    assert graph.about["model"] == folder.name
    assert graph.about["origin"]["name"] == graph.about["origin"]["tokenizer"] == str(folder)
    status, again, err = run("graph", str(tmp_path / "g.safetensors"), "--paths", "2", "--metrics")
    assert status == 0, err
    assert again.startswith(out)
    assert re.search(r"point\s+nodes\s+edges", again)
    status, _, err = run("graph", str(tmp_path / "g.safetensors"), "-p", "hello")
    assert status == 2
    assert "a saved graph has its own prompt" in err


def test_all_metrics_of_a_graph_are_written(run: Any, folder: Path, tmp_path: Path) -> None:
    from lrp_hooks import AttributionGraph
    from lrp_hooks.graph.metrics import Metrics, graph_metrics, graph_summary

    files = [tmp_path / name for name in ("g.safetensors", "m.csv", "m.json")]
    outputs = ["-o", str(files[0]), "--metrics-out", str(files[1]), "--metrics-out", str(files[2])]
    status, _, err = run("graph", str(folder), "-p", "hello", "-t", "a", "-c", "b", *outputs)
    assert status == 0, err
    graph = AttributionGraph.load(files[0])
    names = [field.name for field in fields(Metrics)]
    with files[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    written = json.loads(files[2].read_text())
    assert (len(rows), len(written["points"])) == (4, 4)
    for row, record, point in zip(rows, written["points"], graph_metrics(graph), strict=True):
        assert float(row["point"]) == record["point"] == point.point
        assert int(row["hub_count"]) == len(point.hubs)
        assert [tuple(hub) for hub in record["hubs"]] == list(point.hubs)
        for name in set(names) - {"hubs"}:
            value = getattr(point, name)
            assert record[name] == value
            assert row[name] == ("" if value is None else str(value))
    assert written["graph"]["point_count"] == 4
    assert written["graph"]["gini_relevance"] == graph_summary(graph).gini_relevance
    assert written["about"]["target"] == graph.about["target"]


@pytest.mark.parametrize(("kind", "words"), [("logit", "logit('a')"), ("log-prob", "log p('a')")])
def test_a_graph_explains_what_attribute_explains(
    run: Any, folder: Path, tmp_path: Path, kind: str, words: str
) -> None:
    from lrp_hooks import AttributionGraph

    file = tmp_path / "g.safetensors"
    status, out, err = run("graph", str(folder), "-p", "hello", "-t", "a", "--of", kind, "-o", str(file))
    assert status == 0, err
    assert AttributionGraph.load(file).about["target"] == words
    status, attributed, _ = run("attribute", str(folder), "-p", "hello", "-t", "a", "--of", kind)
    assert out.splitlines()[0] in attributed


def test_a_graph_of_chosen_points_and_segments(run: Any, folder: Path, tmp_path: Path) -> None:
    from lrp_hooks import AttributionGraph

    file = tmp_path / "g.safetensors"
    words = ["graph", str(folder), "-p", "hello", "-t", "a", "-c", "b", "-o", str(file), "--node-threshold", "0"]
    for options, check in (
        (["--segments", "2"], lambda graph: [len(s) for s in graph.segments] == [2, 2, 1]),
        (["--points", "0,0.5,3"], None),
        (["--points", "0,1.5,2,3"], lambda graph: graph.points == (0, 1.5, 2, 3)),
        (["--mid", "--detail"], lambda graph: len(graph.points) == 7 and graph.detail is not None),
    ):
        status, _, err = run(*words, *options)
        if check is None:
            assert (status, "leaves its block" in " ".join(err.split())) == (2, True)
        else:
            assert status == 0, err
            assert check(AttributionGraph.load(file))


def test_a_page_of_a_large_graph_shows_sentences_first(
    run: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lrp_hooks import AttributionGraph
    from lrp_hooks.render import graph_layout

    out = [str(tmp_path / name) for name in ("g.html", "g.safetensors")]
    words = ["graph", str(folder), "-p", "one. two.", "-t", "a", "-c", "b", "-o", out[0], "-o", out[1]]
    assert run(*words)[0] == 0
    assert not (tmp_path / "g.tokens.html").exists()
    monkeypatch.setattr(graph_layout, "SMOOTH_EDGES", 0)
    status, _, err = run(*words)
    assert status == 0, err
    assert "g.html (2 segments per point)" in " ".join(err.split())
    assert (tmp_path / "g.tokens.html").exists()
    assert AttributionGraph.load(out[1]).segments is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--top-p", "2"], "must lie in (0, 1]"),
        (["--node-unit", "x"], "choices: logits, value, layer"),
        (["-o", "x.docx"], "choices: .safetensors, .html"),
        (["--metrics-out", "x.xlsx"], "metrics have no format '.xlsx'. choices: .json, .csv"),
        (["--palette", "pink"], "choices: red-blue"),
        (["--segments", "words"], "choices: sentences, or a number"),
        (["--of", "guess"], "unknown target 'guess'. choices: logit, max-logit"),
        (["--of", "logit", "-c", "b"], "a contrast goes with logit-diff"),
        (["--points", "a,b"], "numbers separated by commas"),
        (["--node-threshold", "1e9"], "no edge is left with node_threshold"),
    ],
)
def test_impossible_graphs_exit_with_the_reason(run: Any, folder: Path, words: list[str], message: str) -> None:
    status, _, err = run("graph", str(folder), "-p", "hello", *words)
    assert status == 2
    assert message in err


def test_bench_needs_the_repository_and_names_its_suites(run: Any, tmp_path: Path) -> None:
    from lrp_hooks.cli import bench
    from lrp_hooks.errors import InputError

    with pytest.raises(InputError, match="in the repository, not in the package"):
        bench.run((), smoke=True, folder=tmp_path)
    assert run("bench", "everything")[0] == 2


def test_version_and_help(run: Any) -> None:
    status, out, _ = run("--version")
    assert status == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\s*", out)
    assert "attribute" in run("--help")[1]
