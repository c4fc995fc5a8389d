"""GraphML and GEXF, through NetworkX' writers.

Text is marked first (`mark_for_xml`): XML 1.0 has no way to write NUL, most other controls or lone surrogates, and
NetworkX would write files that no parser opens.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any
from xml.etree.ElementTree import SubElement

from lrp_hooks.graph.export.digraph import require, to_networkx
from lrp_hooks.graph.export.text import json_bytes, mark_for_xml
from lrp_hooks.graph.model import AttributionGraph

if TYPE_CHECKING:
    import networkx as nx


def write_graphml(graph: AttributionGraph, file: IO[bytes]) -> None:
    """GraphML 1.0 with the attributes of `to_networkx`; names serve as key ids."""
    made = _marked(to_networkx(graph))
    require("networkx.readwrite.graphml").write_graphml_xml(made, file, named_key_ids=True)


def write_gexf(graph: AttributionGraph, file: IO[bytes]) -> None:
    """GEXF 1.2 with the attributes of `to_networkx`, for Gephi: ``label`` is the token.

    Two differences: GEXF has no attributes of the whole graph, so the description is JSON text in
    ``meta/description``; and NetworkX' GEXF keeps ``key`` for itself, so that part of an edge is ``key_path``.
    """
    made = _marked(to_networkx(graph))
    description = json_bytes(dict(made.graph)).decode()
    made.graph.clear()
    for _, attributes in made.nodes(data=True):
        attributes["label"] = attributes["token"]
    for _, _, attributes in made.edges(data=True):
        if "key" in attributes:
            attributes["key_path"] = attributes.pop("key")
    writer = require("networkx.readwrite.gexf").GEXFWriter(encoding="utf-8", prettyprint=True, version="1.2draft")
    writer.add_graph(made)
    SubElement(writer.xml.find("meta"), "description").text = description
    writer.write(file)


def _marked(made: nx.DiGraph[str]) -> nx.DiGraph[str]:
    """The same graph with text that XML can hold; node ids are ours and need nothing."""
    made.graph = {mark_for_xml(name): _mark(value) for name, value in made.graph.items()}
    for _, attributes in made.nodes(data=True):
        attributes.update({name: _mark(value) for name, value in attributes.items()})
    return made


def _mark(value: Any) -> Any:
    return mark_for_xml(value) if isinstance(value, str) else value
