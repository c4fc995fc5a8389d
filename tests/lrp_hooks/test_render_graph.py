"""Pictures of graphs at the level of Python: layout, words, the page's data and policy, figures, files."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import struct
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lrp_hooks.errors import LrpError
from lrp_hooks.graph.model import AttributionGraph, EdgeDetail, TransitionInfo
from lrp_hooks.render import graph_layout, graph_page, graph_words
from lrp_hooks.render.graph_figure import graph_figure
from lrp_hooks.render.graph_layout import Gap, arrange
from lrp_hooks.render.graph_output import save_picture
from lrp_hooks.segments import Segment

HOSTILE = "</script><img src=x onerror=alert(1)>"


def graph(
    edges: list[tuple[int, int, int, float]], columns: int = 4, rows: int = 3, **changes: Any
) -> AttributionGraph:
    """Edges as (row below, source, target, weight); R of a node is what it receives, of the last one 1."""
    below, source, target = (torch.tensor([e[k] for e in edges], dtype=torch.int64) for k in range(3))
    weight = torch.tensor([e[3] for e in edges], dtype=torch.float32)
    relevance = torch.zeros(rows, columns).index_put((below, source), weight, accumulate=True)
    relevance[-1, -1] = 1.0
    values: dict[str, Any] = {
        "relevance": relevance,
        "below": below,
        "above": below + 1,
        "source": source,
        "target": target,
        "weight": weight,
        "points": tuple(range(rows)),
        "position": columns - 1,
        "tokens": tuple(f" w{i}" for i in range(columns)),
        "transitions": (TransitionInfo(0, 1, 0.1, 2, 5, 1.5, 2.0, 0.0), TransitionInfo(1, 2, 0.1, 2, 5, 1.5, 2.0, 0.0)),
        "about": {
            "model": "Tiny",
            "composite": "attnlrp",
            "target": "logit(' a') - logit(' b')",
            "value": 1.5,
            "pruning": {"node_threshold": 0.01, "node_unit": "logits", "top_p": 0.85, "edge_threshold": None},
        },
    }
    return AttributionGraph(**{**values, **changes})


SMALL = [(0, 0, 0, 0.5), (0, 2, 3, -0.25), (1, 0, 3, 0.75), (1, 3, 3, 0.125)]


def numbers(kind: str, text: str) -> list[float]:
    data = base64.b64decode(text)
    return list(struct.unpack(f"<{len(data) // 4}{kind}", data))


# Layout --------------------------------------------------------------------------------------------------------------


def test_columns_stand_side_by_side_with_a_gap_wherever_tokens_are_left_out() -> None:
    columns = arrange([1, 2, 5], [1] * 8)
    assert columns.shown == (1, 2, 5)
    assert columns.x == pytest.approx((1.1, 2.1, 3.7))
    assert columns.gaps == (Gap(0.3, 1), Gap(pytest.approx(2.9), 2), Gap(pytest.approx(4.5), 2))
    assert columns.width == pytest.approx(4.8)


def test_gaps_count_tokens_not_segments() -> None:
    assert arrange([0], [1, 30, 12]).gaps[0].tokens == 42
    assert arrange([0, 1], [3, 4]).gaps == ()


def test_only_columns_with_a_node_are_shown_and_the_explained_one_always() -> None:
    assert graph_layout.columns_of(graph(SMALL)).shown == (0, 2, 3)
    assert graph_layout.columns_of(graph([(0, 1, 1, 1.0)], columns=9)).shown == (1, 8)


def test_special_tokens_lie_outside_the_scale_unless_nothing_else_is_there() -> None:
    ordinary = graph([(0, 0, 0, 9.0), (0, 1, 1, -2.0)])
    assert graph_layout.scales(ordinary) == (9.0, 9.0)
    special = replace(ordinary, special=(True, False, False, False))
    assert graph_layout.scales(special) == (2.0, 2.0)
    assert graph_layout.scales(replace(ordinary, special=(True,) * 4)) == (9.0, 9.0)


def test_a_large_graph_starts_with_its_strongest_edges() -> None:
    assert graph_layout.start_threshold(graph(SMALL)) == 0.0
    many = graph([(0, i, i, 0.001 * (i + 1) * (-1) ** i) for i in range(400)], columns=400)
    threshold = graph_layout.start_threshold(many)
    assert int((many.weight.abs() >= threshold).sum()) == graph_layout.READABLE_EDGES


def test_a_figure_holds_the_strongest_edges_that_fit() -> None:
    many = graph([(0, i, i, 1.0 + i) for i in range(100)], columns=200)
    drawn = graph_layout.readable(many)
    assert len(graph_layout.columns_of(drawn).shown) == graph_layout.READABLE_COLUMNS
    assert float(drawn.weight.min()) == 1.0 + 100 - (graph_layout.READABLE_COLUMNS - 1)
    assert graph_layout.readable(graph(SMALL)) is not None
    assert len(graph_layout.readable(graph(SMALL))) == len(SMALL)


def test_sizes_grow_with_the_share_and_fit_their_spacing() -> None:
    radii = [graph_layout.node_radius(share, 20) for share in (0, 0.1, 1, 5)]
    assert radii == sorted(radii)
    assert radii[2] == radii[3] == pytest.approx(8.4)
    assert graph_layout.node_radius(1, 1000) == 11
    assert graph_layout.edge_width(0, 20) == 0.5 < graph_layout.edge_width(1, 20) <= 6


@pytest.mark.parametrize(
    ("point", "name"),
    [(0, "before block 0"), (3, "after block 2"), (2.5, "between attention and MLP of block 2")],
)
def test_points_are_named_by_where_they_are(point: float, name: str) -> None:
    assert graph_layout.point_name(point) == name


# Words ---------------------------------------------------------------------------------------------------------------


def test_the_caption_says_what_was_explained_and_what_was_kept() -> None:
    assert graph_words.caption(graph(SMALL)) == [
        "logit(' a') - logit(' b') = +1.500 logits  ·  Tiny  ·  attnlrp",
        "5 nodes, 4 edges  ·  75% of Σ|weight| kept by pruning  ·  nodes with |R| > 0.01 logits  ·  "
        "edges that carry 85% of each transition",
    ]
    assert graph_words.caption(graph(SMALL, about={}, transitions=())) == ["5 nodes, 4 edges"]
    fixed = {"pruning": {"edge_threshold": 0.02, "top_p": None}}
    assert graph_words.caption(graph(SMALL, about=fixed, transitions=()))[0].endswith("edges with |weight| > 0.02")


def test_columns_are_named_safely_and_say_which_tokens_they_are() -> None:
    plain = graph(SMALL, tokens=(" Mary", "\n", "", "\u202eevil"))
    assert graph_words.labels(plain) == ["␣Mary", "↵", "∅", "⟨U+202E⟩evil"]
    parts = tuple(Segment(f"part {i}", 3 * i, 3 * i + (1 if i == 3 else 3)) for i in range(4))
    coarse = replace(plain, segments=parts)
    assert graph_words.labels(coarse)[1] == "part 1"
    assert graph_words.places(coarse) == ["tokens 0\u20132", "tokens 3\u20135", "tokens 6\u20138", "token 9"]


def test_a_path_is_told_by_where_it_stays() -> None:
    path = max(graph([(0, 0, 0, 1.0), (1, 0, 3, 1.0)]).strongest_paths(), key=lambda p: p.strength)
    assert graph_words.stays(path) == [(0, 0, 1), (3, 2, 2)]


# Page ----------------------------------------------------------------------------------------------------------------


def test_the_policy_names_exactly_the_pages_own_style_and_scripts() -> None:
    html = graph_page.graph_page(graph(SMALL))
    found = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert found is not None
    rules = found[1].replace("&#39;", "'").replace("&#43;", "+")
    scripts, styles = (re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL) for tag in ("script", "style"))
    assert (len(scripts), len(styles)) == (2, 1)
    for text in scripts + styles:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" in rules
    assert rules.startswith("default-src 'none'; ")
    assert "unsafe" not in rules
    own = html.replace(scripts[0], "")
    assert not re.search(r"<[^>]+\s(style|on\w+)=", own), "the policy would block inline styles and handlers"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", scripts[1])


def test_hostile_text_stays_data() -> None:
    hostile = graph(SMALL, tokens=(HOSTILE, "<!--", "\u2028", " مرحبا"))
    html = graph_page.graph_page(replace(hostile, about={"model": HOSTILE, "value": 1.0}), title=HOSTILE)
    assert "<img" not in html
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    assert json.loads(found[1])["labels"][0] == HOSTILE


def test_the_data_holds_nodes_in_order_and_edges_strongest_first() -> None:
    data = graph_page.page_data(graph(SMALL), "", "red-blue")
    rows, columns = (numbers("i", data["nodes"][name]) for name in ("row", "column"))
    nodes = list(zip(rows, columns, strict=True))
    assert nodes == sorted(nodes) == [tuple(node) for node in graph(SMALL).nodes.tolist()]
    assert numbers("f", data["edges"]["weight"]) == [0.75, 0.5, -0.25, 0.125]
    ends = [[nodes[int(i)] for i in numbers("i", data["edges"][name])] for name in ("lower", "upper")]
    assert next(zip(*ends, strict=True)) == ((1, 0), (2, 3))
    assert data["detail"] is None
    assert data["start"] == 0


def test_detail_follows_the_edges() -> None:
    parts = [torch.tensor([1.0, 2.0, 3.0, 4.0]) * k for k in (1, 10, 100)]
    detail = EdgeDetail(*parts, torch.tensor([4, 5, 6, -1]), torch.zeros(4))
    data = graph_page.page_data(graph(SMALL, detail=detail), "", "red-blue")["detail"]
    assert numbers("f", data["key"]) == [30.0, 10.0, 20.0, 40.0]
    assert numbers("i", data["head"]) == [6, 4, 5, -1]


def test_a_graph_without_edges_still_makes_a_page() -> None:
    data = graph_page.page_data(graph([]), "", "red-blue")
    assert data["paths"] == []
    assert numbers("i", data["nodes"]["column"]) == [3]


def test_pages_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_page, "find_spec", lambda name: None)
    with pytest.raises(LrpError, match=re.escape("pip install 'lrp-hooks[pages]'")):
        graph_page.graph_page(graph(SMALL))


# Figures and files ---------------------------------------------------------------------------------------------------


def test_figures_of_every_format() -> None:
    signatures = {"png": b"\x89PNG\r\n\x1a\n", "pdf": b"%PDF-", "svg": b"<?xml"}
    for kind, signature in signatures.items():
        file = io.BytesIO()
        graph_figure(graph(SMALL), file, kind, title="Why?")  # type: ignore[arg-type]
        assert file.getvalue().startswith(signature)


def test_a_figure_is_reproducible_and_draws_every_edge_and_node() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    for file in (first, second):
        graph_figure(graph(SMALL), file, "svg")
    assert first.getvalue() == second.getvalue()
    text = first.getvalue().decode()
    lines = ElementTree.fromstring(text).find(".//*[@id='LineCollection_1']")
    assert lines is not None
    assert len(list(lines)) == len(SMALL)


def test_figures_draw_hostile_and_foreign_text_without_a_warning() -> None:
    names = (HOSTILE, "$x^2$ مرحبا", "\n\n", "😀 你好")
    strange = graph(SMALL, tokens=names, segments=tuple(Segment("n" * 200, i, i + 1) for i in range(4)))
    for shown in (strange, replace(strange, segments=None)):
        graph_figure(shown, io.BytesIO(), "png", title=HOSTILE, palette="orange-purple")


def test_a_large_graph_makes_a_figure_that_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from lrp_hooks.render.figures import Sheet

    words: list[str] = []
    text = Sheet.text
    monkeypatch.setattr(
        Sheet, "text", lambda self, x, y, line, **style: (words.append(line), text(self, x, y, line, **style))
    )
    many = graph([(0, i, i, 1.0 + i) for i in range(100)], columns=200)
    graph_figure(many, io.BytesIO(), "png")
    assert any(line.startswith("Drawn: the 59 strongest edges") for line in words)


@pytest.mark.parametrize("suffix", [".html", ".png", ".SVG", ".pdf"])
def test_the_suffix_decides_the_format(tmp_path: Path, suffix: str) -> None:
    path = save_picture(graph(SMALL), tmp_path / "new" / f"graph{suffix}", title="T")
    assert (
        path.read_bytes()[:5] == {".html": b"<!DOC", ".png": b"\x89PNG\r", ".SVG": b"<?xml", ".pdf": b"%PDF-"}[suffix]
    )


def test_other_suffixes_and_palettes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LrpError, match=r"graph\.jpg: unknown format '\.jpg'\. choices: \.html, \.svg, \.png, \.pdf"):
        save_picture(graph(SMALL), tmp_path / "graph.jpg")
    with pytest.raises(LrpError, match="unknown palette"):
        save_picture(graph(SMALL), tmp_path / "graph.html", palette="rainbow")
    assert list(tmp_path.iterdir()) == []
