"""Saving and loading heatmaps, and the lazy package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

import lrp_hooks.render
from lrp_hooks import Relevance
from lrp_hooks.errors import LrpError
from lrp_hooks.render import Heatmap, load, save
from lrp_hooks.tokens import TokenText

DRAWN = Heatmap(
    (TokenText(5, "你", 1, 2, "你"), TokenText(6, "", 2, 2, "你"), TokenText(7, "<s>", special=True)),
    (1.5, -0.25, 3.0),
    (False, False, True),
    ((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)),
    normalize="sum",
    title="t",
    target="logit('a') - logit('b')",
    value=2.0,
    target_value=1.5,
    points=("embedding", "block 0"),
)


def test_a_saved_heatmap_is_loaded_as_it_was(tmp_path: Path) -> None:
    for drawn in (DRAWN, Heatmap((), (), ())):
        (loaded,) = load(save(drawn, tmp_path / "x.json"))
        for field in fields(Heatmap):
            assert getattr(loaded, field.name) == getattr(drawn, field.name)


@pytest.mark.parametrize(
    "text", ["", "{}", "[1]", "[{}]", '[{"format": "lrp_hooks.heatmap/9"}]', '[{"format": "lrp_hooks.heatmap/1"}]']
)
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(LrpError, match=r"holds no heatmaps of lrp_hooks\.heatmap/1"):
        load(tmp_path / "x.json")


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(LrpError, match=r"cannot read .*nowhere\.json"):
        load(tmp_path / "nowhere.json")


def test_suffixes_may_be_capitals(tmp_path: Path) -> None:
    assert save(DRAWN, tmp_path / "X.JSON").read_text().startswith("[")


def test_a_bad_palette_leaves_no_file(tmp_path: Path) -> None:
    for suffix in (".json", ".html", ".png"):
        with pytest.raises(LrpError, match="unknown palette 'jet'"):
            save(DRAWN, tmp_path / f"x{suffix}", palette="jet")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(DRAWN, tmp_path / "x.json")
    before = path.read_bytes()

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(LrpError, match="No space left on device"):
        save(DRAWN, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.html").mkdir()
    with pytest.raises(LrpError, match="cannot write"):
        save(DRAWN, tmp_path / "x.html")
    assert [p.name for p in tmp_path.iterdir()] == ["x.html"]


def test_points_inside_blocks_come_between_their_ends() -> None:
    relevance = Relevance(
        tokens=torch.zeros(1, 2),
        layers=torch.tensor([[[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]]]),
        mid=torch.tensor([[[1.0, 1.0], [3.0, 3.0]]]),
        value=torch.zeros(1),
        attention_mask=torch.ones(1, 2, dtype=torch.bool),
    )
    drawn = Heatmap.from_relevance(relevance, mid=True)
    assert drawn.layers == tuple((float(v),) * 2 for v in range(5))
    assert drawn.point_names[1] == "inside block 0, after attention"
    assert drawn.rows_per_block == 2
    assert Heatmap.from_relevance(relevance).rows_per_block == 1


def test_importing_draws_in_nothing_and_names_resolve() -> None:
    code = """
import sys, lrp_hooks.render, lrp_hooks.tokens, lrp_hooks.render.heatmap, lrp_hooks.render.output
assert not {"torch", "transformers", "matplotlib", "jinja2", "rich", "numpy", "PIL"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in dir(lrp_hooks.render):
        assert getattr(lrp_hooks.render, name) is getattr(lrp_hooks.render, name)
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        lrp_hooks.render.paint  # noqa: B018


def test_records_name_their_format(tmp_path: Path) -> None:
    (record,) = json.loads(save(DRAWN, tmp_path / "x.json").read_text())
    assert record["format"] == "lrp_hooks.heatmap/1"
    assert [token["display"] for token in record["tokens"]] == ["你", "·", "<s>"]
