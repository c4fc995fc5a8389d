"""Peak memory and time against the number of tokens, up to 32k on the demo model and 128k on four random layers.

Every point is a fresh process. What is measured already is kept, so that a run that was interrupted goes on where it
stopped; each row says under which load it was taken (memory does not depend on it, time does).

    python -m benchmarks.long                      # all points that are missing, then docs/long.md
    python -m benchmarks.long --tokens 4096 8192   # only these lengths
    python -m benchmarks.long --page               # only the page
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import RESULTS, environment, load, random_ids, status_megabytes
from benchmarks.plots import write_memory

RESULT = RESULTS / "long.json"
PAGE = Path(__file__).parent.parent / "docs" / "long.md"
PLOT = "images/benchmarks/long.svg"
LAYERS, WIDTH, VALUE_BYTES = 30, 576, 4
"""Of the demo model; its activations are float32."""
SMALL_LAYERS, LONGEST = 4, 131_072
BUDGETS = (1.0, 1.5)
"""``max_memory`` of the stages that are given one, as multiples of the smallest that is not refused."""
SLOPE_FROM, SLOPE_TO, SLOPE_LIMIT = 4096, 32_768, 1.05
FIRST_CALL = 25.0
"""MB of code pages and the like that a process's first call loads, whatever the length (tests/within_budget.py)."""
GRAPH_LIMIT = 6000.0
"""MB that a graph of ``SLOPE_TO`` tokens of the demo model may take, the model included."""


@dataclass(frozen=True)
class Point:
    """One process.

    Attributes:
        model: "demo", or "small": four random layers of the demo model's width.
        stages: what is done, one after the other, in this process; each gives a row.
    """

    model: str
    tokens: int
    stages: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One stage of a point, memory in MB. Peaks are of resident memory, the loaded model included in ``peak``, not in
    ``added``; ``budget``: what ``max_memory`` allowed, None without one."""

    model: str
    tokens: int
    stage: str
    seconds: float
    peak: float
    added: float
    edges: int | None
    load: float
    threads: int
    commit: str
    budget: float | None = None

    @property
    def layers(self) -> int:
        return LAYERS if self.model == "demo" else SMALL_LAYERS

    @property
    def bytes_per_token_and_layer(self) -> float:
        return self.added * 2**20 / self.tokens / self.layers


def points() -> Iterator[Point]:
    """Short ones first."""
    for tokens in (1024, 2048, 4096, 8192, 16_384, 32_768):
        for stage in ("forward", "attribution", "graph"):
            yield Point("demo", tokens, (stage,))
    for tokens in (4096, 16_384):
        yield Point("demo", tokens, ("graph of heads",))
    for tokens in (2048, 32_768):
        yield Point("demo", tokens, ("offloaded",))
    for tokens in (2048, 4096):
        for share in BUDGETS:
            yield Point("small", tokens, tuple(f"{kind} in {share:g} x least" for kind in ("attribution", "graph")))
    for tokens in (8192, 32_768, LONGEST):
        yield Point("small", tokens, ("forward",))
        yield Point("small", tokens, ("attribution", "top graph"))


def small_model() -> Any:
    """Four random layers of the demo model's width."""
    import torch
    from transformers import AutoModelForCausalLM

    from lrp_hooks.loading.demo import load_demo_model

    config = load_demo_model().model.config
    config.num_hidden_layers, config.max_position_embeddings = SMALL_LAYERS, LONGEST
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    return model.requires_grad_(False)


def stages(point: Point) -> Iterator[tuple[str, Callable[[], int | None], int | None]]:
    """What a point does, step by step, and in which budget of bytes; a step returns the number of edges that it kept,
    if it makes any."""
    from lrp_hooks import LogitDiff, instrument

    model = load() if point.model == "demo" else small_model()
    for parameter in model.parameters():
        parameter.sum()  # touch mapped weights: they count as the model's, not as the step's
    ids, target = random_ids(point.tokens), LogitDiff()
    if point.stages == ("forward",):
        yield "forward", lambda: _forward(model, ids), None
        return
    last, share = len(model.model.layers), budget_share(point.stages[0])
    budget = None if share is None else math.ceil(share * _least(model, point.tokens))
    with instrument(model, checkpoint=True if budget is None else "auto", max_memory=budget) as lrp:
        traces: list[Any] = []

        def trace() -> Any:
            if not traces:
                traces.append(lrp.trace(input_ids=ids, allow_beyond_max=True))
            return traces[0]

        def attribute() -> None:
            trace().attribute(target)

        def graph(**options: Any) -> int:
            return len(trace().graph(target, connected=False, **options))

        asked: dict[str, Callable[[], int | None]] = {
            "attribution": attribute,
            "offloaded": attribute,
            "graph": graph,
            "graph of heads": lambda: graph(detail="heads"),
            "top graph": lambda: graph(points=(last - 1, last)),
        }
        for stage in point.stages:
            yield stage, asked[stage.split(" in ")[0]], budget


def budget_share(stage: str) -> float | None:
    """The budget that a stage is given, as a multiple of the least."""
    if stage == "offloaded":
        return 1.0
    return float(stage.split(" in ")[1].split()[0]) if stage.endswith(" x least") else None


def _least(model: Any, tokens: int) -> int:
    """The smallest budget that is not refused, in bytes."""
    from lrp_hooks import instrument

    with instrument(model) as lrp:
        return math.ceil(lrp.checkpointing.offloaded_bytes(1, tokens))


def _forward(model: Any, ids: Any) -> None:
    import torch

    with torch.no_grad():
        model(input_ids=ids, use_cache=False, logits_to_keep=1)


def measure(point: Point) -> None:
    """Run a point in this process; print a row per stage as it is done."""
    import torch

    before = 0.0
    for stage, step, budget in stages(point):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = before or status_megabytes("VmRSS")
        started = time.perf_counter()
        edges = step()
        row = Row(
            point.model,
            point.tokens,
            stage,
            seconds=time.perf_counter() - started,
            peak=status_megabytes("VmHWM"),
            added=status_megabytes("VmHWM") - before,
            edges=edges,
            load=os.getloadavg()[1],
            threads=torch.get_num_threads(),
            commit=environment()["commit"],
            budget=None if budget is None else budget / 2**20,
        )
        print(json.dumps(asdict(row)), flush=True)


def measured(point: Point) -> Iterator[Row]:
    """The rows of a point, from a fresh process, as they come.

    glibc adapts the size from which it returns memory to the system; it is fixed here, so that what the program asks
    for is what is counted.
    """
    command = [sys.executable, "-m", "benchmarks.long", "--point", point.model, str(point.tokens), *point.stages]
    variables = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield Row(**json.loads(line))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} ended with status {process.returncode}")


def known() -> list[Row]:
    """Rows of the result file."""
    return [Row(**row) for row in json.loads(RESULT.read_text())["rows"]] if RESULT.exists() else []


def keep(row: Row) -> None:
    """Put one row into the result file, in order; the file is whole at any time."""
    rows = {(r.model, r.tokens, r.stage): r for r in (*known(), row)}
    order = [key for p in points() for stage in p.stages if (key := (p.model, p.tokens, stage)) in rows]
    facts = {**environment(), "command": "python -m benchmarks.long", "rows": [asdict(rows[key]) for key in order]}
    temporary = RESULT.with_suffix(".part")
    temporary.write_text(json.dumps(facts, indent=1) + "\n")
    temporary.replace(RESULT)


def missing(tokens: Iterable[int], model: str, stage: str) -> Iterator[Point]:
    """Points, or their remaining part, that have no row yet."""
    wanted = set(tokens)
    for point in points():
        have = {row.stage for row in known() if (row.model, row.tokens) == (point.model, point.tokens)}
        rest = tuple(s for s in point.stages if s not in have and stage in ("", s))
        if rest and (not wanted or point.tokens in wanted) and model in ("", point.model):
            yield Point(point.model, point.tokens, rest)


def slope(rows: Iterable[Row]) -> float | None:
    """Least-squares slope of log(added) over log(tokens) in the range of the bar; None for less than two lengths."""
    places = [(math.log(r.tokens), math.log(r.added)) for r in rows if SLOPE_FROM <= r.tokens <= SLOPE_TO]
    if len(places) < 2:
        return None
    x, y = (sum(column) / len(places) for column in zip(*places, strict=True))
    return sum((a - x) * (b - y) for a, b in places) / sum((a - x) ** 2 for a, _ in places)


def faults(rows: list[Row]) -> list[str]:
    """What misses its bar."""
    found = []
    for stage in ("attribution", "graph"):
        steep = slope(r for r in rows if (r.model, r.stage) == ("demo", stage))
        if steep is not None and steep > SLOPE_LIMIT:
            found.append(f"memory of {stage}: slope {steep:.3f}, at most {SLOPE_LIMIT}")
    for row in rows:
        if (row.model, row.stage, row.tokens) == ("demo", "graph", SLOPE_TO) and row.peak > GRAPH_LIMIT:
            found.append(f"the graph of {SLOPE_TO:,} tokens takes {row.peak:,.0f} MB, at most {GRAPH_LIMIT:,.0f}")
        if row.budget is not None and row.added > row.budget + FIRST_CALL:
            found.append(f"{row.stage} of {row.tokens:,} tokens adds {row.added:,.0f} MB, its budget {row.budget:,.0f}")
    return found


def page(rows: list[Row]) -> str:
    """docs/long.md."""
    return PAGE_TEXT.format(
        memory="\n".join(_memory(rows)),
        slopes="\n".join(_slopes(rows)),
        budgets="\n".join(_budgets(rows)),
        times="\n".join(_times(rows)),
        needles="\n".join(_needles()),
    )


def _needles() -> Iterator[str]:
    from benchmarks import needle

    yield "| model | tokens | the fact stands at | lead | lead with another fact | place | share | next region |"
    yield "|---|---|---|---|---|---|---|---|"
    for r in needle.known():
        leads = f"{r.lead:+.2f} | {r.exchanged_lead:+.2f}"
        place = f"{r.rank} of {r.regions:,} | {r.share:.1%} | {r.runner_up:.2%}"
        yield f"| {r.model} | {r.tokens:,} | {r.depth:.0%} | {leads} | {place} |"


def _memory(rows: list[Row]) -> Iterator[str]:
    yield "| model | tokens | stage | peak, MB | added by it, MB | bytes per token and layer | edges kept |"
    yield "|---|---|---|---|---|---|---|"
    for r in rows:
        edges = "" if r.edges is None else f"{r.edges:,}"
        sizes = f"{r.peak:,.0f} | {r.added:,.0f} | {r.bytes_per_token_and_layer:,.0f}"
        yield f"| {r.model} | {r.tokens:,} | {r.stage} | {sizes} | {edges} |"


def _budgets(rows: list[Row]) -> Iterator[str]:
    given = [(r, r.budget) for r in rows if r.budget is not None]
    if not given:
        yield "Not measured yet."
        return
    yield "| model | tokens | stage | budget, MB | added, MB | of the budget |"
    yield "|---|---|---|---|---|---|"
    for r, budget in given:
        yield f"| {r.model} | {r.tokens:,} | {r.stage} | {budget:,.0f} | {r.added:,.0f} | {r.added / budget:.0%} |"


def _slopes(rows: list[Row]) -> Iterator[str]:
    for stage in ("attribution", "graph"):
        mine = [r for r in rows if (r.model, r.stage) == ("demo", stage) and SLOPE_FROM <= r.tokens <= SLOPE_TO]
        steep = slope(mine)
        if steep is not None:
            lengths = ", ".join(f"{r.tokens:,}" for r in mine)
            yield f"- {stage}: log-log slope {steep:.3f} over {lengths} tokens (bar: {SLOPE_LIMIT})"


def _times(rows: list[Row]) -> Iterator[str]:
    yield "| model | tokens | stage | ms per token | of the plain forward | load |"
    yield "|---|---|---|---|---|---|"
    forward = {(r.model, r.tokens): r.seconds for r in rows if r.stage == "forward"}
    for r in rows:
        plain = forward.get((r.model, r.tokens))
        ratio = "" if plain is None else f"{r.seconds / plain:.1f}"
        yield f"| {r.model} | {r.tokens:,} | {r.stage} | {1000 * r.seconds / r.tokens:.2f} | {ratio} | {r.load:.1f} |"


PAGE_TEXT = """# Long contexts

Attribution and graph in memory linear in the number of tokens. This page is written by `python -m benchmarks.long`
from [its results](../benchmarks/results/long.json); lengths that are missing there have not been measured yet.

## What is kept

With checkpointing the residual stream at every point, (L + 1) · T · D numbers, and one block's inside twice: its
activations, and their gradients. The graph adds tiles and the edges that it keeps, never T · T numbers. Logits are
computed at the explained position only.

`instrument(model, max_memory=...)`, `--max-memory 6GB` on the command line, chooses by what was measured on a probe
when the model was instrumented:

1. everything is kept, if it fits;
2. else blocks are checkpointed: recomputed when the gradient reaches them;
3. else `trace()` moves the residual streams away too: to an unnamed temporary file for a model on the CPU, to the
   CPU's memory for one on a GPU. What stays is one block's inside, whatever the number of blocks;
4. else `InputError` says the least that would do.

What the budget counts is what a question adds to the process at its peak: activations, their gradients, the work inside
a block and, for a graph, its row blocks. `tests/lrp_hooks/test_memory.py` and the table "Budgets" compare it with
measured peaks. Outside of it are the weights; the pages of code that a first call loads, about 25 MB on a CPU at any
length; and the edges that a graph keeps, which pruning decides: 20 bytes each until all transitions are done, 36 in the
finished graph, and copies of these while it is put together.

Without `max_memory` the same happens by what is free. Results do not change, chunks of re-run copies follow the budget.
Interrupting (Ctrl-C) leaves the model, and the trace, as they were: the next question is answered as if nothing had
happened.

Sliding windows and padded batches: transformers would write a mask of T · T bytes per kind of layer, which sdpa turns
into floats. From 16 M entries on (4,096 tokens, one sequence) such masks are kept as two numbers per token
(`lrp_hooks/patching/masks.py`), and attention runs block by block over the columns that are seen. Four layers of the
demo model's width with a window of 1,024 then add 302, 578 and 1,131 MB at 4,096, 8,192 and 16,384 tokens (slope 0.95),
where written-out masks took 400 and 933 MB at the first two.

What is not linear: eager attention, which writes its weights out, and masks in which a token sees two stretches of
others.

## Peak memory

Each row is a fresh process with checkpointing on; random tokens, target `LogitDiff()`, default pruning. "demo" is
SmolLM2-135M-Instruct (30 layers, float32, made longer than it was trained for: memory does not mind), "small" four
random layers of its width. "graph of heads" has the value, key and query path of every head for every edge (12 bytes
each, which the table counts). "offloaded" is the attribution with the smallest `max_memory` that is not refused (three
streams and twice one block's inside); "top graph" is the graph of the last block, in the process of the attribution.

![Memory against the number of tokens](images/benchmarks/long.svg)

{memory}

{slopes}

## Budgets

Peaks under a given `max_memory`: multiples of the smallest that is not refused. The graph's row is the peak of its own
backward pass, the trace that it shares with the attribution included.

{budgets}

## Time

One thread, in the same processes; `load` is the machine's load average at the time: above 1 the times say little.

{times}

## A needle

A fact planted in filler, and a question about it at the end (`python -m benchmarks.needle`,
[results](../benchmarks/results/needle.json)). The lead is the logit of the right word over another, with the fact and
with that other word in the fact's place: the model uses the fact. Relevance is summed over regions as long as the fact;
shares are of the sum of |R| before the question. "tiny" has two layers and was trained on 128 tokens.

{needles}
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--tokens", type=int, nargs="*", default=(), help="only these lengths")
    parser.add_argument("--model", default="", help="only demo, or small")
    parser.add_argument("--stage", default="", help="only this stage")
    parser.add_argument("--page", action="store_true", help="only write the page from what is known")
    parser.add_argument("--point", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        model, tokens, *steps = options.point
        measure(Point(model, int(tokens), tuple(steps)))
        return 0
    if not options.page:
        for point in missing(options.tokens, options.model, options.stage):
            for row in measured(point):
                print(row, flush=True)
                keep(row)
    write_memory([asdict(row) for row in known()], PAGE.parent / PLOT)
    PAGE.write_text(page(known()))
    for fault in faults(known()):
        print(fault, file=sys.stderr)
    return 1 if faults(known()) else 0


if __name__ == "__main__":
    sys.exit(main())
