"""The explorer in a real browser, as somebody uses it: read, choose, explain, compare, download, come back.

Needs Chromium (``chromium`` on the path, or ``$LRP_HOOKS_CHROMIUM``); nothing is downloaded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium, complaints, needs_chromium
from explorer_client import Client

from lrp_hooks import AttributionGraph
from lrp_hooks.explorer.session import Session
from lrp_hooks.render import output

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as found:
        yield found


@pytest.fixture
def page(browser: Any, tiny_client: Client) -> Iterator[Any]:
    """The explorer, opened by the address that is printed; anything that goes wrong in the page fails the test."""
    made = browser.new_page(viewport={"width": 1300, "height": 1000})
    wrong = complaints(made)
    foreign: list[str] = []
    own = (f"http://{tiny_client.host}/", f"blob:http://{tiny_client.host}/")
    made.on("request", lambda request: None if request.url.startswith(own) else foreign.append(request.url))
    made.goto(tiny_client.address)
    settled(made)
    yield made
    made.close()
    assert not [words for words in wrong if "status of 422" not in words]  # refusals are shown, and tested
    assert not foreign


def settled(page: Any) -> None:
    """Nothing is under way. (The page's policy forbids what Playwright's own waiting for conditions does.)"""
    until(page, "!busy")


def until(page: Any, condition: str) -> None:
    for _ in range(600):
        if page.evaluate(condition):
            return
        time.sleep(0.02)
    raise AssertionError(f"{condition}; {page.locator('#error').inner_text()}")


def ask(page: Any, show: str, prompt: str = "say no more", target: str = "a", contrast: str = "b") -> None:
    page.fill("#prompt-text", prompt)
    page.fill("#target", target)
    page.fill("#contrast", contrast)
    page.click(f"button[value={show}]")
    settled(page)


def rows(page: Any) -> list[list[str]]:
    return [row.locator("td").all_inner_texts() for row in page.locator("#results tbody tr").all()]


def framed(page: Any) -> Any:
    """The frame's content, once it has drawn."""
    for _ in range(500):  # a frame that is on its way to another page has no content
        frame = page.locator("#frame").element_handle().content_frame()
        there = frame is not None and frame.url == page.evaluate("document.getElementById('frame').src")
        if there and frame.locator("#legend .ramp").count():
            return frame
        time.sleep(0.02)
    raise AssertionError("the frame shows nothing")


def test_the_address_loses_its_secret(page: Any, tiny_client: Client) -> None:
    assert page.url == f"http://{tiny_client.host}/"
    assert "tiny-0 · LlamaForCausalLM" in page.locator("#model-words").inner_text()


def test_reading_choosing_and_asking_why(page: Any) -> None:
    page.fill("#prompt-text", "say no more")
    page.press("#prompt-text", "Control+Enter")
    settled(page)
    assert page.locator("#tokens span").all_inner_texts() == list("say no more")
    labels = page.locator("#candidates .word").all_inner_texts()
    assert len(labels) == 12
    page.locator("#candidates [data-side=target]").nth(0).click()
    page.locator("#candidates [data-side=contrast]").nth(4).click()
    assert f"“{labels[4]}”" in page.locator("#contrast-label").inner_text()
    page.click("button[value=heatmap]")
    settled(page)
    (row,) = rows(page)
    assert row[2:4] == ["heatmap", f"logit('{labels[0]}') - logit('{labels[4]}')"]
    frame = framed(page)
    assert frame.locator("#panels .tokens [data-i]").all_inner_texts() == list("say no more")
    assert frame.evaluate("window.origin") == "null"  # a site of its own, whatever it holds
    assert not frame.locator("h1").is_visible()
    until(page, "parseInt(document.getElementById('frame').style.height) > 100")


def test_another_position_has_other_candidates(page: Any) -> None:
    page.click("#read")
    settled(page)
    last = page.locator("#candidates").inner_text()
    page.locator("#tokens span").nth(3).click()
    settled(page)
    assert "After token 3" in page.locator("#candidates-words").inner_text()
    assert page.locator("#candidates").inner_text() != last
    page.click("button[value=heatmap]")
    settled(page)
    assert page.evaluate("state.entries[0].question.position") == 3
    page.fill("#extra", "z")
    page.click("#extra-form button")
    settled(page)
    assert "z" in page.locator("#candidates .word").all_inner_texts()
    page.locator("#candidates button", has_text="write").nth(0).click()
    settled(page)
    assert "choose its last token first" in page.locator("#error").inner_text()
    page.locator("#tokens").press("ArrowRight")
    settled(page)
    assert "After token 4" in page.locator("#candidates-words").inner_text()
    assert not page.locator("#error").is_visible()


def test_the_model_writes_on_and_its_words_are_taken(page: Any) -> None:
    page.fill("#prompt-text", "say no more")
    page.click("#read")
    settled(page)
    page.locator("#candidates button", has_text="write").nth(2).click()
    settled(page)
    said = page.locator("#written-text").inner_text()
    assert said
    page.click("#take")
    settled(page)
    assert page.input_value("#completion") == page.evaluate("document.getElementById('written-text').textContent")
    assert len(page.locator("#tokens span").all()) > 11


def test_graphs_are_drawn_compared_and_brought_back(page: Any) -> None:
    ask(page, "graph")
    ask(page, "graph", target="c")
    assert framed(page).locator("#paths li").count() > 0
    page.locator("#results input").nth(0).check()
    assert page.locator("#compare").is_disabled()
    page.locator("#results input").nth(1).check()
    assert page.locator("#compare").inner_text() == "subtract: 1 \u2212 2"
    page.click("#compare")
    settled(page)
    assert rows(page)[0][2] == "graph, compared"
    assert "(logit('a') - logit('b')) - (logit('c') - logit('b'))" in page.locator("#viewer-title").inner_text()
    assert not page.locator("#again").is_visible()
    page.fill("#prompt-text", "something else")
    page.locator("#results tbody tr").nth(2).click()
    page.click("#again")
    assert page.input_value("#prompt-text") == "say no more"
    assert page.input_value("#target") == "a"
    page.click("#remove")
    settled(page)
    assert [row[1] for row in rows(page)] == ["3", "2"]


def test_heatmaps_are_compared(page: Any) -> None:
    ask(page, "heatmap")
    page.select_option("#composite", "gradient")
    ask(page, "heatmap")
    for box in page.locator("#results input").all():
        box.check()
    page.click("#compare")
    settled(page)
    frame = framed(page)
    assert frame.locator("#panels h2").all_inner_texts() == ["attnlrp", "gradient"]
    assert frame.locator("#scatter").is_visible()


def test_files_go_out_and_come_in(page: Any, tmp_path: Path) -> None:
    ask(page, "graph")
    with page.expect_download() as waiting:
        page.select_option("#download", ".safetensors")
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    settled(page)
    assert path.name == "graph-1.safetensors"
    assert "".join(AttributionGraph.load(path).tokens) == "say no more"
    page.set_input_files("#open-file", path)
    until(page, "state.entries.length === 2 && !busy")
    assert rows(page)[0][2] == "graph, opened"
    framed(page)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    page.set_input_files("#open-file", tmp_path / "broken.safetensors")
    until(page, "!document.getElementById('error').hidden")
    assert "damaged" in page.locator("#error").inner_text()


def test_chats_are_written_turn_by_turn(page: Any) -> None:
    page.check("input[value=chat]")
    page.locator(".turn textarea").fill("say it")
    page.click("text=another message")
    page.locator(".turn").nth(1).locator("select").select_option("assistant")
    page.locator(".turn textarea").nth(1).fill("it")
    page.fill("#completion", "no")
    page.click("#read")
    settled(page)
    texts = page.locator("#tokens span").all_inner_texts()
    assert texts == ["<user>", *"say", " ", *"it", "<user>", *"it", "<answer>", *"no"]
    page.click("button[value=heatmap]")
    settled(page)
    page.check("input[value=text]")
    page.click("#again")
    assert page.is_checked("input[value=chat]")
    assert page.locator(".turn textarea").nth(1).input_value() == "it"


def test_errors_are_shown_and_go_away(page: Any) -> None:
    ask(page, "heatmap", target="ab")
    error = page.locator("#error")
    assert "'ab'" in error.inner_text()
    assert not rows(page)
    ask(page, "heatmap")
    assert not error.is_visible()
    assert len(rows(page)) == 1


def test_work_is_shown_and_stopped(page: Any, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def slowly(_: Any, job: Any) -> None:
        told = job.begin("thinking: thoughts")
        for done in range(10_000):
            told(done, 10_000)
            time.sleep(0.01)

    monkeypatch.setattr(session._ready(), "heatmap", slowly)
    page.click("button[value=heatmap]")
    until(page, "document.getElementById('work-step').textContent.includes('/10,000')")
    assert "thinking: thoughts" in page.locator("#work-step").inner_text()
    assert page.locator("#read").is_disabled()
    page.click("#stop")
    settled(page)
    assert not page.locator("#work").is_visible()
    assert not rows(page)
    assert page.locator("#read").is_enabled()


def test_a_page_that_is_opened_again_shows_what_was_there(page: Any, tiny_client: Client) -> None:
    ask(page, "heatmap")
    framed(page)
    page.select_option("#theme", "dark")
    until(page, "document.getElementById('frame').src.includes('theme=dark')")
    assert framed(page).evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    settled(page)
    assert len(rows(page)) == 1
    framed(page)


def test_hostile_text_is_shown_and_not_run(page: Any, tiny_client: Client, tmp_path: Path) -> None:
    ask(page, "heatmap")
    heatmap = output.load(session_file(tiny_client, tmp_path))[0]
    from dataclasses import replace

    hostile = "</script><img src=x onerror=alert(1)>"
    tokens = (replace(heatmap.tokens[0], text=hostile), *heatmap.tokens[1:])
    path = output.save(replace(heatmap, tokens=tokens, target=hostile, model=hostile), tmp_path / "evil.json")
    page.set_input_files("#open-file", path)
    until(page, "state.entries.length === 2 && !busy")
    assert rows(page)[0][3] == hostile
    assert framed(page).locator("#panels .tokens [data-i]").first.inner_text() == hostile


def session_file(client: Client, folder: Path) -> Path:
    path = folder / "saved.json"
    path.write_bytes(client.ask("GET", "/results/1/download?format=.json")[2])
    return path
