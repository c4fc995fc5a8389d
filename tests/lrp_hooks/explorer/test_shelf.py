"""Results: kept in a folder, taken up again, compared, written in every format."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import safe_open
from safetensors.torch import save

from lrp_hooks.errors import GraphError, InputError, LrpError
from lrp_hooks.explorer.engine import Engine
from lrp_hooks.explorer.forms import Explaining, Prompt
from lrp_hooks.explorer.jobs import Job
from lrp_hooks.explorer.results import GraphResult, HeatmapResult, Result, compared, opened
from lrp_hooks.explorer.shelf import Shelf
from lrp_hooks.graph import io
from lrp_hooks.render.frames import Display

HOSTILE = "</script><script>alert(1)</script>"


def question(text: str = "say no more", **changes: Any) -> Explaining:
    return Explaining(prompt=Prompt(text=text), **{"target": "a", "contrasts": ("b",), **changes})


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny.loaded(0))


def heatmap(engine: Engine, **changes: Any) -> HeatmapResult:
    return HeatmapResult((engine.heatmap(question(**changes), Job(1, "")),))


def graph(engine: Engine, **changes: Any) -> GraphResult:
    (made,) = engine.graphs(question(**changes), Job(1, ""))
    return GraphResult(made)


def open_bytes(name: str, data: bytes, folder: Path) -> Result:
    (folder / "uploaded").write_bytes(data)
    return opened(folder / "uploaded", name)


def test_a_folder_gives_back_what_was_kept_in_it(engine: Engine, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "kept")
    asked = question().model_dump(mode="json")
    shelf.add(heatmap(engine), "explained", asked, 1.25)
    shelf.add(graph(engine), "explained", asked, 0.5)
    shelf.add(heatmap(engine, composite="gradient"), "compared")
    again = Shelf(tmp_path / "kept")
    assert [entry.facts for entry in again] == [entry.facts for entry in shelf]
    assert [entry.result.page(Display()) for entry in again] == [entry.result.page(Display()) for entry in shelf]
    assert again.add(heatmap(engine), "explained").number == 4
    again.remove(2)
    assert [entry.number for entry in Shelf(tmp_path / "kept")] == [1, 3, 4]
    assert not list((tmp_path / "kept").glob("0002*"))
    with pytest.raises(InputError, match="there is no result 2"):
        again.get(2)


def test_damaged_files_hide_no_others(engine: Engine, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for _ in range(4):
        shelf.add(heatmap(engine), "explained", {"a": 1}, 1.0)
    (tmp_path / "0001.json").write_text("{")
    (tmp_path / "0002.question.json").write_text("no JSON")
    (tmp_path / "0003.question.json").unlink()
    (tmp_path / "0009.safetensors").write_bytes(b"\0" * 100)
    (tmp_path / "notes.json").write_text("[]")
    again = Shelf(tmp_path)
    assert [(entry.number, entry.facts["origin"], entry.facts["question"]) for entry in again] == [
        (2, "opened", None),
        (3, "opened", None),
        (4, "explained", {"a": 1}),
    ]
    assert len(again.notes) == 2
    assert "0001.json" in again.notes[0]
    assert "0009.safetensors" in again.notes[1]
    assert again.add(heatmap(engine), "explained").number == 10  # the damaged file is not written over


def test_a_shelf_without_a_folder_writes_nothing(engine: Engine, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shelf = Shelf()
    shelf.add(heatmap(engine), "explained")
    shelf.remove(1)
    assert not list(shelf)
    assert not list(tmp_path.iterdir())


def test_every_format_that_is_offered_can_be_written(engine: Engine, tmp_path: Path) -> None:
    for result in (heatmap(engine), graph(engine)):
        assert len(result.formats) >= 6
        for suffix in result.formats:
            files = result.write(tmp_path / f"x{suffix}", "orange-purple")
            assert files
            assert all(file.stat().st_size for file in files), suffix


def test_heatmaps_are_put_side_by_side_under_what_differs(engine: Engine) -> None:
    both = compared([heatmap(engine), heatmap(engine, composite="gradient")])
    assert isinstance(both, HeatmapResult)
    assert [panel.title for panel in both.heatmaps] == ["attnlrp", "gradient"]
    assert both.facts()["value"] is None
    targets = compared([heatmap(engine), heatmap(engine, target="c")])
    assert isinstance(targets, HeatmapResult)
    assert [panel.title for panel in targets.heatmaps] == ["logit('a') - logit('b')", "logit('c') - logit('b')"]
    texts = compared([heatmap(engine), heatmap(engine, text="another")])
    assert isinstance(texts, HeatmapResult)
    assert [panel.title for panel in texts.heatmaps] == ["say no more", "another"]
    three = compared([both, targets])
    assert isinstance(three, HeatmapResult)
    assert len(three.heatmaps) == 4


def test_graphs_are_subtracted(engine: Engine) -> None:
    first, second = graph(engine, node_threshold=0, top_p=1), graph(engine, target="c", node_threshold=0, top_p=1)
    result = compared([first, second])
    assert isinstance(result, GraphResult)
    difference = result.graph.relevance - (first.graph.relevance - second.graph.relevance)
    assert float(difference.abs().max()) == 0
    assert result.facts()["value"] == first.graph.about["value"] - second.graph.about["value"]
    for wrong in ([first, heatmap(engine)], [first, second, first]):
        with pytest.raises(InputError, match="two graphs, which are subtracted"):
            compared(wrong)
    with pytest.raises(GraphError, match="the graphs differ"):
        compared([first, graph(engine, text="something else")])


class Evil:
    def __reduce__(self) -> Any:
        return (print, ("executed",))


DEEP = b"[" * 200_000
HEATMAP = b'[{"format": "lrp_hooks.heatmap/1", "tokens": [], "scores": [], "special": [], "value": %s}]'


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.pt", b""),
        ("x.json", DEEP),
        ("x.json", HEATMAP % b"1e999"),
        ("x.json", HEATMAP % (b"1" + b"0" * 400)),
        ("x.json", HEATMAP % b"NaN"),
        ("x.json", HEATMAP % b'"5"'),
        ("x.json", HEATMAP % b'0, "model": 5'),
        ("x.json", HEATMAP % b'0, "title": "\\ud800"'),
        ("x.json", HEATMAP.replace(b'"scores": []', b'"scores": [1e308]') % b"0"),
        ("x.safetensors", pickle.dumps(Evil())),
        ("x.safetensors", b""),
        ("x.json", pickle.dumps(Evil())),
        ("x.json", b"[]"),
        ("x.json", b"[1]"),
        ("x.json", b'[{"format": "lrp_hooks.heatmap/1"}]'),
        ("../../x.json", b"\xff\xfe"),
        ("", b""),
    ],
)
def test_foreign_files_are_refused_in_words(
    name: str, data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError) as refused:
        open_bytes(name, data, tmp_path)
    assert str(tmp_path) not in str(refused.value)  # the user's own name for it
    assert not capsys.readouterr().out


def test_hostile_text_in_a_file_stays_text(engine: Engine, tmp_path: Path) -> None:
    heatmap(engine).write(tmp_path / "x.json", "red-blue")
    records = json.loads((tmp_path / "x.json").read_text())
    for name in ("title", "model", "composite", "target"):
        records[0][name] = HOSTILE
    records[0]["tokens"][0]["text"] = HOSTILE
    result = open_bytes("x.json", json.dumps(records).encode(), tmp_path)
    page = result.page(Display())
    assert HOSTILE not in page
    assert page.count("<script") == 2
    assert HOSTILE in str(result.facts())  # as JSON; the page writes it with textContent


def corrupt(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> bytes:
    """A saved graph with its header and tensors changed."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()[io.FORMAT])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    change(header, tensors)
    return save({name: x.contiguous() for name, x in tensors.items()}, {io.FORMAT: json.dumps(header)})


CORRUPTIONS: dict[str, Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]] = {
    "value is NaN": lambda h, _: h["about"].update(value=float("nan")),
    "value is no number": lambda h, _: h["about"].update(target_value="x"),
    "value is too long a number": lambda h, _: h["about"].update(value=10**400),
    "position is infinite": lambda h, _: h.update(position=float("inf")),
    "position is outside": lambda h, _: h.update(position=99),
    "a loop": lambda _, t: t.update(below=t["above"].clone()),
    "edges that lead down": lambda _, t: t.update(below=t["above"], above=t["below"]),
    "points that fall": lambda h, _: h.update(points=h["points"][::-1]),
    "points that are NaN": lambda h, _: h.update(points=[float("nan")] * len(h["points"])),
    "two-dimensional edges": lambda _, t: t.update({n: x[:, None] for n, x in t.items() if x.dim() == 1}),
    "weights that are NaN": lambda _, t: t["weight"].fill_(float("nan")),
    "weights that are complex": lambda _, t: t.update(weight=t["weight"].to(torch.complex64)),
    "weights of yes and no": lambda _, t: t.update(weight=t["weight"] > 0),
    "columns that are no indices": lambda _, t: t.update(source=t["source"].float()),
    "ids in two dimensions": lambda _, t: t.update(input_ids=t["input_ids"][None]),
    "no points": lambda h, t: (h.update(points=[]), t.update(relevance=t["relevance"][:0])),
    "tokens that are numbers": lambda h, _: h.update(tokens=list(range(len(h["tokens"])))),
    "segments with a gap": lambda h, _: h.update(
        segments=[{"name": "a", "start": 2 * i, "stop": 2 * i + 1} for i in range(len(h["tokens"]))]
    ),
    "too few segments": lambda h, _: h.update(segments=[{"name": "a", "start": 0, "stop": 99}]),
    "a segment of a huge size": lambda h, _: h.update(segments=[{"name": "a", "start": 0, "stop": 10**400}]),
    "transitions that are text": lambda h, _: h.update(transitions=["x"]),
    "another version": lambda h, _: h.update(version=99),
    "no version": lambda h, _: h.pop("version"),
    "about is a list": lambda h, _: h.update(about=[]),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_graphs_that_are_none_are_refused_and_hide_no_others(name: str, engine: Engine, tmp_path: Path) -> None:
    good = graph(engine)
    good.write(tmp_path / "good.safetensors", "red-blue")
    data = corrupt(tmp_path / "good.safetensors", CORRUPTIONS[name])
    with pytest.raises(InputError):
        open_bytes("x.safetensors", data, tmp_path)
    folder = tmp_path / "kept"
    Shelf(folder).add(good, "explained")
    (folder / "0002.safetensors").write_bytes(data)
    shelf = Shelf(folder)
    assert [entry.number for entry in shelf] == [1]
    assert len(shelf.notes) == 1


def test_what_stands_beside_a_result_may_be_nonsense(engine: Engine, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    beside = b'{"origin": "a", "question": {"x": %s}, "seconds": %s}'
    for data in (DEEP, b"[]", beside % (b"NaN", b"1"), beside % (b'"\\ud800"', b"1"), beside % (b"1", b'"x"')):
        number = shelf.add(heatmap(engine), "explained").number
        (tmp_path / f"{number:04}.question.json").write_bytes(data)
    again = Shelf(tmp_path)
    assert [entry.number for entry in again] == [1, 2, 3, 4, 5]
    assert not again.notes
    assert {(entry.facts["origin"], entry.facts["question"], entry.facts["seconds"]) for entry in again} == {
        ("opened", None, None)
    }


def test_what_cannot_be_written_is_not_there(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf, result = Shelf(tmp_path), heatmap(engine)

    def full(*_: Any) -> None:
        raise LrpError("no space left")

    monkeypatch.setattr(HeatmapResult, "write", full)
    with pytest.raises(LrpError, match="no space left"):
        shelf.add(result, "explained")
    assert not list(shelf)


def test_a_folder_that_is_none_is_an_error_and_a_new_one_is_private(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot keep results"):
        Shelf(tmp_path / "file")
    Shelf(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o077 == 0
