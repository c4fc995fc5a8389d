"""Graphs inside the page of a sweep, in a real browser: drawn when in sight, in a frame that can do no harm.

Needs Chromium (``chromium`` on the path, or ``$LRP_HOOKS_CHROMIUM``); nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import chromium, complaints, needs_chromium

from lrp_hooks.cases.schema import Case, CaseToken
from lrp_hooks.cases.sweep.records import Attributed, Piece
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.render import failures_graphs, frames
from lrp_hooks.render.failures import Report, failures_page

pytestmark = needs_chromium

HOSTILE = "</script><img src=x onerror=alert(1)>"
TOKENS = ("say", HOSTILE, "<!--<script>alert(2)", "\u202eevil", " it")
CASES = 20
FOREIGN = "https://example.org/"


def graph(edges: int) -> AttributionGraph:
    """Every token stays where it is over two transitions, and sends to the last one; the first ``edges`` of those."""
    ends = [(row, i, t) for row in range(2) for i in range(5) for t in sorted({i, 4})][:edges]
    below, source, target = (torch.tensor([end[k] for end in ends], dtype=torch.int64) for k in range(3))
    relevance = torch.linspace(-1, 2, 15).reshape(3, 5)
    return AttributionGraph(
        relevance=relevance,
        below=below,
        above=below + 1,
        source=source,
        target=target,
        weight=torch.linspace(1.0, -0.5, len(ends)),
        points=(0, 1, 2),
        position=4,
        tokens=TOKENS,
        special=(False,) * 5,
        transitions=(),
        about={"model": HOSTILE, "target": f"logit({HOSTILE!r}) - logit(' b')", "value": 1.5},
    )


def report(folder: Path) -> Report:
    """Many cases; two composites have graphs, the second one's without an edge, the third one's file is no graph."""
    cases = [
        Case(id=f"case {i}", prompt="".join(TOKENS), target=CaseToken(id=1, text=HOSTILE), contrast=CaseToken(id=2))
        for i in range(CASES)
    ]
    pieces = tuple(Piece(id=i, text=text) for i, text in enumerate(TOKENS))
    records = [
        Attributed(case=case.id, model="m", composite=name, value=1.0, pieces=pieces, scores=(1.0,) * 5)
        for name in ("attnlrp", "gradient", "cp-lrp")
        for case in cases
    ]
    files = {"attnlrp": folder / "full", "gradient": folder / "empty", "cp-lrp": folder / "broken"}
    graph(18).save(files["attnlrp"])
    graph(0).save(files["gradient"])
    files["cp-lrp"].write_bytes(b"no graph")
    return Report(cases, records, [], {}, {(r.case, "m", r.composite): files[r.composite] for r in records})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page, opened in a low window: the frame is out of sight. Anything that goes wrong in it fails the test."""
    folder = tmp_path_factory.mktemp("page")
    path = folder / "report.html"
    path.write_text(failures_page(report(folder)), encoding="utf-8")
    requests: list[str] = []
    with chromium() as browser:
        made = browser.new_page(viewport={"width": 1200, "height": 240})
        wrong = complaints(made)
        made.on("request", lambda request: requests.append(request.url))
        made.goto(path.as_uri())
        yield made
    assert not [problem for problem in wrong if FOREIGN not in problem]  # a test asks for it, and is refused
    assert set(requests) <= {path.as_uri(), "about:srcdoc"}


def drawn(page: Any) -> Any:
    """The frame of the open case, when it is drawn."""
    page.locator("#case .graph").scroll_into_view_if_needed()
    frame = page.locator("#case iframe").element_handle().content_frame()
    frame.wait_for_function("() => layer.job === null && !dirty.style && !dirty.view && !dirty.frame")
    return frame


def test_a_graph_is_drawn_when_it_comes_into_sight(page: Any) -> None:
    assert page.locator("iframe").count() == 0
    frame = drawn(page)
    assert page.locator("iframe").count() == 1
    assert frame.evaluate("() => shown.edges.length") == 18
    assert "of 18 edges" in frame.text_content("#shown")
    colours = frame.evaluate(
        "() => { const p = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        " return new Set(new Uint32Array(p.buffer)).size; }"
    )
    assert colours > 50  # an empty canvas has one
    page.wait_for_function(
        "() => { const f = document.querySelector('#case iframe'); return f.style.height && f.clientHeight > 300; }"
    )


def test_token_texts_stay_texts_and_the_frame_cannot_reach_the_report(page: Any) -> None:
    frame = drawn(page)
    assert frame.evaluate("() => data.labels[1]") == HOSTILE
    assert frame.locator("img").count() == 0
    assert frame.locator("script").count() == 3  # the page's own
    assert HOSTILE in frame.text_content("#paths")
    assert not any("\u202e" in text for text in frame.evaluate("() => data.labels"))
    reached = frame.evaluate("() => { try { return String(parent.document.title); } catch (e) { return e.name; } }")
    assert reached == "SecurityError"
    assert frame.evaluate("(url) => fetch(url).then(() => 'fetched', (e) => e.name)", FOREIGN) == "TypeError"


def test_a_click_traces_and_theme_and_colours_are_the_reports(page: Any) -> None:
    frame = drawn(page)
    frame.evaluate("() => trace(finalNode)")
    assert "the explained node" in frame.text_content("#status")
    page.select_option("#theme", "dark")
    page.select_option("#palette", "orange-purple")
    frame = drawn(page)
    assert frame.evaluate("() => [document.documentElement.dataset.theme, state.palette]") == ["dark", "orange-purple"]
    page.select_option("#theme", "auto")
    page.select_option("#palette", "red-blue")


def test_the_wheel_scrolls_the_report_and_zooms_with_ctrl(page: Any) -> None:
    frame = drawn(page)
    turn = """(ctrlKey) => {
      const event = new WheelEvent("wheel",
        { deltaY: -300, ctrlKey, bubbles: true, cancelable: true, clientX: 300, clientY: 300 });
      canvas.dispatchEvent(event);
      return [event.defaultPrevented, view.kx > 1];
    }"""
    assert frame.evaluate(turn, False) == [False, False]
    assert frame.evaluate(turn, True) == [True, True]


def test_another_case_and_other_rules_replace_the_frame(page: Any) -> None:
    row = page.locator("#list tbody tr", has_text="case 7").first
    row.scroll_into_view_if_needed()  # out of the frame, which the tests before have scrolled to
    row.click()
    page.wait_for_function("() => document.querySelector('#case h2').textContent.startsWith('case 7:')")
    assert drawn(page).evaluate("() => data.title").startswith("case 7: Why")
    assert page.locator("iframe").count() == 1
    page.select_option("#graph-rules", "gradient")
    assert page.text_content("#case .graph") == "no edge of the graph is above the thresholds"
    page.select_option("#graph-rules", "cp-lrp")
    assert "broken" in page.text_content("#case .graph")
    assert page.locator("iframe").count() == 0
    page.select_option("#graph-rules", "attnlrp")


def test_only_the_strongest_edges_are_in_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph(18).save(tmp_path / "g.graph.safetensors")
    monkeypatch.setattr(failures_graphs, "MOST_EDGES", 4)
    text = failures_graphs.graph_data(tmp_path / "g.graph.safetensors", "c", "red-blue")["data"]
    weights = graph(18).weight.abs().sort(descending=True).values
    share = f"{float(weights[:4].sum() / weights.sum()):.0%}"
    assert f"the 4 strongest of 18 edges, {share} of their |weight|. All of them: items/g.graph.safetensors" in text


def test_without_the_drawing_library_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lrp_hooks.render import graph_page

    monkeypatch.setattr(graph_page, "find_spec", lambda _: None)
    frames.graph_frame.cache_clear()
    text = failures_page(report(tmp_path))
    frames.graph_frame.cache_clear()
    assert "graph pages need mpld3" in text
    assert '"frame":null' in text
