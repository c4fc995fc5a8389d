"""Attribution graphs for other programs; the graph's own file is `AttributionGraph.save`.

| suffix | holds | read by |
|---|---|---|
| ``.graphml`` | nodes, edges, description | yEd, Cytoscape, igraph, NetworkX |
| ``.gexf`` | nodes, edges, description | Gephi, NetworkX |
| ``.json`` | node-link JSON | D3, NetworkX |
| ``.csv`` | edges; the nodes are beside it in ``.nodes.csv`` | anything |
| ``.parquet`` | the same, typed, with the description as metadata | pandas, Polars, DuckDB |
| ``.circuit.json`` | attribution-graph JSON | circuit-tracer's viewer, Neuronpedia |

Token text is untrusted: each format's module says what it does with text that the format, its readers or a person's
spreadsheet would trip over. Except for labels in ``.circuit.json`` that is always reversible.
"""

from __future__ import annotations

from lrp_hooks.graph.export.circuit_tracer import circuit_tracer_schema, list_for_viewer, to_circuit_tracer
from lrp_hooks.graph.export.digraph import to_networkx
from lrp_hooks.graph.export.save import SUFFIXES, export
from lrp_hooks.graph.export.text import unmark

__all__ = [
    "SUFFIXES",
    "circuit_tracer_schema",
    "export",
    "list_for_viewer",
    "to_circuit_tracer",
    "to_networkx",
    "unmark",
]
