"""The explorer in a real browser, as somebody uses it: read, choose, explain, compare, download, come back.

Needs Chromium (``chromium`` on the path, or ``$LRP_HOOKS_CHROMIUM``); nothing is downloaded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from browser import complaints, needs_chromium
from explorer_client import Client

from lrp_hooks import AttributionGraph
from lrp_hooks.errors import ModelLoadError
from lrp_hooks.explorer.session import Session
from lrp_hooks.render import output

pytestmark = needs_chromium


@pytest.fixture
def page(browser: Any, tiny_client: Client) -> Iterator[Any]:
    """The explorer, opened by the address that is printed; anything that goes wrong in the page fails the test."""
    context = browser.new_context(viewport={"width": 1300, "height": 1000})
    made = context.new_page()
    wrong = complaints(made)
    foreign: list[str] = []
    own = (f"http://{tiny_client.host}/", f"blob:http://{tiny_client.host}/")
    made.on("request", lambda request: None if request.url.startswith(own) else foreign.append(request.url))
    made.goto(tiny_client.address)
    settled(made)
    yield made
    context.close()
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
        shown = page.evaluate("+document.getElementById('frame').dataset.number === state.open")
        frame = page.locator("#frame").element_handle().content_frame()
        if shown and frame is not None and frame.locator("#legend .ramp").count():
            return frame
        time.sleep(0.02)
    raise AssertionError("the frame shows nothing")


def test_the_address_loses_its_secret(page: Any, tiny_client: Client) -> None:
    assert page.url == f"http://{tiny_client.host}/"
    assert tiny_client.secret not in page.content()
    assert page.context.cookies() == []
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


def test_several_contrasts_are_chosen_and_given_back(page: Any) -> None:
    page.click("#read")
    settled(page)
    ids = page.evaluate("state.read.candidates.map((row) => row.id)")
    contrasts = page.locator("#candidates [data-side=contrast]")
    for place in (3, 5, 6, 5):  # the last gives its token back
        contrasts.nth(place).click()
    assert page.input_value("#contrast") == f"#{ids[3]} #{ids[6]}"
    pressed = [i for i, button in enumerate(contrasts.all()) if button.get_attribute("aria-pressed") == "true"]
    assert pressed == [3, 6]
    page.locator("#candidates [data-side=target]").nth(0).click()
    page.locator("#candidates [data-side=target]").nth(1).click()
    assert page.input_value("#target") == f"#{ids[1]}"  # there is one
    page.click("button[value=heatmap]")
    settled(page)
    assert page.evaluate("state.entries[0].question.contrasts") == [f"#{ids[3]}", f"#{ids[6]}"]
    assert "mean logit(" in rows(page)[0][3]
    page.fill("#contrast", "")
    page.click("#again")
    settled(page)
    assert page.input_value("#contrast") == f"#{ids[3]} #{ids[6]}"


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
    until(page, "document.getElementById('candidates-words').textContent.includes('After token 4')")
    settled(page)
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
    assert page.locator("#compare").inner_text() == "subtract: 2 \u2212 1"
    page.click("#compare")
    until(page, "state.entries.length === 3")
    assert rows(page)[0][2] == "graph, compared"
    assert "(logit('c') - logit('b')) - (logit('a') - logit('b'))" in page.locator("#viewer-title").inner_text()
    assert not page.locator("#again").is_visible()
    assert "larger in the first graph" in framed(page).locator("#legend").inner_text()
    page.fill("#prompt-text", "something else")
    page.locator("#results tbody tr").nth(2).click()
    page.click("#again")
    assert page.input_value("#prompt-text") == "say no more"
    assert page.input_value("#target") == "a"
    settled(page)
    page.click("#remove")
    assert page.locator("#remove").inner_text() == "remove the file?"
    assert page.evaluate("state.entries.length") == 3
    page.click("#remove")
    until(page, "state.entries.length === 2")
    assert [row[1] for row in rows(page)] == ["3", "2"]


def test_heatmaps_are_compared(page: Any) -> None:
    ask(page, "heatmap")
    page.select_option("#composite", "gradient")
    ask(page, "heatmap")
    for box in page.locator("#results input").all():
        box.check()
    page.click("#compare")
    until(page, "state.entries.length === 3")
    frame = framed(page)
    assert frame.locator("#panels h2").all_inner_texts() == ["attnlrp", "gradient"]
    assert frame.locator("#scatter").is_visible()


def test_files_go_out_and_come_in(page: Any, tmp_path: Path) -> None:
    ask(page, "graph")
    with page.expect_download() as waiting:
        page.select_option("#download", ".safetensors")
    path = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(path)
    assert path.name == "graph-1.safetensors"
    assert "".join(AttributionGraph.load(path).tokens) == "say no more"
    page.set_input_files("#open-file", path)
    until(page, "state.entries.length === 2")
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
    settled(page)
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

    monkeypatch.setattr(session._engine, "heatmap", slowly)
    page.click("button[value=heatmap]")
    until(page, "document.getElementById('work-step').textContent.includes('/10,000')")
    assert "thinking: thoughts" in page.locator("#work-step").inner_text()
    assert page.locator("#read").is_disabled()
    page.click("#stop")
    settled(page)
    assert not page.locator("#work").is_visible()
    assert not rows(page)
    assert page.locator("#read").is_enabled()


def test_a_frame_follows_the_colours_and_keeps_what_was_set_in_it(page: Any) -> None:
    ask(page, "graph")
    frame = framed(page)
    frame.check("#first")
    page.select_option("#palette", "orange-purple")
    for _ in range(200):
        if frame.evaluate("state.palette") == "orange-purple":
            break
        time.sleep(0.02)
    assert frame.evaluate("[state.palette, state.hideFirst, control('first').checked]") == ["orange-purple", True, True]
    page.locator("#results .word button").first.click()
    assert framed(page).evaluate("state.palette") == "orange-purple"  # and so does the next


def test_a_page_that_is_opened_again_shows_what_was_there(page: Any, tiny_client: Client) -> None:
    ask(page, "heatmap")
    framed(page)
    page.select_option("#theme", "dark")
    for _ in range(200):
        if framed(page).evaluate("document.documentElement.dataset.theme") == "dark":
            break
        time.sleep(0.02)
    else:
        raise AssertionError("the frame stays light")
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
    until(page, "state.entries.length === 2")
    assert rows(page)[0][3] == hostile
    assert framed(page).locator("#panels .tokens [data-i]").first.inner_text() == hostile


def session_file(client: Client, folder: Path) -> Path:
    path = folder / "saved.json"
    path.write_bytes(client.ask("GET", "/results/1/download?format=.json")[2])
    return path


def test_another_tab_without_the_key_is_told_what_to_do(page: Any, tiny_client: Client) -> None:
    other = page.context.new_page()
    other.goto(f"http://{tiny_client.host}/")
    settled(other)
    assert "open the address that `lrp-hooks serve` printed" in other.locator("#error").inner_text()
    other.close()


def test_a_page_on_another_port_learns_and_changes_nothing(page: Any, tiny_client: Client) -> None:
    """The browser's own rules, with an attacker that listens on this machine."""
    seen: list[str] = []
    target = f"http://{tiny_client.host}"

    class Attacker(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(str(self.headers))
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(f"<img src='{target}/results/1'><iframe src='{target}/'></iframe>".encode())

        def log_message(self, *_: Any) -> None:
            pass

    ask(page, "heatmap")
    with ThreadingHTTPServer(("127.0.0.1", 0), Attacker) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        other = page.context.new_page()
        other.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        tried = other.evaluate(
            """async (target) => {
                const said = [];
                for (const [path, options] of [
                    ["/api/state", {}], ["/", {}], ["/api/state", { headers: { authorization: "Bearer x" } }],
                    ["/api/load", { method: "POST", body: "{}" }], ["/api/results/1", { method: "DELETE" }],
                ]) said.push(await fetch(target + path, options).then(() => "read", () => "refused"));
                const blind = { method: "POST", mode: "no-cors", body: '{"name": "tiny-3"}' };
                await fetch(target + "/api/load", blind).catch(() => 0);
                return said;
            }""",
            target,
        )
        assert tried == ["refused"] * 5
        other.close()
        server.shutdown()
    assert not any(tiny_client.secret in headers for headers in seen)
    state = tiny_client.json("GET", "/api/state")
    assert state["model"]["name"] == "tiny-0"
    assert len(state["entries"]) == 1


def test_results_can_be_saved_and_opened_while_the_model_works(
    page: Any, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(page, "heatmap")
    monkeypatch.setattr(
        session._engine, "heatmap", lambda _, job: [(job.check(), time.sleep(0.01)) for _ in range(9000)]
    )
    page.click("button[value=heatmap]")
    until(page, "!document.getElementById('work').hidden")
    with page.expect_download() as waiting:
        page.select_option("#download", ".json")
    waiting.value.save_as(tmp_path / "x.json")
    page.set_input_files("#open-file", tmp_path / "x.json")
    until(page, "state.entries.length === 2")
    page.click("#remove")
    page.click("#remove")
    until(page, "state.entries.length === 1")
    page.click("#stop")
    settled(page)


def test_a_model_that_was_replaced_elsewhere_is_noticed(page: Any, tiny_client: Client) -> None:
    page.click("#read")
    settled(page)
    tiny_client.result("/api/load", {"name": "tiny-3"})
    page.click("button[value=heatmap]")
    settled(page)
    assert "tiny-3 has taken the model's place since" in page.locator("#error").inner_text()
    assert "tiny-3" in page.locator("#model-words").inner_text()
    page.click("#read")
    settled(page)
    page.click("button[value=heatmap]")
    settled(page)
    assert "tiny-3" in page.evaluate("state.entries[0].model")


def test_a_question_that_is_used_again_is_the_same_one(page: Any) -> None:
    page.fill("#prompt-text", "say no more")
    page.click("#read")
    settled(page)
    page.locator("#tokens span").nth(4).click()
    settled(page)
    ask(page, "heatmap")
    page.fill("#prompt-text", "quite another one")
    page.click("#read")
    settled(page)
    page.click("#again")
    settled(page)
    assert "After token 4" in page.locator("#candidates-words").inner_text()
    page.click("button[value=heatmap]")
    settled(page)
    first, second = page.evaluate("state.entries.map((entry) => [entry.value, entry.question.position])")
    assert first == second
    assert first[1] == 4
    assert all(row[6].endswith("say no more · at token 4") for row in rows(page))


def test_candidates_wait_while_another_prompt_stands_in_the_form(page: Any) -> None:
    page.fill("#prompt-text", "say no more")
    page.click("#read")
    settled(page)
    page.fill("#prompt-text", "say no more of it")
    assert page.locator("#stale").is_visible()
    assert page.locator("#candidates button").first.is_disabled()
    page.locator("#tokens span").nth(3).click()
    assert page.evaluate("busy") is False
    assert "After token 10" in page.locator("#candidates-words").inner_text()
    page.fill("#prompt-text", "say no more")
    assert not page.locator("#stale").is_visible()
    assert page.locator("#candidates button").first.is_enabled()


def test_chosen_ids_keep_their_names_where_they_are_not_among_the_first(page: Any) -> None:
    page.fill("#prompt-text", "say no more")
    page.click("#read")
    settled(page)
    page.locator("#candidates [data-side=contrast]").nth(0).click()
    name = page.locator("#contrast-label").inner_text()
    page.fill("#prompt-text", "abc abc abc")
    page.click("#read")
    settled(page)
    assert page.locator("#contrast-label").inner_text() == name
    assert page.locator("#candidates [aria-pressed=true]").count() == 1


def test_arrow_keys_move_at_once_and_ask_when_they_rest(page: Any) -> None:
    page.fill("#prompt-text", "say no more")
    page.click("#read")
    settled(page)
    strip = page.locator("#tokens")
    strip.press("Home")
    for _ in range(3):
        strip.press("ArrowRight")
    assert page.evaluate("state.read.position") == 3
    until(page, "document.getElementById('candidates-words').textContent.includes('After token 3')")
    settled(page)
    assert strip.get_attribute("aria-activedescendant") == "token-3"


def test_fields_that_a_kind_does_not_use_are_not_sent(page: Any) -> None:
    page.fill("#target", "a")
    page.fill("#contrast", "b")
    for kind, target, contrasts in (("logit", "a", []), ("max-logit", None, []), ("logit-diff", "a", ["b"])):
        page.select_option("#kind", kind)
        page.click("button[value=heatmap]")
        settled(page)
        asked = page.evaluate("state.entries.at(-1).question")
        assert (asked["kind"], asked["target"], asked["contrasts"]) == (kind, target, contrasts)


def test_a_wrong_option_of_graphs_is_shown_and_stops_graphs_alone(page: Any) -> None:
    page.evaluate("document.getElementById('top-p').value = '2'")
    page.click("button[value=graph]")
    assert page.locator("#graph-options").get_attribute("open") is not None
    assert not rows(page)
    page.click("button[value=heatmap]")
    settled(page)
    assert len(rows(page)) == 1


def test_errors_are_seen_wherever_the_page_is_scrolled_to(page: Any) -> None:
    ask(page, "graph")
    framed(page)
    page.mouse.wheel(0, 3000)
    page.fill("#target", "ab")
    page.click("button[value=heatmap]")
    settled(page)
    box = page.locator("#error").bounding_box()
    assert 0 <= box["y"] < 200


def test_the_form_survives_a_reload(page: Any) -> None:
    page.fill("#prompt-text", "another prompt")
    page.fill("#completion", "and more")
    page.fill("#target", "z")
    page.select_option("#composite", "cp-lrp")
    page.reload()
    settled(page)
    values = [page.input_value(f"#{name}") for name in ("prompt-text", "completion", "target", "composite")]
    assert values == ["another prompt", "and more", "z", "cp-lrp"]


def test_a_model_that_cannot_be_had_does_not_cost_the_one_that_is_there(page: Any, session: Session) -> None:
    def look(name: str, _: Any) -> None:
        raise ModelLoadError(f"there is no model {name!r} to be had")

    session._look = look
    page.evaluate("document.getElementById('model-change').open = true")
    page.fill("#model-name", "tiny-9")
    page.click("#model-form button")
    settled(page)
    assert "no model 'tiny-9' to be had" in page.locator("#error").inner_text()
    assert "tiny-0" in page.locator("#model-words").inner_text()
    ask(page, "heatmap")
    assert len(rows(page)) == 1


def test_the_keyboard_keeps_its_place(page: Any) -> None:
    page.focus("#read")
    page.keyboard.press("Enter")
    settled(page)
    assert page.evaluate("document.activeElement.id") == "read"
    ask(page, "heatmap")
    ask(page, "heatmap", target="c")
    page.locator("#results .word button").nth(1).focus()
    page.keyboard.press("Enter")
    framed(page)
    assert page.evaluate("document.activeElement.closest('tr').dataset.number") == "1"
    assert page.evaluate("state.open") == 1
