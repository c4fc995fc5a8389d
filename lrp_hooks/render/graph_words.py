"""The words around a picture of a graph: caption, legend, labels of columns, paths."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from lrp_hooks.graph.model import AttributionGraph, Path
from lrp_hooks.render.words import sides, statement, supports_sides
from lrp_hooks.tokens import alone, visible


def labels(graph: AttributionGraph) -> list[str]:
    """What to call each column."""
    names = graph.tokens if graph.segments is None else [segment.name for segment in graph.segments]
    return [alone(visible(name)) or "∅" for name in names]


def places(graph: AttributionGraph) -> list[str]:
    """Which tokens each column stands for."""
    if graph.segments is None:
        return [f"token {index}" for index in range(len(graph.tokens))]
    return [
        f"token {segment.start}" if len(segment) == 1 else f"tokens {segment.start}\u2013{segment.stop - 1}"
        for segment in graph.segments
    ]


def headline(graph: AttributionGraph) -> str:
    """The question that the graph answers, where target and contrast are named."""
    if "first" in graph.about and "second" in graph.about:
        return "First graph minus second graph"
    target, contrast = sides(str(graph.about.get("target", "")))
    if target is None or contrast is None:
        return "Attribution graph"
    return f"Why “{alone(visible(target))}” and not “{alone(visible(contrast))}”?"


def legend(graph: AttributionGraph) -> tuple[str, str]:
    """What positive and negative relevance speaks for; of a difference of two graphs, in which one it is larger."""
    if "first" in graph.about and "second" in graph.about:
        return "larger in the first graph", "larger in the second graph"
    return supports_sides(*sides(str(graph.about.get("target", ""))))


def caption(graph: AttributionGraph) -> list[str]:
    """Lines: what was explained and how; what the graph kept."""
    about = graph.about
    words = []
    if isinstance(about.get("value"), int | float):
        known = about.get("target_value")
        words.append(statement(str(about.get("target", "")), float(about["value"]), known))
    words += [visible(str(about[name])) for name in ("model", "composite") if about.get(name)]
    return [line for line in ("  ·  ".join(words), "  ·  ".join(_kept(graph))) if line]


def _kept(graph: AttributionGraph) -> Iterator[str]:
    yield f"{_count(len(graph.nodes), 'node')}, {_count(len(graph), 'edge')}"
    whole = sum(info.total_mass for info in graph.transitions)
    if whole > 0:
        yield f"{sum(info.kept_mass for info in graph.transitions) / whole:.0%} of Σ|weight| kept by pruning"
    pruning = graph.about.get("pruning")
    if isinstance(pruning, dict):
        yield from _pruning(pruning)
    around = graph.about.get("around")
    if isinstance(around, int | float):
        yield f"up to {around:.0%} of relevance passes residual points on other ways, without an edge"


def _pruning(pruning: dict[str, object]) -> Iterator[str]:
    node, unit = pruning.get("node_threshold"), visible(str(pruning.get("node_unit", "logits")))
    if isinstance(node, int | float) and node > 0:
        yield f"nodes with |R| > {node:g} {unit}"
    edge, share = pruning.get("edge_threshold"), pruning.get("top_p")
    if isinstance(edge, int | float):
        yield f"edges with |weight| > {edge:g}"
    elif isinstance(share, int | float) and share < 1:
        yield f"edges that carry {share:.0%} of each transition"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def stays(path: Path) -> list[tuple[int, float, float]]:
    """A path as the columns it stays on: (column, first residual point, last residual point) each."""
    runs = (list(run) for _, run in groupby(path.nodes, key=lambda node: node[1]))
    return [(run[0][1], run[0][0], run[-1][0]) for run in runs]
