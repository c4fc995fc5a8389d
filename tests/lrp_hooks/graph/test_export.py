"""Exports: what another program reads back is the graph, whatever the tokens contain."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import networkx as nx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lrp_hooks.errors import GraphError
from lrp_hooks.graph import export as package
from lrp_hooks.graph.export import (
    SUFFIXES,
    circuit_tracer_schema,
    export,
    list_for_viewer,
    to_circuit_tracer,
    to_networkx,
    unmark,
)
from lrp_hooks.graph.export.text import json_cell, mark_for_utf8, mark_for_xml
from lrp_hooks.graph.model import DETAIL, AttributionGraph, EdgeDetail, TransitionInfo
from lrp_hooks.segments import Segment

HOSTILE = (
    "\x00",
    "\ud800",
    "]]>",
    "<img src=x onerror=alert(1)>",
    "&lt;",
    " 🧿\u200d",
    '=HYPERLINK("http://x")',
    "\r\n\t+1",
    "⟨U+0041⟩",
    "a\u2028b\x85\ufffe",
    '", (p=2)',
    "  ",
)


def graph_of(
    *, tokens: tuple[str, ...] = tuple(f" tok{i}" for i in range(12)), mid: bool = False, detail: bool = False
) -> AttributionGraph:
    """Random edges over 4 residual points, or 7 with mid points; some weights tiny, huge or whole numbers."""
    random = torch.Generator().manual_seed(7)
    points = tuple(p / 2 if p % 2 else p // 2 for p in range(7)) if mid else (0, 1, 2, 3)
    length, rows = len(tokens), len(points)
    dense = torch.rand(rows - 1, length, length, generator=random)
    dense[-1, :-1] = 1.0  # last transition: only into the explained position
    below, target, source = torch.nonzero(dense < 0.25, as_tuple=True)
    weight = torch.randn(len(below), generator=random)
    weight[:4] = torch.tensor([1e-30, -3.4e38, 2.0, -0.1])
    parts = [torch.randn(len(below), generator=random) for _ in range(4)]
    head = torch.randint(-1, 9, (len(below),), generator=random)
    return AttributionGraph(
        relevance=torch.randn(rows, length, generator=random),
        below=below,
        above=below + 1,
        source=source,
        target=target,
        weight=weight,
        points=points,
        position=length - 1,
        tokens=tokens,
        special=(True,) + (False,) * (length - 1),
        input_ids=torch.arange(length) + 100,
        transitions=(TransitionInfo(0, 1, float("inf"), 0, 9, 0.0, 1.5, 0.25),),
        detail=EdgeDetail(parts[0], parts[1], parts[2], head, parts[3]) if detail else None,
        about={
            "model": "Qwen2ForCausalLM",
            "target": 'logit(" Mary") - logit("<b>")',
            "value": 1.25,
            "pruning": {"top_p": 0.85, "node_threshold": 0.01, "edge_threshold": None},
            "layers": [0, 1],
            "version": "mine",
        },
    )


def segmented(graph: AttributionGraph) -> AttributionGraph:
    spans = tuple(Segment(token, 3 * i, 3 * i + 3) for i, token in enumerate(graph.tokens))
    return replace(graph, segments=spans, input_ids=None)


GRAPHS: dict[str, Callable[[], AttributionGraph]] = {
    "tokens": graph_of,
    "mid points and detail": lambda: graph_of(mid=True, detail=True),
    "segments": lambda: segmented(graph_of(detail=True)),
    "hostile": lambda: graph_of(tokens=HOSTILE, detail=True),
    "hostile segments": lambda: segmented(graph_of(tokens=HOSTILE, mid=True)),
    "no edge": lambda: graph_of().select(torch.zeros(0, dtype=torch.long)),
}


@pytest.fixture(params=GRAPHS)
def graph(request: pytest.FixtureRequest) -> AttributionGraph:
    return GRAPHS[request.param]()


def name_of(graph: AttributionGraph, row: int, column: int) -> str:
    return f"{float(graph.points[row]):g}:{column}"


def expected_nodes(graph: AttributionGraph) -> dict[str, dict[str, Any]]:
    """Written from the graph's own fields, one node at a time."""
    found = {}
    for row, column in graph.nodes.tolist():
        point = graph.points[row]
        block = int(point)
        inside, after = f"inside block {block}, after attention", f"after block {block - 1}"
        node = {
            "point": float(point),
            "layer": inside if point % 1 else after if point else "before block 0",
            "index": column,
            "token": graph.tokens[column],
            "relevance": float(graph.relevance[row, column]),
            "special": column == 0,
        }
        if graph.segments is not None:
            node |= {"segment_start": 3 * column, "segment_stop": 3 * column + 3}
        elif graph.input_ids is not None:
            node["token_id"] = 100 + column
        found[name_of(graph, row, column)] = node
    return found


def expected_edges(graph: AttributionGraph) -> dict[tuple[str, str], dict[str, float]]:
    found = {}
    for e in range(len(graph)):
        ends = [(int(graph.below[e]), int(graph.source[e])), (int(graph.above[e]), int(graph.target[e]))]
        edge: dict[str, float] = {"weight": float(graph.weight[e])}
        if graph.detail is not None:
            edge |= {name: getattr(graph.detail, name)[e].item() for name in DETAIL}
            rest = edge["weight"] - edge["value"] - edge["key"] - edge["query"]
            edge["rest"] = float(np.float32(rest))
        found[name_of(graph, *ends[0]), name_of(graph, *ends[1])] = edge
    assert len(found) == len(graph)
    return found


def check_digraph(made: Any, graph: AttributionGraph, *, unmarked: Callable[[str], str] = str) -> None:
    """Every node and edge with every attribute; texts after ``unmarked``."""
    nodes = {
        name: {k: unmarked(v) if isinstance(v, str) else v for k, v in data.items()}
        for name, data in made.nodes(data=True)
    }
    assert made.is_directed()
    assert nodes == expected_nodes(graph)
    assert {(u, v): dict(data) for u, v, data in made.edges(data=True)} == expected_edges(graph)


def test_networkx_holds_the_graph(graph: AttributionGraph) -> None:
    made = to_networkx(graph)
    check_digraph(made, graph)
    assert nx.is_directed_acyclic_graph(made)
    attributes = made.graph
    assert (attributes["format"], attributes["version"]) == ("lrp_hooks.graph.export", 1)
    assert attributes["about.version"] == "mine"
    assert attributes["pruning.top_p"] == 0.85
    assert "pruning.edge_threshold" not in attributes
    assert attributes["layers"] == "[0, 1]"
    assert attributes["final"] == name_of(graph, *graph.final)
    assert json.loads(attributes["transitions"])[0]["threshold"] is None
    assert {type(value) for value in attributes.values()} <= {str, int, float, bool}


def test_graphml_reads_back(graph: AttributionGraph, tmp_path: Path) -> None:
    (path,) = export(graph, tmp_path / "g.graphml")
    made = nx.read_graphml(path)
    check_digraph(made, graph, unmarked=unmark)
    read = {name: unmark(value) if isinstance(value, str) else value for name, value in made.graph.items()}
    assert {name: read[name] for name in to_networkx(graph).graph} == to_networkx(graph).graph


def test_gexf_reads_back(graph: AttributionGraph, tmp_path: Path) -> None:
    (path,) = export(graph, tmp_path / "g.gexf")
    made = nx.read_gexf(path)
    for _, data in made.nodes(data=True):
        assert data.pop("label") == data["token"]
    for _, _, data in made.edges(data=True):
        data.pop("id")
        if "key_path" in data:
            data["key"] = data.pop("key_path")
    check_digraph(made, graph, unmarked=unmark)
    text = path.read_text(encoding="utf-8")
    start, stop = text.index("<description>") + len("<description>"), text.index("</description>")
    words = text[start:stop].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert json.loads(words) == to_networkx(graph).graph


def test_node_link_json_reads_back(graph: AttributionGraph, tmp_path: Path) -> None:
    (path,) = export(graph, tmp_path / "g.json")
    data = json.loads(path.read_bytes())
    assert all(token in path.read_text(encoding="utf-8") for token in graph.tokens if "🧿" in token)
    made = nx.node_link_graph(data, edges="edges")
    check_digraph(made, graph)
    assert made.graph == to_networkx(graph).graph


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def test_csv_reads_back(graph: AttributionGraph, tmp_path: Path) -> None:
    edges, nodes = export(graph, tmp_path / "g.csv")
    assert (edges.name, nodes.name) == ("g.csv", "g.nodes.csv")
    want = expected_nodes(graph)
    found = {row.pop("id"): row for row in rows_of(nodes)}
    assert list(found) == list(want)
    for name, row in found.items():
        assert row.keys() == want[name].keys()
        assert json.loads(row["token"]) == want[name]["token"]
        assert np.float32(row["relevance"]) == np.float32(want[name]["relevance"])
        for key in row.keys() - {"token", "relevance", "point"}:
            assert row[key] == str(want[name][key])
        assert float(row["point"]) == want[name]["point"]
    links = expected_edges(graph)
    lines = rows_of(edges)
    assert len(lines) == len(links)
    for row in lines:
        ends = row.pop("source"), row.pop("target")
        points = (
            row.pop("source_point") + ":" + row.pop("source_index"),
            row.pop("target_point"),
            row.pop("target_index"),
        )
        assert (points[0], ":".join(points[1:])) == ends
        assert {key: np.float32(value) for key, value in row.items()} == {
            key: np.float32(value) for key, value in links[ends].items()
        }


def test_no_cell_of_a_table_is_a_formula(tmp_path: Path) -> None:
    for path in export(graph_of(tokens=HOSTILE, detail=True), tmp_path / "g.csv"):
        lines = path.read_bytes().split(b"\n")
        assert b"\r" not in path.read_bytes()
        assert b"\x00" not in path.read_bytes()
        for row in rows_of(path):
            for cell in row.values():
                assert cell[:1] not in "=+@\t\r" or not cell
                assert cell[:1] != "-" or float(cell) < 0
        assert len(lines) == len(rows_of(path)) + 2  # header, and the end of the last line


def test_parquet_reads_back(graph: AttributionGraph, tmp_path: Path) -> None:
    edges, nodes = export(graph, tmp_path / "g.parquet")
    assert (edges.name, nodes.name) == ("g.parquet", "g.nodes.parquet")
    table, links = pq.read_table(nodes), pq.read_table(edges)
    found = {row.pop("id"): row | {"token": unmark(row["token"])} for row in table.to_pylist()}
    assert found == expected_nodes(graph)
    want = expected_edges(graph)
    for row in links.to_pylist():
        ends = row.pop("source"), row.pop("target")
        lower, upper = (f"{row.pop(f'{end}_point'):g}:{row.pop(f'{end}_index')}" for end in ("source", "target"))
        assert (lower, upper) == ends
        assert row == want.pop(ends)
    assert not want
    assert links.schema.field("weight").type == pa.float32()
    assert table.schema.field("special").type == pa.bool_()
    for schema in (table.schema, links.schema):
        assert json.loads(schema.metadata[b"lrp_hooks.graph.export"]) == to_networkx(graph).graph


@pytest.mark.parametrize("text", [*HOSTILE, "⟨U+D800⟩\ud800", "plain", "", "⟨U", "⟨U+⟨U+27E8⟩"])
def test_marks_can_be_undone(text: str) -> None:
    assert unmark(mark_for_xml(text)) == text
    assert unmark(mark_for_utf8(text)) == text
    assert mark_for_utf8(text).encode().decode() == mark_for_utf8(text)
    assert json.loads(json_cell(text)) == text
    assert all(c in "\t\n" or (c >= " " and not "\ud800" <= c <= "\udfff") for c in mark_for_xml(text))


# The format of circuit-tracer's viewer ---------------------------------------------------------------------------


def valid(made: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(circuit_tracer_schema()).validate(made)


def test_circuit_json_follows_the_schema_and_holds_every_edge(graph: AttributionGraph) -> None:
    made = to_circuit_tracer(graph)
    jsonschema.Draft202012Validator.check_schema(circuit_tracer_schema())
    valid(made)
    nodes = made["nodes"]
    ours = {node["node_id"]: node["lrp_hooks"]["id"] for node in nodes}
    assert len(ours) == len(set(ours.values())) == len(nodes)
    assert len({node["jsNodeId"] for node in nodes}) == len(nodes)
    features = [node["feature"] for node in nodes if node["feature_type"] != "embedding"]
    assert len(set(features)) == len(features)
    assert len({(n["layer"], n["feature"], n["ctx_idx"]) for n in nodes}) == len(nodes)  # the viewers' feature ids
    want = expected_nodes(graph)
    for node in nodes:
        exact = want[node["lrp_hooks"]["id"]]
        assert node["lrp_hooks"]["token"] == exact["token"]
        assert node["relevance"] == exact["relevance"]
        assert node["ctx_idx"] == exact["index"] < len(made["metadata"]["prompt_tokens"])
    found = {(ours[link["source"]], ours[link["target"]]): link["weight"] for link in made["links"]}
    assert found == {ends: edge["weight"] for ends, edge in expected_edges(graph).items()}
    assert made["qParams"]["clickedId"] == next(n["node_id"] for n in nodes if n["is_target_logit"])


def test_circuit_nodes_have_the_rows_that_viewers_draw() -> None:
    made = to_circuit_tracer(graph_of(mid=True), probability=0.5)
    for node in made["nodes"]:
        point = node["lrp_hooks"]["point"]
        kind = node["feature_type"]
        if point == 0:
            assert (node["layer"], kind, node["feature"]) == ("E", "embedding", node["ctx_idx"])
            assert node["node_id"] == f"E_{100 + node['ctx_idx']}_{node['ctx_idx']}"
        elif point == 3:
            assert (node["layer"], kind, node["token_prob"]) == ("3", "logit", 0.5)
            assert node["clerp"] == 'Output "logit(” Mary”) - logit(”\uff1cb\uff1e”)" = +1.250 logits (p=0.500)'
        else:
            assert (node["layer"], kind) == (str(int(point)), "residual stream")
            assert node["clerp"].startswith(f"residual point {point:g} · “ tok{node['ctx_idx']}” · R = ")
            assert node["feature"] < -1  # no index of any transcoder
    assert [n["clerp"][-7:] for n in to_circuit_tracer(graph_of())["nodes"] if n["is_target_logit"]] == ["(p=n/a)"]


def test_the_target_is_above_other_nodes_of_the_last_point() -> None:
    graph = graph_of()
    last, into = torch.tensor([2]), torch.tensor([0])
    more = {"below": last, "above": last + 1, "source": into, "target": into, "weight": torch.tensor([0.5])}
    graph = replace(graph, **{name: torch.cat((getattr(graph, name), column)) for name, column in more.items()})
    made = to_circuit_tracer(graph)
    valid(made)
    assert {node["layer"] for node in made["nodes"] if node["lrp_hooks"]["point"] == 3} == {"3", "4"}
    assert [node["layer"] for node in made["nodes"] if node["is_target_logit"]] == ["4"]


def test_circuit_labels_are_no_html() -> None:
    graph = graph_of(tokens=HOSTILE)
    graph = replace(graph, about={**graph.about, "target": '<b>" (p=7)'})
    made = to_circuit_tracer(graph, prompt="<p>", scan="gemma-2-2b", creator="me")
    valid(made)
    shown = [node["clerp"] for node in made["nodes"]] + made["metadata"]["prompt_tokens"]
    shown += [value for value in made["metadata"]["generation_settings"].values() if isinstance(value, str)]
    assert not [text for text in shown if set(text) & set("<>&\x00\ud800\u2028")]
    final = next(node for node in made["nodes"] if node["is_target_logit"])
    assert final["clerp"].split("(p=")[1].split(")")[0] == "n/a"
    assert final["clerp"].split('"')[1] == "\uff1cb\uff1e” (p\uff1d7)"
    flat = [value for node in made["nodes"] for value in node.values() if isinstance(value, str)]
    assert not [text for text in flat if "<" in text]  # the viewer's full tooltip shows every text of a node
    info = made["metadata"]
    assert (info["prompt"], info["scan"], info["info"]["creator_name"]) == ("<p>", "gemma-2-2b", "me")
    assert info["pruning_settings"] == {"top_p": 0.85, "node_threshold": 0.01}


FAULTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a label without a probability": lambda g: g["nodes"][-1].update(clerp='Output "x"'),
    "half a layer": lambda g: g["nodes"][-2].update(layer="1.5"),
    "no feature number": lambda g: g["nodes"][-2].update(feature=None),
    "an embedding elsewhere": lambda g: g["nodes"][0].update(layer="3"),
    "another node among the embeddings": lambda g: g["nodes"][-2].update(layer="E"),
    "no target": lambda g: g["nodes"].pop(),
    "no slug": lambda g: g["metadata"].pop("slug"),
    "a weight in words": lambda g: g["links"][0].update(weight="1"),
    "more influence than there is": lambda g: g["nodes"][-2].update(influence=1.5),
    "an unknown kind of links": lambda g: g["qParams"].update(linkType="none"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_schema_finds_planted_faults(fault: str) -> None:
    made = to_circuit_tracer(graph_of())
    valid(made)
    assert made["nodes"][-1]["is_target_logit"]
    assert made["nodes"][-2]["feature_type"] == "residual stream"
    FAULTS[fault](made)
    with pytest.raises(jsonschema.ValidationError):
        valid(made)


def test_the_schema_takes_what_circuit_tracer_writes() -> None:
    """One node of each of its kinds, as its ``Node`` model makes them."""
    node = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "reverse_ctx_idx": 0, "influence": None}
    node |= {"activation": None, "clerp": ""}
    kinds = [("0_391_1", 77027, "0", "cross layer transcoder"), ("0_-1_1", -1, "0", "mlp reconstruction error")]
    kinds += [("E_7_1", 1, "E", "embedding"), ("27_5_1", 5, "27", "logit")]
    nodes = [
        node
        | {"node_id": name, "jsNodeId": name, "feature": number, "layer": layer, "feature_type": kind, "ctx_idx": 1}
        for name, number, layer, kind in kinds
    ]
    nodes[-1] |= {"clerp": 'Output " x" (p=0.111)', "is_target_logit": True, "token_prob": 0.111}
    metadata = {"slug": "s", "scan": "m", "transcoder_list": [], "prompt_tokens": ["a", "b"], "prompt": "ab"}
    params = {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""}
    links = [{"source": "E_7_1", "target": "0_391_1", "weight": 1.5}]
    made = {"metadata": metadata | {"schema_version": 1, "node_threshold": 0.8}, "qParams": params}
    valid(made | {"nodes": nodes, "links": links})


def test_influence_is_the_sum_over_paths() -> None:
    graph = graph_of(mid=True)
    made = to_circuit_tracer(graph)
    names = [node["lrp_hooks"]["id"] for node in made["nodes"]]
    dense = np.zeros((len(names), len(names)))
    for (source, target), edge in expected_edges(graph).items():
        dense[names.index(target), names.index(source)] = abs(edge["weight"])
    dense /= np.maximum(dense.sum(1, keepdims=True), 1e-300)
    step = np.zeros(len(names))
    step[names.index(name_of(graph, *graph.final))] = 1.0
    total = step.copy()
    for _ in graph.points:
        step = step @ dense
        total += step
    assert not step.any()
    order = np.argsort(-total, kind="stable")
    want = np.empty(len(names))
    want[order] = np.cumsum(total[order]) / total.sum()
    assert len(np.unique(want)) > 20
    assert [node["influence"] for node in made["nodes"]] == pytest.approx(want, abs=1e-12)


def test_the_viewer_finds_the_files_it_asks_for(tmp_path: Path) -> None:
    (path,) = export(graph_of(), tmp_path / "mary.circuit.json")
    export(graph_of(), tmp_path / "plain.json")
    listed = list_for_viewer(tmp_path)
    graphs = json.loads(listed.read_bytes())["graphs"]
    assert listed.name == "graph-metadata.json"
    assert [entry["slug"] for entry in graphs] == ["mary.circuit"]
    asked = tmp_path / f"{graphs[0]['slug']}.json"
    assert asked == path
    assert graphs[0] == json.loads(asked.read_bytes())["metadata"]
    path.write_text("[]")
    with pytest.raises(GraphError, match="holds no attribution graph"):
        list_for_viewer(tmp_path)
    path.unlink()
    with pytest.raises(GraphError, match=r"there is no \*.circuit.json"):
        list_for_viewer(tmp_path)


# Saving ----------------------------------------------------------------------------------------------------------


def test_unknown_formats_are_named(tmp_path: Path) -> None:
    for name in ("g.dot", "g", "g.nodes"):
        with pytest.raises(GraphError, match=r"choices: \.graphml, \.gexf, \.json, \.csv, \.parquet, \.circuit\.json"):
            export(graph_of(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_the_case_of_the_suffix_does_not_matter(tmp_path: Path) -> None:
    (path,) = export(graph_of(), tmp_path / "G.Circuit.JSON")
    assert "qParams" in json.loads(path.read_bytes())


NEEDS = {".graphml": "networkx", ".gexf": "networkx", ".json": "networkx", ".parquet": "pyarrow"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_packages_are_named(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr("lrp_hooks.graph.export.digraph.import_module", missing)
    path = tmp_path / f"g{suffix}"
    if suffix not in NEEDS:
        assert all(file.exists() for file in export(graph_of(), path))
        return
    with pytest.raises(GraphError, match=rf"needs {NEEDS[suffix]}: .*pip install 'lrp-hooks\[export\]'"):
        export(graph_of(), path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_cannot_be_exported_leaves_no_file(suffix: str, tmp_path: Path) -> None:
    graph = graph_of()
    broken = torch.full_like(graph.relevance, float("nan"))
    doubled = graph.select(torch.tensor([0, 1, 0]))
    for bad, message in ((replace(graph, relevance=broken), "NaN or infinity"), (doubled, "several edges")):
        with pytest.raises(GraphError, match=message):
            export(bad, tmp_path / f"g{suffix}")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = export(graph_of(), tmp_path / "g.graphml")
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of something")

    monkeypatch.setattr("networkx.readwrite.graphml.GraphMLWriter.dump", fail)
    with pytest.raises(RuntimeError, match="out of something"):
        export(graph_of(mid=True), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_hundred_thousand_edges(suffix: str, tmp_path: Path) -> None:
    """Seconds, not minutes: a linear search per edge would take hours."""
    random = torch.Generator().manual_seed(3)
    places = torch.randperm(20 * 400 * 400, generator=random)[:100_000]
    below, target, source = places // 160_000, places // 400 % 400, places % 400
    graph = replace(
        graph_of(tokens=tuple(f" t{i}" for i in range(400))),
        relevance=torch.randn(21, 400, generator=random),
        below=below,
        above=below + 1,
        source=source,
        target=target,
        weight=torch.randn(100_000, generator=random),
        points=tuple(range(21)),
    )
    start = time.process_time()
    files = export(graph, tmp_path / f"g{suffix}")
    assert time.process_time() - start < 60
    assert all(file.stat().st_size > 100_000 for file in files)


def test_public_names_exist() -> None:
    assert all(callable(getattr(package, name)) for name in package.__all__ if name != "SUFFIXES")
