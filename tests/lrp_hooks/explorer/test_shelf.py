"""Results: kept in a folder, taken up again, compared, written in every format."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny

from lrp_hooks.errors import GraphError, InputError, LrpError
from lrp_hooks.explorer.engine import Engine
from lrp_hooks.explorer.forms import Explaining, Prompt
from lrp_hooks.explorer.jobs import Job
from lrp_hooks.explorer.results import GraphResult, HeatmapResult, compared, opened
from lrp_hooks.explorer.shelf import Shelf
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


def test_a_folder_gives_back_what_was_kept_in_it(engine: Engine, tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "kept")
    asked = question().model_dump(mode="json")
    shelf.add(heatmap(engine), "explained", asked, 1.25)
    shelf.add(graph(engine), "explained", asked, 0.5)
    shelf.add(heatmap(engine, composite="gradient"), "compared")
    again = Shelf(tmp_path / "kept")
    assert [entry.facts() for entry in again] == [entry.facts() for entry in shelf]
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
    assert [(entry.number, entry.origin, entry.question) for entry in again] == [
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


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("x.pt", b""),
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
def test_foreign_files_are_refused_in_words(name: str, data: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(LrpError):
        opened(name, data)
    assert not capsys.readouterr().out


def test_hostile_text_in_a_file_stays_text(engine: Engine, tmp_path: Path) -> None:
    heatmap(engine).write(tmp_path / "x.json", "red-blue")
    records = json.loads((tmp_path / "x.json").read_text())
    for name in ("title", "model", "composite", "target"):
        records[0][name] = HOSTILE
    records[0]["tokens"][0]["text"] = HOSTILE
    result = opened("x.json", json.dumps(records).encode())
    page = result.page(Display())
    assert HOSTILE not in page
    assert page.count("<script") == 2
    assert HOSTILE in str(result.facts())  # as JSON; the page writes it with textContent
