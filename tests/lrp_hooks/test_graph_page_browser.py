"""The page of a graph in a real browser: what it draws, traces, hides and saves, compared with the graph itself.

Needs Chromium (``chromium`` on the path, or ``$LRP_HOOKS_CHROMIUM``); nothing is downloaded.
"""

from __future__ import annotations

import random
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from browser import needs_chromium

from lrp_hooks.graph.model import AttributionGraph, EdgeDetail
from lrp_hooks.render.graph_layout import READABLE_EDGES, columns_of
from lrp_hooks.render.graph_page import graph_page
from lrp_hooks.render.graph_words import labels
from lrp_hooks.segments import Segment

pytestmark = needs_chromium

HOSTILE = "</script><img src=x onerror=alert(1)>"
STRANGE = (HOSTILE, " مرحبا بالعالم", "\n\n", " 😀", "\u202eevil", "<!--<script>", "&amp;", "'\"`${1}")
IDLE = "() => !layer.job && !dirty.view && !dirty.style && !dirty.frame"
Open = Callable[..., Any]


def random_graph(rows: int = 6, columns: int = 12, edges: int = 60, seed: int = 0, **changes: Any) -> AttributionGraph:
    """Distinct heavy-tailed weights between neighbouring rows; some columns have no node."""
    chance = random.Random(seed)
    used = [c for c in range(columns) if c % 5 != 3] + [columns - 1]
    found: dict[tuple[int, int, int], float] = {}
    while len(found) < edges:
        target = chance.choice(used)
        source = chance.choice([c for c in used if c <= target])
        found[chance.randrange(rows - 1), source, target] = chance.choice((1, -1)) * 0.01 * chance.paretovariate(1.2)
    below, source_, target_ = (torch.tensor(ends) for ends in zip(*found, strict=True))
    weight = torch.tensor(list(found.values()))
    relevance = torch.zeros(rows, columns).index_put((below, source_), weight, accumulate=True)
    relevance[-1, -1] = 1.0
    values: dict[str, Any] = {
        "relevance": relevance,
        "below": below,
        "above": below + 1,
        "source": source_,
        "target": target_,
        "weight": weight,
        "points": tuple(range(rows)),
        "position": columns - 1,
        "tokens": tuple(f" w{i}" for i in range(columns)),
        "special": tuple(i in (0, 4) for i in range(columns)),
        "transitions": (),
        "about": {"model": "Tiny", "target": "logit(' a') - logit(' b')", "value": 1.5},
    }
    return AttributionGraph(**{**values, **changes})


def chain(columns: int, tokens: tuple[str, ...], **changes: Any) -> AttributionGraph:
    """Every token stays where it is and sends to the last one."""
    ends = [(r, i, t) for r in range(2) for i in range(columns) for t in {i, columns - 1}]
    below, source, target = (torch.tensor(e) for e in zip(*ends, strict=True))
    weight = torch.linspace(-0.5, 1.0, len(ends))
    return random_graph(
        3,
        columns,
        5,
        below=below,
        above=below + 1,
        source=source,
        target=target,
        weight=weight,
        tokens=tokens,
        **changes,
    )


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Open]:
    """Opens the page of a graph; afterwards nothing but the file was requested and nothing was reported."""
    context = browser.new_context(viewport={"width": 1300, "height": 900}, accept_downloads=True)
    problems: list[str] = []
    requests: list[str] = []

    def opened(source: AttributionGraph | str, **options: Any) -> Any:
        file = tmp_path / "page.html"
        html = source if isinstance(source, str) else graph_page(source, **options)
        file.write_text(html, encoding="utf-8")
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        if not isinstance(source, str):
            page.wait_for_function(IDLE)
        return page

    yield opened
    foreign = [url for url in requests if not url.startswith(("file:", "blob:", "data:"))]
    context.close()
    assert not problems
    assert not foreign


Edge = tuple[float, int, float, int]


def edges_of(graph: AttributionGraph) -> set[Edge]:
    """Edges as (point below, source, point above, target)."""
    ends = (graph.below.tolist(), graph.source.tolist(), graph.above.tolist(), graph.target.tolist())
    return {(graph.points[b], s, graph.points[a], t) for b, s, a, t in zip(*ends, strict=True)}


def on_page(page: Any, flags: str) -> set[Edge]:
    """The edges that an array of the page marks."""
    found = page.evaluate(
        f"""() => [...{flags}.keys()].filter((e) => {flags}[e]).map((e) => [edges.lower[e], edges.upper[e]]
            .flatMap((n) => [data.points[nodes.row[n]], nodes.column[n]]))"""
    )
    return {tuple(edge) for edge in found}


def click_node(page: Any, row: int, column: int) -> None:
    x, y = page.evaluate(f"(() => {{ const n = nodeAt.get(key({row}, {column})); return [nodeX(n), nodeY(n)]; }})()")
    page.locator("#canvas").click(position={"x": x, "y": y})
    page.wait_for_function(IDLE)


def slide(page: Any, step: int) -> float:
    """Move the slider as a reader does; gives the threshold."""
    page.locator("#threshold").fill(str(step))
    page.locator("#threshold").dispatch_event("change")
    page.wait_for_function(IDLE)
    threshold: float = page.evaluate("state.threshold")
    return threshold


def test_every_edge_and_column_is_there(open_page: Open) -> None:
    graph = random_graph()
    page = open_page(graph, title="Why?")
    assert page.title() == "Why?"
    assert on_page(page, "shown.edge") == edges_of(graph)
    assert page.locator("#shown").inner_text() == "0 · 60 of 60 edges · 100.0 % of Σ|weight|"
    assert page.locator("#captions").inner_text().startswith("logit(' a') - logit(' b') = +1.500 logits")
    assert "supports the target “␣a”" in page.locator("#legend").inner_text()


def test_the_page_lays_columns_out_as_python_does(open_page: Open) -> None:
    graph = random_graph()
    columns = columns_of(graph)
    page = open_page(graph)
    assert columns.gaps
    assert page.evaluate("layout.columns") == list(columns.shown)
    assert page.evaluate("layout.columns.map((c) => layout.slot[c])") == pytest.approx(columns.x)
    assert page.evaluate("layout.gaps.map((g) => g.tokens)") == [gap.tokens for gap in columns.gaps]
    assert page.evaluate("layout.width") == pytest.approx(columns.width)


def test_a_click_traces_exactly_ancestors_and_descendants(open_page: Open) -> None:
    graph = random_graph()
    page = open_page(graph)
    some = [node for node in graph.nodes.tolist() if node[0] in (0, 2, 3)][::4]
    for row, column in [*some, graph.final]:
        click_node(page, row, column)
        expected = edges_of(graph.ancestors(row, column)) | edges_of(graph.descendants(row, column))
        assert on_page(page, "lit.edge") == expected
        click_node(page, row, column)
        assert page.evaluate("lit") is None


def test_a_trace_follows_the_shown_edges_and_escape_ends_it(open_page: Open) -> None:
    graph = random_graph()
    page = open_page(graph)
    threshold = slide(page, 300)
    left = graph.select(graph.weight.abs() >= threshold)
    row, column = next(node for node in left.nodes.tolist() if node[0] == 3)
    click_node(page, row, column)
    expected = edges_of(left.ancestors(row, column)) | edges_of(left.descendants(row, column))
    assert on_page(page, "lit.edge") == expected
    page.keyboard.press("Escape")
    assert page.evaluate("lit") is None


@pytest.mark.parametrize("step", [0, 1, 250, 600, 999, 1000])
def test_the_slider_leaves_exactly_the_edges_above_it(open_page: Open, step: int) -> None:
    graph = random_graph()
    page = open_page(graph)
    threshold = slide(page, step)
    left = graph.select(graph.weight.abs() >= threshold)
    assert on_page(page, "shown.edge") == edges_of(left)
    assert (len(left) == len(graph)) == (step == 0 or threshold <= float(graph.weight.abs().min()))
    assert len(left) >= 1
    share = float(left.weight.abs().sum() / graph.weight.abs().sum())
    words = page.locator("#shown").inner_text()
    assert f"{len(left)} of 60 edges · {100 * share:.1f} %" in words
    assert page.evaluate("layout.columns") == list(columns_of(left).shown)


def test_hiding_first_and_special_tokens_takes_their_edges_away(open_page: Open) -> None:
    graph = random_graph()
    page = open_page(graph)
    for box, hidden in (("#first", {0}), ("#special", {0, 4})):
        page.locator(box).check()
        expected = {edge for edge in edges_of(graph) if not {edge[1], edge[3]} & hidden}
        assert on_page(page, "shown.edge") == expected != edges_of(graph)
        assert not hidden & set(page.evaluate("layout.columns"))
        page.locator(box).uncheck()
    assert on_page(page, "shown.edge") == edges_of(graph)


def test_the_explained_column_is_never_hidden(open_page: Open) -> None:
    graph = random_graph(special=(True,) * 12)
    page = open_page(graph)
    page.locator("#special").check()
    assert page.evaluate("layout.columns") == [11]
    assert on_page(page, "shown.edge") == {edge for edge in edges_of(graph) if edge[1] == edge[3] == 11}


def test_paths_light_up_also_where_the_threshold_hides_them(open_page: Open) -> None:
    graph = random_graph(edges=200)
    page = open_page(graph)
    slide(page, 950)
    paths = graph.strongest_paths(10)
    buttons = page.locator("#paths button")
    assert buttons.count() == len(paths) > 1
    for index, path in enumerate(paths):
        buttons.nth(index).click()
        assert buttons.nth(index).get_attribute("aria-pressed") == "true"
        steps = zip(path.nodes, path.nodes[1:], strict=False)
        assert on_page(page, "lit.edge") == {(*low, *high) for low, high in steps}
        page.wait_for_function(IDLE)
        drawn = page.evaluate("queue().filter((i) => i < 0 && lit.edge[-1 - i]).length")
        assert drawn == len(path.nodes) - 1
    buttons.nth(len(paths) - 1).click()
    assert page.evaluate("lit") is None


def test_a_node_tells_its_numbers_as_the_graph_does(open_page: Open) -> None:
    graph = random_graph()
    page = open_page(graph)
    for row, column in graph.nodes.tolist():
        parts = page.evaluate(f"decomposition(nodeAt.get(key({row}, {column})))")
        expected = graph.decomposition(row, column)
        assert [parts[k] for k in ("own", "first", "others")] == pytest.approx(
            [expected.own, expected.first, expected.others]
        )
    click_node(page, 5, 11)
    words = page.locator("#status").inner_text()
    assert "w11" in words
    assert "+1.000 logits" in words
    assert "the explained node" in words


def test_every_final_node_is_shown_whatever_is_hidden(open_page: Open) -> None:
    graph = random_graph(positions=(0, 4, 11))  # 0 and 4 are special
    page = open_page(graph)
    page.locator("#special").check()
    page.locator("#first").check()
    page.evaluate("state.threshold = 1e9; refilter();")
    shown = page.evaluate(
        "[...shown.node.keys()].filter((n) => shown.node[n]).map((n) => [nodes.row[n], nodes.column[n]])"
    )
    assert [tuple(node) for node in shown] == list(graph.finals)
    assert "one of 3 explained nodes" in page.evaluate("nodeFacts(finalNode)")
    page.evaluate("state.threshold = 0; refilter();")
    assert page.evaluate("shown.edges.length") == len(graph), "explained columns stay, special or not"


def test_hovering_shows_nodes_and_the_parts_of_edges(open_page: Open) -> None:
    graph = random_graph(edges=25)
    parts = [graph.weight * share for share in (0.5, 0.25, 0.125)]
    detail = EdgeDetail(*parts, torch.full((25,), 7), graph.weight * 0.75)
    page = open_page(replace(graph, detail=detail))
    left, top = page.evaluate("(() => { const b = canvas.getBoundingClientRect(); return [b.left, b.top]; })()")
    x, y = page.evaluate("[nodeX(finalNode), nodeY(finalNode)]")
    page.mouse.move(left + x, top + y)
    assert "w11" in page.locator("#tip").inner_text()
    x, y = page.evaluate(
        """(() => {
            const e = [...edges.weight.keys()].find((k) => nodeX(edges.lower[k]) !== nodeX(edges.upper[k]));
            const [a, b] = [edges.lower[e], edges.upper[e]];
            return [(nodeX(a) + nodeX(b)) / 2, (nodeY(a) + nodeY(b)) / 2];
        })()"""
    )
    page.mouse.move(left + x, top + y)
    words = page.locator("#tip").inner_text()
    assert "→" in words
    assert "value " in words
    assert "strongest head 7" in words
    page.mouse.move(left + 400, top - 60)
    assert page.locator("#tip").is_hidden()


def test_an_edge_names_its_three_strongest_heads_and_their_paths(open_page: Open) -> None:
    graph = random_graph(edges=25)
    zeros, heads = torch.zeros(25), torch.zeros(25, 5, 3)
    for head, parts in enumerate([(0.5, 0, 0), (0, 0, 0), (-2, 0.5, 0), (1, 0, 0.25), (0.25, 0, 0)]):
        heads[:, head] = torch.tensor(parts)
    heads *= torch.arange(25)[:, None, None] + 1  # each edge has its own
    detail = EdgeDetail(zeros, zeros, zeros, torch.full((25,), 3), zeros, heads)
    page = open_page(replace(graph, detail=detail))
    strongest = int(graph.weight.abs().argmax())
    words = page.evaluate("edgeTip(0)[1]").splitlines()[-3:]
    scale = strongest + 1
    number = lambda x: f"{x:+#.3g}".replace("-", "\u2212").rstrip(".")  # noqa: E731
    assert words == [
        f"head 2: value {number(-2.0 * scale)}, key {number(0.5 * scale)}",
        f"head 3: value {number(1.0 * scale)}, query {number(0.25 * scale)}",
        f"head 0: value {number(0.5 * scale)}",
    ]


def test_the_keyboard_reaches_every_node_and_traces(open_page: Open) -> None:
    graph = random_graph()
    page = open_page(graph)
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("state.at") == page.evaluate("finalNode")
    page.keyboard.press("ArrowDown")
    node = page.evaluate("state.at")
    row, column = page.evaluate(f"[nodes.row[{node}], nodes.column[{node}]]")
    assert row == 4
    page.keyboard.press("Enter")
    expected = edges_of(graph.ancestors(row, column)) | edges_of(graph.descendants(row, column))
    assert on_page(page, "lit.edge") == expected
    page.keyboard.press("+")
    page.wait_for_function("() => view.kx > 1")
    page.keyboard.press("0")
    page.wait_for_function("() => view.kx === 1")


def test_wheel_drag_and_double_click_move_the_view(open_page: Open) -> None:
    page = open_page(random_graph(columns=80, edges=150))
    box = page.locator("#canvas").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    under = page.evaluate("(plot.full[0] / 2 - plot.left - view.tx) / view.kx")
    page.mouse.wheel(0, -400)
    page.wait_for_function("() => view.kx > 1.2")
    assert page.evaluate("(plot.full[0] / 2 - plot.left - view.tx) / view.kx") == pytest.approx(under, abs=1)
    before = page.evaluate("view.tx")
    page.mouse.down()
    page.mouse.move(middle[0] + 50, middle[1], steps=4)
    page.mouse.up()
    assert page.evaluate("view.tx") == pytest.approx(before + 50, abs=1)
    page.mouse.dblclick(box["x"] + box["width"] - 3, box["y"] + 3)
    page.wait_for_function("() => view.kx === 1")


def test_the_search_finds_and_counts_tokens(open_page: Open) -> None:
    page = open_page(random_graph())
    page.locator("#search").fill("w1")
    assert page.evaluate("[...found]") == [1, 10, 11]
    assert page.locator("#found").inner_text() == "3 found"
    page.locator("#search").fill("W3")
    assert page.locator("#found").inner_text() == "0 found, 1 not shown"
    page.locator("#search").fill("w10")
    page.keyboard.press("Enter")
    page.wait_for_function(IDLE)
    assert page.evaluate("inSight(columnX(10), 1)")


def test_a_saved_png_is_a_png(open_page: Open) -> None:
    page = open_page(random_graph(), title="My graph")
    with page.expect_download() as waiting:
        page.locator("#save-png").click()
    assert waiting.value.suggested_filename == "My-graph.png"
    content = Path(waiting.value.path()).read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    assert len(content) > 10_000


def test_a_saved_svg_is_vectors_with_labels_and_whole_names(open_page: Open) -> None:
    graph = chain(len(STRANGE), STRANGE)
    page = open_page(graph, title=HOSTILE)
    with page.expect_download() as waiting:
        page.locator("#save-svg").click()
    root = ElementTree.fromstring(Path(waiting.value.path()).read_bytes())
    space = "{http://www.w3.org/2000/svg}"
    assert {node.tag.removeprefix(space) for node in root.iter()} <= {"svg", "g", "path", "text", "title", "clipPath"}
    words = [node.text or "" for node in root.iter() if node.tag in (f"{space}text", f"{space}title")]
    for name in labels(graph):
        assert any(word.startswith(name) for word in words)
    assert len([node for node in root.iter(f"{space}path") if node.get("fill") == "none"]) >= len(graph)


def test_hostile_text_is_shown_and_does_nothing(open_page: Open) -> None:
    graph = chain(len(STRANGE), STRANGE, about={"model": HOSTILE, "target": f"logit({HOSTILE!r})", "value": 1.0})
    page = open_page(graph, title=HOSTILE)
    assert page.title() == HOSTILE
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    click_node(page, 1, 0)
    assert page.locator("#status .name").inner_text() == HOSTILE
    for control in ("#values", "#first", "#special"):
        page.locator(control).check()
    page.locator("#palette").select_option("orange-purple")
    page.locator("#theme").select_option("dark")
    page.wait_for_function(IDLE)
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert page.locator("img").count() == 0


def test_segments_as_columns_with_long_names_and_mid_points(open_page: Open) -> None:
    segments = tuple(Segment(f"{i} " + "long " * 40, 3 * i, 3 * i + 3) for i in range(8))
    page = open_page(chain(8, tuple("abcdefgh"), segments=segments, points=(0, 0.5, 1)))
    click_node(page, 1, 2)
    words = page.locator("#status").inner_text()
    assert "tokens 6\u20138, residual point 0.5 (between attention and MLP of block 0)" in words
    assert page.locator("#status .name").inner_text().startswith("2 long long")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("width", [360, 820, 1600])
def test_the_page_fits_its_window(open_page: Open, width: int) -> None:
    page = open_page(random_graph(columns=60, edges=200))
    page.set_viewport_size({"width": width, "height": 800})
    # a function, not an expression: the page's policy forbids evaluating strings
    page.wait_for_function("() => plot.full[0] === document.getElementById('frame').clientWidth")
    page.wait_for_function(IDLE)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#canvas").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    apart = page.evaluate("labelled().map(columnX).sort((a, b) => a - b).map((x, k, all) => k ? x - all[k - 1] : 99)")
    assert min(apart) >= 12.9, "labels are thinned out until they do not touch"


def test_a_large_graph_starts_small_and_is_drawn_in_slices(open_page: Open) -> None:
    graph = random_graph(rows=33, columns=400, edges=20_000)
    page = open_page(graph)
    assert len(graph.nodes) > 5000
    assert page.evaluate("shown.edges.length") == READABLE_EDGES
    assert f"its {READABLE_EDGES} strongest edges" in page.locator("#note").inner_text()
    page.evaluate(
        """() => { window.drawn = []; const draw = drawItem, step = advance; window.count = 0;
            drawItem = (pen, item) => { window.count++; draw(pen, item); };
            advance = () => { window.count = 0; step(); window.drawn.push(window.count); }; }"""
    )
    slide(page, 0)
    drawn = page.evaluate("window.drawn")
    assert page.evaluate("shown.edges.length") == 20_000
    assert page.evaluate("layer.job") is None
    assert sum(drawn) >= 20_000 + len(graph.nodes) - 100
    assert max(drawn) < 20_000, "no frame draws everything"


def test_the_heatmap_page_runs_under_its_policy_too(open_page: Open) -> None:
    from lrp_hooks.render import Heatmap
    from lrp_hooks.render.page import page as heatmap_page
    from lrp_hooks.tokens import TokenText

    tokens = tuple(TokenText(i, word) for i, word in enumerate(STRANGE))
    scores = tuple(float(i - 2) for i in range(len(STRANGE)))
    shown = Heatmap(tokens, scores, (False,) * len(STRANGE), layers=(scores, scores, scores))
    page = open_page(heatmap_page([shown, shown], title=HOSTILE))
    page.locator("#theme").select_option("dark")
    page.locator(".tokens [data-i='1']").first.hover()
    assert page.locator("#tip").is_visible()
    assert "supports the target" in page.locator("#legend").inner_text()
    assert page.locator("img").count() == 0
