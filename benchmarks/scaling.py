"""How cost grows with the model, with the number of targets, and with the prompt where edges are made the packed way.

Models are random, of the shapes of well-known ones, with as many layers as fit (`benchmarks.shapes`); each row says how
many. What should come out, `benchmarks.predicted` says. Ratios are medians of rounds in which everything compared runs
once, every second round backwards. Seconds are those of the processor on one thread: a busy machine hardly moves them.

    python -m benchmarks.scaling               # the committed result: benchmarks/results/scaling.json
    python -m benchmarks.scaling --smoke       # some seconds; fails when targets of one trace cost too much
"""

from __future__ import annotations

import argparse
import copy
import gc
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

from benchmarks.graph import packed_samples
from benchmarks.measure import alternating, circumstances, compared, environment, smoke_metrics, write_result
from benchmarks.overhead import plain_step
from benchmarks.predicted import predicted_graph, predicted_packed, predicted_targets
from benchmarks.resume import Records
from benchmarks.shapes import SHAPES, VALUE_BYTES, Budget, Shape, first_layers, fitted, random_model, whole

PACKED_COPIES, PACKED_TOKENS = 32, 4096
"""Copies per chunk as in arXiv 2604.17761, fewer where they would be more than so many tokens together."""
SAMPLED = 4
SMOKE_LIMIT = 0.85
"""For 4 targets of one trace against 4 traces; 0.625 is predicted, 1 means that each target runs the model again."""


@dataclass(frozen=True)
class Profile:
    """What is measured.

    Attributes:
        rounds: timed ones, after one that is not.
        narrow: the shape on which targets and prompt lengths are varied.
    """

    budget: Budget
    shapes: tuple[Shape, ...]
    rounds: int
    narrow: Shape
    targets: tuple[int, ...]
    lengths: tuple[int, ...]


FULL = Profile(
    Budget(megabytes=2048, gigaflops=110, tokens=128),
    SHAPES,
    3,
    first_layers(whole("SmolLM2-135M"), 6),
    (1, 2, 4, 8, 16),
    (128, 256, 512, 1024),
)
SMOKE = Profile(Budget(64, 1, 32), SHAPES[:1], 3, first_layers(whole("SmolLM2-135M"), 4), (4,), (64,))


@dataclass(frozen=True)
class SizeRow:
    """One shape: attribution against plain forward and backward, the graph against attribution."""

    model: str
    layers: str
    megabytes: float
    tokens: int
    plain_seconds: float
    ratio: float
    fastest_ratio: float
    spread: tuple[float, float]
    graph_ratio: float
    graph_spread: tuple[float, float]
    graph_predicted: float


@dataclass(frozen=True)
class HandlingRow:
    """One shape: instrument() and remove() against loading the weights from the system's file cache."""

    model: str
    layers: str
    megabytes: float
    load_seconds: float
    instrument_seconds: float
    instrument_ratio: float
    instrument_spread: tuple[float, float]
    remove_milliseconds: float
    remove_ratio: float


@dataclass(frozen=True)
class TargetsRow:
    """So many targets of one trace, against one attribution and against as many traces."""

    targets: int
    layers: str
    tokens: int
    seconds: float
    to_one: float
    to_one_spread: tuple[float, float]
    to_one_predicted: float
    to_separate: float
    to_separate_fastest: float
    to_separate_spread: tuple[float, float]
    to_separate_predicted: float


@dataclass(frozen=True)
class PackedRow:
    """One prompt length: all edges by packed products against exact ones, attribution included on both sides.
    ``spread``: over rounds and sampled chunks."""

    tokens: int
    layers: str
    exact_seconds: float
    packed_seconds: float
    rows: float
    ratio: float
    spread: tuple[float, float]
    predicted: float


def ids_of(shape: Shape, tokens: int) -> Any:
    """Random token ids, [1, tokens]."""
    import torch

    return torch.randint(1, shape.vocabulary, (1, tokens), generator=torch.Generator().manual_seed(0))


def twin(model: Any) -> Any:
    """The same model once more, on the same weights."""
    return copy.deepcopy(model, {id(p): p for p in model.parameters()})


def size(shape: Shape, model: Any, tokens: int, rounds: int) -> SizeRow:
    from lrp_hooks import LogitDiff, instrument

    ids, target, plain = ids_of(shape, tokens), LogitDiff(), twin(model)
    with instrument(model, checkpoint=False) as lrp:
        steps = (
            plain_step(plain, ids, False),
            lambda: lrp.trace(input_ids=ids).attribute(target),
            lambda: lrp.trace(input_ids=ids).graph(target, node_threshold=0.0, connected=False),
        )
        untouched, attribution, graph = alternating(steps, rounds, process_time)
    own, edges = compared(attribution, untouched), compared(graph, attribution)
    return SizeRow(
        shape.name,
        shape.said,
        shape.parameters * VALUE_BYTES / 2**20,
        tokens,
        statistics.median(untouched),
        own.ratio,
        own.fastest,
        own.spread,
        edges.ratio,
        edges.spread,
        predicted_graph(shape, tokens),
    )


def handling(shape: Shape, folder: Path, rounds: int) -> tuple[HandlingRow, Any]:
    """Load, instrument and undo, in turn; the row, and the model that was loaded last, untouched."""
    from transformers import AutoModelForCausalLM

    from lrp_hooks import instrument

    times: list[tuple[float, float, float]] = []
    model = lrp = None
    for _ in range(rounds + 1):
        del model, lrp
        gc.collect()  # an instrumentation and its hooks know each other: one model at a time in memory
        start = process_time()
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").requires_grad_(False)
        for parameter in model.parameters():
            parameter.sum()  # weights that are only mapped have not been loaded
        loaded = process_time()
        lrp = instrument(model)
        instrumented = process_time()
        lrp.remove()
        times.append((loaded - start, instrumented - loaded, process_time() - instrumented))
    load, made, undone = (list(column) for column in zip(*times[1:], strict=True))
    ratio = compared(made, load)
    row = HandlingRow(
        shape.name,
        shape.said,
        shape.parameters * VALUE_BYTES / 2**20,
        statistics.median(load),
        statistics.median(made),
        ratio.ratio,
        ratio.spread,
        1000 * statistics.median(undone),
        compared(undone, load).ratio,
    )
    return row, model


def both(published: Shape, profile: Profile) -> tuple[SizeRow, HandlingRow]:
    """Both rows of a shape, from a model that went through a folder."""
    shape = fitted(published, profile.budget)
    with tempfile.TemporaryDirectory() as name:
        random_model(shape).save_pretrained(name)
        row, model = handling(shape, Path(name), profile.rounds)
    return size(shape, model, profile.budget.tokens, profile.rounds), row


def targets(count: int, profile: Profile) -> TargetsRow:
    """The row of a number of targets."""
    from lrp_hooks import Logit, instrument

    shape, tokens = profile.narrow, profile.budget.tokens
    ids = ids_of(shape, tokens)
    with instrument(random_model(shape), checkpoint=False) as lrp:

        def asked(count: int) -> Callable[[], object]:
            return lambda: lrp.trace(input_ids=ids).attribute([Logit(i) for i in range(count)])

        def separately() -> None:
            for _ in range(count):
                asked(1)()

        one, together, apart = alternating((asked(1), asked(count), separately), profile.rounds, process_time)
    to_one, to_separate = compared(together, one), compared(together, apart)
    to_one_predicted, to_separate_predicted = predicted_targets(shape, tokens, count)
    return TargetsRow(
        count,
        shape.said,
        tokens,
        statistics.median(together),
        to_one.ratio,
        to_one.spread,
        to_one_predicted,
        to_separate.ratio,
        to_separate.fastest,
        to_separate.spread,
        to_separate_predicted,
    )


def packed(tokens: int, profile: Profile) -> PackedRow:
    """The row of a prompt length. All target rows; packed ones are extrapolated from ``SAMPLED`` chunks."""
    from lrp_hooks import LogitDiff, instrument

    shape, target = profile.narrow, LogitDiff()
    ids = ids_of(shape, tokens)
    with instrument(random_model(shape), checkpoint=False) as lrp:
        steps = (
            lambda: lrp.trace(input_ids=ids).attribute(target),
            lambda: lrp.trace(input_ids=ids).graph(target, node_threshold=0.0, connected=False),
        )
        alone, exact = alternating(steps, profile.rounds, process_time)
        trace = lrp.trace(input_ids=ids)
        rows = float((trace.attribute(target).layers[0, 1:] != 0).sum(1).float().mean())
        chunks = packed_samples(trace, target, min(PACKED_COPIES, PACKED_TOKENS // tokens), SAMPLED, process_time)
    slow = [seconds_per_row * shape.layers * rows for seconds_per_row in chunks]
    middle = statistics.mean(slow)
    return PackedRow(
        tokens,
        shape.said,
        statistics.median(exact),
        statistics.median(alone) + middle,
        rows,
        statistics.median((a + middle) / b for a, b in zip(alone, exact, strict=True)),
        ((min(alone) + min(slow)) / max(exact), (max(alone) + max(slow)) / min(exact)),
        predicted_packed(shape, tokens, rows),
    )


def measure(profile: Profile, keep: Callable[[str, Callable[[], Any]], Any]) -> dict[str, list[Any]]:
    """All tables of a profile, row by row; ``keep(key, make)`` may know a row from an interrupted run."""
    several = [keep(f"{count} targets", partial(targets, count, profile)) for count in profile.targets]
    lengths = [keep(f"{tokens} tokens", partial(packed, tokens, profile)) for tokens in profile.lengths]
    pairs = [keep(shape.name, partial(both, shape, profile)) for shape in profile.shapes]
    return {
        "rows": [own for own, _ in pairs],
        "handling": [handled for _, handled in pairs],
        "targets": several,
        "packed": lengths,
    }


def smoke_status(tables: dict[str, list[Any]]) -> int:
    """1 when targets of one trace cost too much of as many traces."""
    row = tables["targets"][-1]
    share = min(row["to_separate"], row["to_separate_fastest"])
    smoke_metrics("scaling", {"targets": share})
    if share <= SMOKE_LIMIT:
        return 0
    words = f"{row['targets']} targets of one trace cost {share:.2f} of as many traces, at most {SMOKE_LIMIT}"
    print(words, file=sys.stderr)
    return 1


def show(key: str, make: Callable[[], Any]) -> Any:
    """Make a row, or two, and print them; as dictionaries."""
    made = make()
    print(key, made, flush=True)
    return [asdict(row) for row in made] if isinstance(made, tuple) else asdict(made)


def main() -> int:
    import torch
    import transformers

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--smoke", action="store_true", help="one small shape, nothing written")
    names = [shape.name for shape in FULL.shapes]
    parser.add_argument("--shapes", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    options = parser.parse_args()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    if options.smoke:
        return smoke_status(measure(SMOKE, show))
    shapes, before = tuple(s for s in FULL.shapes if s.name in options.shapes), circumstances()["load"]
    profile = replace(FULL, shapes=shapes)
    records = Records("scaling", {"commit": environment()["commit"]})
    tables = measure(profile, lambda key, make: records.get(key, lambda: show(key, make)))
    command = " ".join(["python -m benchmarks.scaling", *(("--shapes", *options.shapes) if profile != FULL else ())])
    write_result("scaling", tables.pop("rows"), **tables, load_before=before, command=command)
    records.done()
    return 0


if __name__ == "__main__":
    sys.exit(main())
