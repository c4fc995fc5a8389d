"""How smooth the page of a large attribution graph is, in a real headless browser: frame times while it is used.

    python -m benchmarks.graph_page                      # 5,000 nodes, 20,000 edges
    python -m benchmarks.graph_page --nodes 1000 --edges 3000

A frame is the time between two animation frames of the page while the mouse drags, the wheel turns, or the slider
moves; 16.7 ms is the display's own pace and the best there is. "complete" is the time from the last change until every
edge is drawn. Headless Chromium draws without a GPU: an ordinary desktop browser is faster.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.render.graph_page import graph_page

RECORD = """() => {
  window.frames_ = [];
  const note = (now) => { window.frames_.push(now); window.recording = requestAnimationFrame(note); };
  window.recording = requestAnimationFrame(note);
}"""
STOP = "() => { cancelAnimationFrame(window.recording); return window.frames_; }"
IDLE = "() => !layer.job && !dirty.view && !dirty.style"


def synthetic(nodes: int, edges: int, rows: int = 33, seed: int = 0) -> AttributionGraph:
    """Heavy-tailed weights; a third of the edges stay on their token, some go to the first token."""
    chance, columns = random.Random(seed), max(20, nodes // 12)
    found: dict[tuple[int, int, int], float] = {}
    seen: set[tuple[int, int]] = set()
    while len(found) < edges:
        row, target = chance.randrange(rows - 1), chance.randrange(columns)
        kind = chance.random()
        source = target if kind < 0.35 else 0 if kind < 0.45 else max(0, target - int(chance.expovariate(0.03)))
        ends = {(row, source), (row + 1, target)}
        if len(seen) >= nodes and not ends <= seen:
            continue
        seen |= ends
        found[row, source, target] = chance.choice((1, 1, -1)) * min(3.0, 0.003 * chance.paretovariate(1.1))
    below, source_, target_ = (torch.tensor(column) for column in zip(*found, strict=True))
    weight = torch.tensor(list(found.values()))
    relevance = torch.zeros(rows, columns).index_put((below, source_), weight, accumulate=True)
    return AttributionGraph(
        relevance=relevance,
        below=below,
        above=below + 1,
        source=source_,
        target=target_,
        weight=weight,
        points=tuple(range(rows)),
        position=columns - 1,
        tokens=tuple(f" word{i}" for i in range(columns)),
        transitions=(),
        about={"target": "logit(' yes') - logit(' no')", "value": 5.0, "model": "synthetic"},
    )


def frames(page: Any, act: Callable[[], None]) -> dict[str, float]:
    """Milliseconds between frames while ``act`` runs, and until the drawing is complete after it."""
    page.evaluate(RECORD)
    act()
    times = page.evaluate(STOP)
    begun = time.perf_counter()
    page.wait_for_function(IDLE)
    gaps = sorted(b - a for a, b in pairwise(times))
    return {
        "frames": len(gaps),
        "median": statistics.median(gaps),
        "p95": gaps[int(0.95 * (len(gaps) - 1))],
        "longest": gaps[-1],
        "complete": 1000 * (time.perf_counter() - begun),
    }


def drag(page: Any) -> None:
    """Pan to and fro for about two seconds."""
    page.mouse.move(700, 500)
    page.mouse.down()
    for step in range(120):
        page.mouse.move(700 + 3 * (step if step < 60 else 120 - step), 500 + step % 20)
        page.wait_for_timeout(12)
    page.mouse.up()


def wheel(page: Any) -> None:
    """Zoom in and out."""
    for step in range(60):
        page.mouse.wheel(0, -60 if step < 30 else 60)
        page.wait_for_timeout(16)


def slide(page: Any) -> None:
    """Move the threshold from all edges to few and back."""
    for step in [*range(0, 700, 15), *range(700, 0, -15)]:
        page.evaluate(
            "step => { const s = control('threshold'); s.value = step; s.dispatchEvent(new Event('input')); }", step
        )
        page.wait_for_timeout(12)


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--edges", type=int, default=20000)
    options = parser.parse_args()
    begun = time.perf_counter()
    graph = synthetic(options.nodes, options.edges)
    built = time.perf_counter()
    html = graph_page(graph, title="Benchmark")
    seconds = time.perf_counter() - built
    print(f"{len(graph.nodes)} nodes, {len(graph)} edges (made in {built - begun:.1f} s)")
    print(f"page: {len(html.encode()) / 1e3:.0f} kB, written in {seconds:.2f} s")
    browser_path = os.environ.get("LRP_HOOKS_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder) / "graph.html"
        file.write_text(html, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        print(f"chromium {browser.version}, {os.cpu_count()} cores, no GPU; milliseconds")
        page = browser.new_page(viewport={"width": 1440, "height": 980})
        begun = time.perf_counter()
        page.goto(file.as_uri())
        page.wait_for_function(IDLE)
        print(f"{'open':<18} complete {1000 * (time.perf_counter() - begun):5.0f}")
        page.evaluate("state.threshold = 0; control('threshold').value = 0; filterChanged(true)")
        page.wait_for_function(IDLE)
        page.evaluate("zoomBy(3)")
        page.wait_for_function(IDLE)
        for name, act in (("pan, all edges", drag), ("zoom, all edges", wheel), ("slider", slide)):
            row = frames(page, lambda act=act: act(page))  # type: ignore[misc]
            print(f"{name:<18}", "  ".join(f"{key} {value:5.1f}" for key, value in row.items()))
        browser.close()


if __name__ == "__main__":
    main()
