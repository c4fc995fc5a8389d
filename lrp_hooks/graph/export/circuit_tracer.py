"""Attribution-graph JSON, for the viewers that come with circuit-tracer and Neuronpedia.

Their nodes are transcoder features; ours are (residual point, token). What is said where, and why:

| ours | theirs |
|---|---|
| node at point 0 | ``embedding`` in layer ``"E"``; the viewers write its label themselves |
| final node | ``logit``, the target: its label is the target in words, its row is above all others |
| several of them | a ``logit`` each; in its label token and relevance, its share of them as ``token_prob`` |
| every other node | feature type ``residual stream``, layer = residual point, label with token and relevance |
| node inside block l | layer l: rows are whole numbers. It stands beside the node before that block |
| edge | link with the same weight, in logits |
| column (token or segment) | ``ctx_idx``, ``prompt_tokens`` |

Layer ``n`` is therefore what comes out of block ``n - 1``, and a model of L blocks fills the rows that Neuronpedia
draws for L layers.

**Feature pages.** There are none, and none may be shown by accident. circuit-tracer's viewer looks up examples for
``cross layer transcoder`` nodes only: for ours it shows the row and a number without meaning. Neuronpedia looks up
every node that is no embedding, error or logit, for some models by name alone, so that a made-up feature number would
bring the page of an unrelated feature. Our numbers are negative and ``schema_version`` is 1: the number is then
unpaired (Cantor), which gives no index, the look-up is refused and the node stays without a page. Its replacement and
completeness scores mean nothing here: no part of the model was replaced.

**Pruning slider.** ``influence`` is what circuit-tracer means by it (`influence`, `cumulative`), from our weights.

**Text.** Both viewers put labels into the page as HTML: ``<``, ``>`` and ``&`` in tokens become full-width, control
characters visible. The text itself is in each node's ``lrp_hooks.token``, which viewers do not show.

**Neuronpedia** wants a ``scan`` that is one of its model names, and at least one node between the embedding and the
target. Where each fact about the format and its viewers comes from is written in ``circuit_schema.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from lrp_hooks import __version__
from lrp_hooks.errors import GraphError, first_line
from lrp_hooks.files import write_atomically
from lrp_hooks.graph.export.columns import Nodes, flatten, node_id, tabulate
from lrp_hooks.graph.export.influence import cumulative, influence
from lrp_hooks.graph.export.text import json_bytes
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.tokens import visible

KIND = "residual stream"
_HTML = str.maketrans({"<": "\uff1c", ">": "\uff1e", "&": "\uff06"})
_ABOUT = (
    "Contrastive attribution by layer-wise relevance propagation. A node is the residual stream at one token: layer n "
    "is what block n - 1 puts out, layer E the stream before the first block, the top node the explained target. A "
    "link is the relevance, in logits, that flows between two nodes; links of one target add up to its relevance less "
    "what pruning dropped. These are no transcoder features and have no feature pages."
)


def to_circuit_tracer(
    graph: AttributionGraph,
    *,
    slug: str = "lrp-graph",
    scan: str | None = None,
    prompt: str | None = None,
    probability: float | None = None,
    creator: str = "",
) -> dict[str, Any]:
    """The graph in the attribution-graph format; `circuit_tracer_schema` describes it, the module what is mapped how.

    Args:
        slug: name of the graph; circuit-tracer's viewer reads ``<slug>.json``.
        scan: name of the model; Neuronpedia accepts only names it knows (``gemma-2-2b``).
        prompt: the prompt as text; None joins the texts of the columns.
        probability: of the target token. None where the target is no token (a logit difference): the label then says
            ``p=n/a``, and ``token_prob``, by which viewers weigh several targets, is 1 (their shares of several).
        creator: who made this graph.

    Raises:
        GraphError: NaN or infinity in the graph.
    """
    nodes, edges = tabulate(graph)
    ends_at = [nodes.id.index(node_id(graph.points[-1], column)) for column in graph.positions]
    finals = dict(zip(ends_at, graph.final_shares, strict=True))
    shares = cumulative(influence(nodes, edges, finals)).tolist()
    made = _nodes(graph, nodes, finals, probability)
    for node, share in zip(made, shares, strict=True):
        node["influence"] = share
    ids = [node["node_id"] for node in made]
    ends = zip(edges.source.tolist(), edges.target.tolist(), edges.weight.tolist(), strict=True)
    return {
        "metadata": _metadata(graph, slug, scan, prompt, creator),
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": ids[ends_at[-1]], "sg_pos": ""},
        "nodes": made,
        "links": [{"source": ids[source], "target": ids[target], "weight": weight} for source, target, weight in ends],
    }


def circuit_tracer_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of the format: what the viewers' code needs, with the source of each fact."""
    text = files("lrp_hooks.graph.export").joinpath("circuit_schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def list_for_viewer(folder: str | Path) -> Path:
    """Write ``graph-metadata.json``, the list of graphs that circuit-tracer's viewer offers, for ``*.circuit.json``.

    ``circuit_tracer.frontend.local_server.serve(data_dir=folder)`` then shows them.

    Raises:
        GraphError: no such file in the folder, or one that holds no graph.
    """
    folder = Path(folder)
    graphs = []
    for path in sorted(folder.glob("*.circuit.json")):
        try:
            graphs.append(json.loads(path.read_text(encoding="utf-8"))["metadata"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise GraphError(f"{path} holds no attribution graph: {first_line(error)}") from error
    if not graphs:
        raise GraphError(f"there is no *.circuit.json in {folder}. do: export(graph, folder / 'name.circuit.json')")
    listed = folder / "graph-metadata.json"
    write_atomically(listed, lambda file: file.write(json_bytes({"graphs": graphs})))
    return listed


def label(text: str) -> str:
    """Text that a page may show as HTML."""
    return visible(text).translate(_HTML)


def _nodes(
    graph: AttributionGraph, nodes: Nodes, finals: Mapping[int, float], probability: float | None
) -> list[dict[str, Any]]:
    width = len(graph.tokens)
    points, columns, rows = nodes.point.tolist(), nodes.index.tolist(), nodes.row.tolist()
    relevance, words = nodes.relevance.tolist(), _column_names(graph)
    others = [int(point) for i, point in enumerate(points) if i not in finals]
    made = []
    for i, (point, column) in enumerate(zip(points, columns, strict=True)):
        feature = -(rows[i] * width + column) - 2  # -1 means "error node" in circuit-tracer
        if i in finals:
            layer = max([*others, int(point) - 1]) + 1
            node = _final(graph, column, layer, feature, finals[i], probability)
        elif point == 0:
            node = _embedding(graph, column, words[column])
        else:
            text = f"residual point {point:g} · {words[column]} · R = {relevance[i]:+.3f}"
            node = _node(str(int(point)), feature, column, KIND, text)
        exact = {"id": nodes.id[i], "point": point, "index": column, "token": nodes.token[i]}
        made.append(node | {"relevance": relevance[i], "lrp_hooks": exact})
    return made


def _node(layer: str, feature: int, column: int, kind: str, text: str) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{feature}_{column}",
        "feature": feature,
        "layer": layer,
        "ctx_idx": column,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{layer}_{feature}-{column}",
        "clerp": text,
    }


def _embedding(graph: AttributionGraph, column: int, words: str) -> dict[str, Any]:
    """Numbered by vocabulary id where there is one, as in circuit-tracer; by column otherwise."""
    known = graph.segments is None and graph.input_ids is not None
    vocabulary = int(graph.input_ids[column]) if known and graph.input_ids is not None else column
    ids = {"node_id": f"E_{vocabulary}_{column}", "jsNodeId": f"E_{vocabulary}-{column}"}
    return _node("E", column, column, "embedding", f"Emb: {words}") | ids


def _final(
    graph: AttributionGraph, column: int, layer: int, feature: int, share: float, probability: float | None
) -> dict[str, Any]:
    """The viewers take the target's name from between the quotes and a number from behind ``(p=``."""
    words, token = (_quotable(text) for text in (str(graph.about.get("target", "target")), graph.tokens[column]))
    value = graph.about.get("value") if len(graph.positions) == 1 else float(graph.relevance[-1, column])
    size = f" = {value:+.3f} logits" if isinstance(value, float) else ""
    if len(graph.positions) > 1:
        size = f" at {token}{size}"
    chance = "n/a" if probability is None else f"{probability:.3f}"
    node = _node(str(layer), feature, column, "logit", f'Output "{words}"{size} (p={chance})')
    weight = share if probability is None else share * float(probability)
    return node | {"token_prob": weight, "is_target_logit": True, "jsNodeId": f"L_{feature}-{column}"}


def _quotable(text: str) -> str:
    return label(text).replace('"', "\u201d").replace("(p=", "(p\uff1d")


def _column_names(graph: AttributionGraph) -> list[str]:
    names = [f"\u201c{label(token)}\u201d" for token in graph.tokens]
    if graph.segments is None:
        return names
    pairs = zip(names, graph.segments, strict=True)
    return [f"segment {name} (tokens {segment.start}\u2013{segment.stop - 1})" for name, segment in pairs]


def _metadata(graph: AttributionGraph, slug: str, scan: str | None, prompt: str | None, creator: str) -> dict[str, Any]:
    settings = {name: label(value) if isinstance(value, str) else value for name, value in flatten(dict(graph.about))}
    pruning = {name.removeprefix("pruning."): settings.pop(name) for name in list(settings) if name[:8] == "pruning."}
    return {
        "slug": slug,
        "scan": scan if scan is not None else str(graph.about.get("model", "unknown")),
        "transcoder_list": [],
        "prompt_tokens": [label(token) for token in graph.tokens],
        "prompt": "".join(graph.tokens) if prompt is None else prompt,
        "node_threshold": 1.0,
        "schema_version": 1,
        "info": {
            "description": _ABOUT,
            "source_urls": [],
            "generator": {"name": "lrp_hooks", "version": __version__},
        }
        | ({"creator_name": creator} if creator else {}),
        "generation_settings": settings,
        "pruning_settings": pruning,
    }
