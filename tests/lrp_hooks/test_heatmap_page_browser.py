"""The heatmap page in a real browser: the map's cells, the linked scatter, and what hovering says.

Needs Chromium (``chromium`` on the path, or ``$LRP_HOOKS_CHROMIUM``); nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import correlation
from typing import Any

import pytest
from browser import complaints, needs_chromium

from lrp_hooks.render import Heatmap
from lrp_hooks.render.colours import GRAY, PALETTES
from lrp_hooks.render.page import page as heatmap_page
from lrp_hooks.tokens import TokenText

pytestmark = needs_chromium

WORDS = ("<s>", "</script><img src=x onerror=alert(1)>", " Mary", " مرحبا", " gave")
MINUS = "\u2212"
SPECIAL = (True, False, False, False, False)
FIRST = (90.0, 0.25, 2.0, -1.0, 0.5)
SECOND = (-70.0, 1.0, 0.75, -0.5, -2.0)
LAYERS = ((8.0, 0.25, 2.0, -1.0, 0.5), (9.0, -3.0, 0.75, 0.1, 1.5), (7.0, 0.0, 0.0, 0.0, -4.0))


def heatmap(title: str, scores: tuple[float, ...], **changes: Any) -> Heatmap:
    tokens = tuple(
        TokenText(i, word, special=special) for i, (word, special) in enumerate(zip(WORDS, SPECIAL, strict=True))
    )
    return Heatmap(tokens, scores, SPECIAL, title=title, **changes)


@pytest.fixture
def page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Two panels with the same tokens; anything that goes wrong in the page fails the test."""
    path = tmp_path / "page.html"
    panels = [heatmap("attnlrp", FIRST, layers=LAYERS), heatmap("gradient", SECOND)]
    path.write_text(heatmap_page(panels), encoding="utf-8")
    made = browser.new_page(viewport={"width": 1200, "height": 1600})
    wrong = complaints(made)
    made.goto(path.as_uri())
    yield made
    made.close()
    assert not wrong


def hover(page: Any, canvas: str, x: float, y: float) -> str:
    """What the tooltip says at a place of a canvas, in CSS pixels."""
    page.locator(canvas).scroll_into_view_if_needed()
    left, top = page.evaluate(
        f"(() => {{ const b = document.querySelector('{canvas}').getBoundingClientRect(); return [b.left, b.top]; }})()"
    )
    page.mouse.move(left + x, top + y)
    text: str = page.locator("#tip").inner_text()
    return text


def linked(page: Any) -> list[str]:
    """Number of the outlined token, panel by panel."""
    found: list[str] = page.evaluate("[...document.querySelectorAll('.linked')].map((node) => node.dataset.i)")
    return found


def test_every_cell_of_the_map_has_the_colour_of_its_score(page: Any) -> None:
    cells = page.evaluate(
        """() => { const c = document.querySelector('.map-plot canvas');
        const image = c.getContext('2d').getImageData(0, 0, c.width, c.height);
        return [c.width, c.height, [...image.data]]; }"""
    )
    width, height, data = cells
    assert (width, height) == (5, 3)
    palette = PALETTES["red-blue"]
    for row, scores in enumerate(LAYERS):  # the first residual point is the lowest row
        most = max(abs(score) for score, special in zip(scores, SPECIAL, strict=True) if not special)
        for column, score in enumerate(scores):
            at = 4 * ((height - 1 - row) * width + column)
            expected = GRAY if SPECIAL[column] else palette.colour(score / most)
            assert all(abs(a - b) <= 1 for a, b in zip(data[at : at + 3], expected, strict=True)), (row, column)


def test_the_map_says_a_cells_value_and_outlines_its_token(page: Any) -> None:
    wide, high = page.evaluate("data.panels[0].cell")
    words = hover(page, ".map-plot canvas", 1.5 * wide, 1.5 * high)
    assert f"{MINUS}3.000 logits after block 0" in words
    assert linked(page) == ["1", "1"], "in both panels: they have the same tokens"
    words = hover(page, ".map-plot canvas", 0.5 * wide, 2.5 * high)
    assert "+8.000 logits before block 0" in words
    assert "special token: outside the scale" in words
    page.locator(".map-plot canvas").focus()
    page.keyboard.press("End")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert f"{MINUS}4.000 logits after block 1" in page.locator("#tip").inner_text()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.dataset.i") == "4"


def test_the_scatter_places_both_panels_scores(page: Any) -> None:
    dots = {token: (x, y) for x, y, token in page.evaluate("scatter.dots")}
    assert set(dots) == set(range(5))
    size = page.evaluate("scatterCanvas.getBoundingClientRect().width")
    shares = [[score / max(map(abs, scores[1:])) for score in scores] for scores in (FIRST, SECOND)]
    room = dots[2][0] - size / 2  # the largest ordinary score of the first panel is 1 there
    assert room > 100
    for token in range(1, 5):
        expected = (size / 2 + room * shares[0][token], size / 2 - room * shares[1][token])
        assert dots[token] == pytest.approx(expected, abs=0.01)
    assert dots[0] == pytest.approx((size / 2 + 1.03 * room, size / 2 + 1.03 * room)), "outside the scale: at the rim"
    r = correlation(FIRST[1:], SECOND[1:])
    assert f"r = {r:.3f} over 4 tokens" in page.locator("#scatter-words").inner_text()
    page.locator("#special").check()
    assert {token for _, _, token in page.evaluate("scatter.dots")} == {1, 2, 3, 4}


def test_the_scatter_is_linked_with_the_texts(page: Any) -> None:
    x, y = next(dot[:2] for dot in page.evaluate("scatter.dots") if dot[2] == 3)
    words = hover(page, "#scatter-canvas", x, y)
    assert f"attnlrp: {MINUS}1.000 logits" in words
    assert f"gradient: {MINUS}0.5000 logits" in words
    assert linked(page) == ["3", "3"]
    page.locator("section.card .tokens span").nth(2).hover()
    ring = page.evaluate("(() => { const r = scatterCanvas.nextElementSibling; return [r.hidden, r.style.left]; })()")
    assert not ring[0]
    assert float(ring[1].removesuffix("px")) == pytest.approx(
        next(d[0] for d in page.evaluate("scatter.dots") if d[2] == 2), abs=0.01
    )
