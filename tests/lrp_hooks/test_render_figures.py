"""Static figures: layout, fonts that are missing, and odd heatmaps."""

from __future__ import annotations

import io
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any, Literal

import pytest

from lrp_hooks.errors import LrpError
from lrp_hooks.render import Heatmap, fonts
from lrp_hooks.render.figures import figure, save_figure
from lrp_hooks.render.layout import wrap
from lrp_hooks.tokens import TokenText

Kind = Literal["svg", "png", "pdf"]


def heatmap(words: list[str], layers: bool = True, **changes: Any) -> Heatmap:
    scores = tuple((-1.0) ** i * (i + 1) for i in range(len(words)))
    rows = (scores, scores, scores) if layers else None
    tokens = tuple(TokenText(i, word) for i, word in enumerate(words))
    return Heatmap(tokens, scores, (False,) * len(words), rows, **changes)


def saved(drawn: Heatmap, kind: Kind, **options: Any) -> bytes:
    file = io.BytesIO()
    save_figure([drawn], file, kind, **options)
    return file.getvalue()


def test_words_stay_in_one_line_and_newlines_break() -> None:
    drawn = heatmap(["one", " two", "three", " x\n\n  y", "z"])
    assert [(c.line, c.column) for c in wrap(drawn, 11)] == [(0, 0), (1, 0), (1, 4), (2, 0), (3, 0), (4, 0), (4, 3)]
    assert [c.text for c in wrap(drawn, 11)][3:6] == [" x↵", "↵", "  y"]


def test_a_token_longer_than_a_line_is_cut() -> None:
    cells = wrap(heatmap(["a" * 25]), 10)
    assert [(c.line, c.text) for c in cells] == [(0, "a" * 10), (1, "a" * 10), (2, "a" * 5)]
    assert {c.index for c in cells} == {0}


def test_right_to_left_tokens_are_mirrored_within_their_run() -> None:
    cells = wrap(heatmap(["x", "אב", " גדה", "y"]))
    assert [(c.column, c.rtl) for c in cells] == [(0, False), (5, True), (1, True), (7, False)]


WORDS = ["When", " 東京", " 🦜", " مرحبا", "\n", " $\\frac{a}$", "e\u0301", "\u0301", "\ue000", "कि", "\U000e0041", "₿"]


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
@pytest.mark.parametrize("installed", [True, False])
def test_missing_fonts_are_neither_errors_nor_warnings(
    kind: Kind, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    caches = (fonts._files, fonts.family, fonts.emoji, fonts._emoji_font)
    if not installed:
        monkeypatch.setattr(fonts, "_files", lambda: ())
    for function in caches:
        function.cache_clear()
    try:
        data = saved(heatmap(WORDS, title="東京 🦜 $x_1$", target="logit('京') - logit('🦜')"), kind, title="مرحبا $")
        assert data == saved(
            heatmap(WORDS, title="東京 🦜 $x_1$", target="logit('京') - logit('🦜')"), kind, title="مرحبا $"
        )
        if not installed:
            assert fonts.drawable("a東é") == "a□é"
    finally:
        for function in caches:
            function.cache_clear()
    if kind == "svg":
        assert ET.fromstring(data).tag.endswith("svg")


@pytest.mark.parametrize(
    "drawn",
    [
        Heatmap((), (), ()),
        heatmap(["x"]),
        heatmap([" "], layers=False),
        Heatmap((TokenText(0, "<s>", special=True),), (3.0,), (True,), ((1.0,),)),
        Heatmap((TokenText(0, "a"), TokenText(1, "b")), (0.0, 0.0), (False, False), ((0.0, 0.0),)),
        heatmap([f" w{i}" for i in range(300)], title="long"),
    ],
    ids=["empty", "one", "space", "special", "zero", "long"],
)
def test_odd_heatmaps_can_be_drawn(drawn: Heatmap) -> None:
    assert saved(drawn, "png").startswith(b"\x89PNG\r\n\x1a\n")


def test_text_in_a_pdf_is_text() -> None:
    data = saved(heatmap(["When", " Mary"]), "pdf")
    assert data.startswith(b"%PDF-")
    assert data.rstrip().endswith(b"%%EOF")
    assert re.search(rb"/FontFile2", data), "TrueType, not outlines"


def test_a_figure_is_as_wide_as_its_text() -> None:
    short, long = figure([heatmap(["a"] * 20)]), figure([heatmap([" word"] * 60)])
    assert short.get_figwidth() < long.get_figwidth() < 9


def test_the_palette_is_checked_before_anything_is_drawn() -> None:
    with pytest.raises(LrpError, match="choices: red-blue, orange-purple"):
        figure([heatmap(["a"])], palette="jet")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(LrpError, match=r"pip install 'lrp-hooks\[figures\]'"):
        figure([heatmap(["a"])])


def test_broken_font_files_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "NotoSans-Broken.ttf").write_bytes(b"no font")
    monkeypatch.setattr(fonts, "_files", lambda: (tmp_path / "NotoSans-Broken.ttf",))
    fonts.family.cache_clear()
    try:
        assert fonts.family("東") is None
    finally:
        fonts.family.cache_clear()
