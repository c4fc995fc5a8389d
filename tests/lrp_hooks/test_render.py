"""Heatmaps: scales, colours, every format well-formed, and token text that never becomes markup."""

from __future__ import annotations

import io
import json
import re
import stat
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from lrp_hooks import Relevance
from lrp_hooks.errors import LrpError
from lrp_hooks.render.colours import GROUNDS, PALETTES, palette_by_name, text_colour
from lrp_hooks.render.figures import COLUMNS, wrap
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.render.output import SUFFIXES, save
from lrp_hooks.render.page import fragment, page, script_safe
from lrp_hooks.render.text import print_heatmap
from lrp_hooks.tokens import TokenText

ATTACKS = [
    "</script><img src=x onerror=alert(1)>",
    "<!--",
    "'\"><b>",
    "\u2028$\\frac{a}",
    "{{ 7*7 }}",
    "[red]x[/]",
    "\x1b[31m",
]
WORDS = ["<s>", " Mary", " and", "\n", "東京", "🦜", *ATTACKS]


def heatmap(words: list[str] = WORDS, **changes: object) -> Heatmap:
    tokens = tuple(TokenText(i, word, special=word == "<s>") for i, word in enumerate(words))
    scores = tuple([5.0, 2.0, -0.5, 0.1, 0.0, 0.25, *([0.01] * len(words))][: len(words)])
    layers = tuple(tuple(s * p for s in scores) for p in (1.0, 0.5, -1.0))
    made = Heatmap(
        tokens, scores, tuple(t.special for t in tokens), layers, target="logit('a') - logit('b')", value=6.12
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def relevance(**changes: object) -> Relevance:
    made = Relevance(
        tokens=torch.tensor([[0.0, 1.0, -2.0], [3.0, 4.0, 5.0]]),
        layers=torch.ones(2, 4, 3),
        value=torch.tensor([-1.0, 12.0]),
        attention_mask=torch.tensor([[False, True, True], [True, True, True]]),
        input_ids=torch.tensor([[0, 5, 6], [7, 8, 9]]),
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_row_of_relevance_becomes_a_heatmap_without_padding() -> None:
    first = Heatmap.from_relevance(relevance())
    assert [t.display for t in first.tokens] == ["#5", "#6"]
    assert first.scores == (1.0, -2.0)
    assert first.layers is not None
    assert len(first.layers) == 4
    assert len(first.layers[0]) == 2
    second = Heatmap.from_relevance(relevance(), row=1, first_token_special=True)
    assert second.special == (True, False, False)
    assert [t.display for t in Heatmap.from_relevance(relevance(input_ids=None)).tokens] == ["[0]", "[1]"]
    assert Heatmap.from_relevance(relevance(), layers=False).layers is None
    with pytest.raises(LrpError, match="row 2"):
        Heatmap.from_relevance(relevance(), row=2)


@pytest.mark.parametrize(
    ("normalize", "scale"), [("max", 2.0), ("sum", 2.85 + 0.07), ("signed-sum", 1.85 + 0.07), ("none", 1.0)]
)
def test_special_tokens_lie_outside_the_scale(normalize: str, scale: float) -> None:
    drawn = heatmap(normalize=normalize)
    assert drawn.scale == pytest.approx(scale)
    assert drawn.colours[1] == 1.0
    assert 0 not in drawn.ranked(20)
    assert drawn.ranked(2) == [1, 2]


def test_degenerate_scores_are_no_division_by_zero() -> None:
    assert heatmap(scores=(0.0,) * len(WORDS)).shares == [0.0] * len(WORDS)
    assert heatmap(["<s>"]).scale == 1.0
    assert Heatmap((), (), ()).scale == 1.0
    with pytest.raises(LrpError, match="choices: max, sum, signed-sum, none"):
        heatmap(normalize="l2")
    with pytest.raises(LrpError, match="do not fit"):
        heatmap(scores=(1.0,))
    with pytest.raises(LrpError, match="do not fit"):
        heatmap(layers=((1.0,),))
    with pytest.raises(LrpError, match="3 residual points"):
        heatmap(points=("a",))
    for broken in (float("nan"), float("inf")):
        with pytest.raises(LrpError, match="NaN or infinity"):
            heatmap(scores=(broken,) * len(WORDS))
        with pytest.raises(LrpError, match="NaN or infinity"):
            heatmap(layers=((broken,) * len(WORDS),))


@pytest.mark.parametrize("name", PALETTES)
def test_palettes_are_symmetric_monotone_and_readable(name: str) -> None:
    palette = palette_by_name(name)
    assert palette.colour(0.0) == (255, 255, 255)
    assert palette.colour(1.0) == palette.colour(7.0) == palette.positive
    assert palette.colour(-1.0) == palette.negative
    for ground, neutral in GROUNDS.items():
        assert palette.colour(0.0, ground) == neutral
        shades = [palette.colour(i / 20, ground) for i in range(-20, 21)]
        assert min(contrast(shade, text_colour(shade)) for shade in shades) > 4.5
    for sign in (1, -1):
        sums = [sum(palette.colour(sign * i / 20)) for i in range(21)]
        assert sums == sorted(sums, reverse=True)
        for i in range(21):
            background = palette.colour(sign * i / 20)
            assert contrast(background, text_colour(background)) > 4.5
    with pytest.raises(LrpError, match="orange-purple"):
        palette_by_name("viridis")


def contrast(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """WCAG contrast ratio."""

    def luminance(colour: tuple[int, int, int]) -> float:
        channels = [c / 255 for c in colour]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


class Elements(HTMLParser):
    """Names of the elements and the text of a page."""

    def __init__(self, html: str):
        super().__init__()
        self.names: list[str] = []
        self.urls: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.urls += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_token_text_never_becomes_markup_in_html() -> None:
    whole = Elements(page([heatmap(), heatmap()], title="<b>title</b>"))
    assert "img" not in whole.names
    assert "b" not in whole.names
    assert whole.names.count("script") == 2
    assert whole.urls == []
    piece = Elements(fragment(heatmap(title="<i>x</i>")))
    assert set(piece.names) <= {"div", "bdi", "span", "br"}
    assert "</script><img src=x onerror=alert(1)>" in piece.text
    assert "{{ 7*7 }}" in piece.text
    assert not re.search(r"https?:|//[a-z]+\.", page([heatmap()]))


def test_the_pages_script_writes_text_only() -> None:
    script = page([heatmap()]).rsplit("<script>", 1)[1]
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "fetch("):
        assert forbidden not in script


def test_the_data_block_survives_a_round_trip() -> None:
    html = page([heatmap()])
    block = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert block is not None
    data = json.loads(block.group(1))
    assert data["panels"][0]["tokens"][6] == ATTACKS[0]
    assert json.loads(script_safe(WORDS)) == WORDS
    with pytest.raises(ValueError, match="Out of range"):
        script_safe(float("nan"))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_is_written_whole_and_the_same_twice(suffix: str, tmp_path: Path) -> None:
    first, second = (save([heatmap(), heatmap(title="b")], tmp_path / f"{n}{suffix}").read_bytes() for n in "ab")
    assert first == second
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []
    assert stat.S_IMODE((tmp_path / f"a{suffix}").stat().st_mode) == 0o644
    starts = {".png": b"\x89PNG", ".pdf": b"%PDF-", ".html": b"<!DOCTYPE html>"}
    assert first.startswith(starts.get(suffix, b""))
    if suffix == ".svg":
        assert ET.fromstring(first).tag.endswith("svg")
    if suffix == ".json":
        assert json.loads(first)[0]["scores"][1] == 2.0
    if suffix == ".txt":
        assert b"\x1b" not in first
        assert b"[+100%]" in first


def test_saving_where_it_cannot_be_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(LrpError, match=r"unknown format '\.gif'\. choices: \.html"):
        save(heatmap(), tmp_path / "x.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(LrpError, match=r"cannot write to .*do: choose another folder"):
        save(heatmap(), tmp_path / "file" / "x.html")
    with pytest.raises(LrpError, match="no heatmap"):
        save([], tmp_path / "x.html")


def printed(**options: Any) -> str:
    console = Console(file=io.StringIO(), width=100, **options)
    print_heatmap(heatmap(), console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_terminal_shows_colours_or_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"15;0": "48;2;240;82;82", "0;15": "48;2;178;24;43", "0;default;7": "48;2;178;24;43", "": "48;2;240;82;82"}
    for ground, end in ends.items():
        monkeypatch.setenv("COLORFGBG", ground)
        shown = printed(force_terminal=True, color_system="truecolor")
        assert end in shown
        assert "red: supports the target “a”" in shown
    text = printed(color_system=None)
    assert "[+100%]" in printed(force_terminal=True, color_system="standard"), "16 colours have no tints"
    assert "[+100%]" in printed(force_terminal=True, color_system="truecolor", no_color=True)
    assert " Mary[+100%]" in text
    assert "[red]x[/]" in text, "token text is no console markup"
    assert "\x1b" not in text
    assert re.search(r"1\s+␣Mary\s+1\s+\+2\.000", text)


def test_long_prompts_wrap_and_wide_characters_take_two_cells() -> None:
    cells = wrap(heatmap(["東京"] * 100))
    assert max(cell.column + cell.width for cell in cells) <= COLUMNS
    assert cells[-1].line == (100 * 4 - 1) // COLUMNS
    assert [c.line for c in wrap(heatmap(["a\n", "b"]))] == [0, 1]


def test_a_page_of_twelve_thousand_tokens_stays_small() -> None:
    words = [f" w{i}" for i in range(12_000)]
    scores = tuple(float(i % 17 - 8) for i in range(12_000))
    big = Heatmap(
        tuple(TokenText(i, w) for i, w in enumerate(words)), scores, (False,) * 12_000, (scores,) * 31, value=1.0
    )
    assert len(page([big])) < 4_000_000
