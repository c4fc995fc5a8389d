"""The page of a sweep in a real browser: list, filter, order, one case, and texts that must stay texts.

Needs Chromium (``chromium`` on the path, or ``$LRP_HOOKS_CHROMIUM``); nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, complaints, needs_chromium

from lrp_hooks.cases.schema import Case, CaseToken
from lrp_hooks.cases.sweep.breakdown import Share
from lrp_hooks.cases.sweep.records import Attributed, Piece, Validated
from lrp_hooks.cases.validation.validate import Flip, Validation
from lrp_hooks.render.failures import Report, failures_page

pytestmark = needs_chromium

HOSTILE = "</script><img src=x onerror=alert(1)>"
WORDS = ("say", HOSTILE, " مرحبا", " بالعالم", "\n\n", "\u202eevil")
VALUES = {"a": (3.0, 1.0, 2.0), "b": (-1.0, 4.0, 0.5)}


def report() -> Report:
    """Three cases, two models."""
    names = ("first", "second", HOSTILE)
    cases = [
        Case(
            id=name,
            prompt="".join(WORDS),
            completion="so",
            target=CaseToken(id=7, text=HOSTILE),
            contrast=CaseToken(id=8, text=" it"),
            position=2 - place,
            kind=("one-way", "end", "first")[place],  # type: ignore[arg-type]
            passes=place == 1,
        )
        for place, name in enumerate(names)
    ]
    attributed = [
        Attributed(
            case=name,
            model=model,
            composite=rules,
            value=values[place],
            tokenizer="t",
            shares=(Share(name="query", tokens=6, absolute=1.0, signed=0.2),),
            pieces=tuple(Piece(id=i, text=word) for i, word in enumerate(WORDS)),
            scores=(2.0, -1.0, 0.5, 0.0, 0.1, -0.2),
        )
        for model, values in VALUES.items()
        for rules in ("attnlrp", "gradient")
        for place, name in enumerate(names)
    ]
    flips = (
        Flip(ranking="attnlrp", replacement="neutral", changed=1, passes=False, passed=3, words=(HOSTILE,)),
        Flip(ranking="gradient", replacement="neutral", passes=False, words=("it",)),
    )
    made = Validation(words=5, most=4, flips=flips, until_pass=True, failure=HOSTILE)
    checks = [Validated(case=n, model="a", validation=made) for n in names]
    return Report(cases, attributed, checks)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page, opened; anything that goes wrong in it fails the test."""
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(failures_page(report(), title="Why?"), encoding="utf-8")
    with chromium() as browser:
        made = browser.new_page(viewport={"width": 1200, "height": 900})
        wrong = complaints(made)
        made.goto(path.as_uri())
        yield made
    assert not wrong


def column(page: Any, number: int) -> list[str]:
    texts: list[str] = page.locator(f"#list tbody tr td:nth-child({number})").all_text_contents()
    return texts


def test_cases_are_listed_ordered_and_filtered(page: Any) -> None:
    assert column(page, 1) == ["first", "second", HOSTILE]
    assert column(page, 6) == ["+3.00", "+1.00", "+2.00"]
    page.get_by_role("button", name="difference").click()
    assert column(page, 6) == ["+1.00", "+2.00", "+3.00"]
    page.get_by_role("button", name="difference").click()
    assert column(page, 6) == ["+3.00", "+2.00", "+1.00"]
    page.select_option("#kind", "end")
    assert column(page, 1) == ["second"]
    page.select_option("#kind", "")
    page.fill("#least", "1.5")
    assert column(page, 1) == ["first", HOSTILE]
    page.fill("#least", "")
    page.check("#all")
    assert column(page, 1) == ["second"]
    page.uncheck("#all")
    page.fill("#words", "FIRST")
    assert column(page, 1) == ["first"]
    assert page.text_content("#count") == "1 of 3"
    page.fill("#words", "")


def test_a_case_shows_its_heatmaps_side_by_side(page: Any) -> None:
    page.locator("#list tbody tr", has_text="second").click()
    assert page.locator("#case h2").text_content().startswith("second: why")
    panels = page.locator("#case .panels .tokens")
    assert panels.count() == 2
    shown = panels.nth(0).text_content()
    assert shown.startswith("say" + HOSTILE)
    assert "\u202e" not in shown
    colours = panels.nth(0).locator("span").evaluate_all("nodes => nodes.map(n => n.style.background)")
    assert colours[0] != colours[1] != ""
    assert colours[3] == ""  # no relevance, no colour
    flips = [row.locator("td").all_text_contents() for row in page.locator("#case tr:has(.masked)").all()]
    assert flips == [
        ["neutral", "attnlrp", "1", "more than 4", "no", "3", HOSTILE],
        ["neutral", "gradient", "more than 4", "more than 4", "", "more than 4", "it"],
    ]
    assert page.locator("#case .note").last.text_content() == f"The answers were not judged: {HOSTILE}"
    assert page.locator("#case img").count() == 0


def test_models_and_scatter(page: Any) -> None:
    assert page.locator("#plots canvas").count() == 1
    assert "1 of 3 corrected" in page.locator("#plots .caption").first.text_content()
    page.select_option("#model", "b")
    page.get_by_role("button", name="case").first.click()
    assert sorted(column(page, 6)) == sorted(["\u22121.00", "+4.00", "+0.500"])
    assert page.locator("#case .masked").count() == 0  # model b was not validated
    page.select_option("#model", "a")


def test_keys_walk_through_the_cases(page: Any) -> None:
    rows = page.locator("#list tbody tr")
    rows.nth(0).focus()
    page.keyboard.press("Enter")
    first = page.locator("#case h2").text_content()
    page.keyboard.press("ArrowDown")
    assert page.locator("#case h2").text_content() != first
    assert "open" in rows.nth(1).get_attribute("class")
