"""The benchmark suites: what each measures, the tests that gate it, its tables, and what its smoke run may not lose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Columns = Mapping[str, tuple[str, str]]
"""Heading -> field of a row, and how to write it."""


@dataclass(frozen=True)
class Bound:
    """What a smoke profile's number may do against the committed one (``results/smoke.json``).

    Attributes:
        noise: share by which it may be worse, as seen between runs on a busy machine.
        smaller_is_better: ratios of time, as opposed to scores.
    """

    noise: float
    smaller_is_better: bool = True

    def limit(self, committed: float) -> float:
        return committed * (1 + self.noise if self.smaller_is_better else 1 - self.noise)

    def broken(self, value: float, committed: float) -> bool:
        limit = self.limit(committed)
        return value > limit if self.smaller_is_better else value < limit


@dataclass(frozen=True)
class Table:
    """A further table of a suite: the list ``rows`` of its result, under a sentence."""

    rows: str
    says: str
    columns: Columns


@dataclass(frozen=True)
class Suite:
    """One ``python -m benchmarks.NAME``.

    Attributes:
        question: what it answers.
        gate: tests that must pass before a number is taken.
        columns: of its table in the report.
        more: further tables.
        notes: paragraphs under the tables: why numbers are what they are.
        smoke: whether it has a ``--smoke`` profile, which CI runs; bounds: its numbers that may not get worse.
        page: where its result is written up, for suites with a page of their own.
        alone: runs only when it is named: too long for "everything", or in need of what few machines have.
    """

    name: str
    question: str
    gate: tuple[str, ...]
    columns: Columns = field(default_factory=dict)
    more: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()
    smoke: bool = False
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    page: str = ""
    alone: bool = False


def table(columns: Columns, rows: list[dict[str, Any]]) -> list[str]:
    """Markdown lines."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = (_cell(row.get(name), form) for name, form in columns.values())
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(value: Any, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return " to ".join(format(part, form) for part in value)
    return str(value) if not form else format(value, form)


TIMES: Columns = {
    "ratio": ("ratio", ".2f"),
    "of the fastest": ("fastest_ratio", ".2f"),
    "min to max": ("spread", ".2f"),
}
EDGE_COUNTS = (1, 2, 4, 8, 16, 64, 256, 1024)
CAUSES = ("trigger", "distractor", "overwritten", "instruction", "chain")

SUITES = (
    Suite(
        "overhead",
        "What does instrumentation cost? Forward + backward, instrumented ÷ plain.",
        ("tests/lrp_hooks/test_instrument.py",),
        {
            "tokens": ("tokens", ",d"),
            "checkpointing": ("checkpoint", ""),
            "plain s": ("plain_seconds", ".2f"),
            "instrumented s": ("instrumented_seconds", ".2f"),
            **TIMES,
            "peak memory ratio": ("memory_ratio", ".2f"),
        },
        smoke=True,
        bounds={"ratio": Bound(0.15)},
    ),
    Suite(
        "graph",
        "What does the whole graph cost? Attribution + graph ÷ attribution, and the packed procedure of arXiv "
        "2604.17761 (sampled and extrapolated) ÷ what the graph adds.",
        ("tests/lrp_hooks/graph/test_edges.py",),
        {
            "tokens": ("tokens", ",d"),
            "node threshold": ("node_threshold", "g"),
            "attribution s": ("attribution_seconds", ".2f"),
            "+ graph s": ("graph_seconds", ".2f"),
            **TIMES,
            "edges kept": ("edges", ",d"),
            "packed ÷ added": ("packed_ratio", ",.0f"),
        },
        smoke=True,
        bounds={"ratio": Bound(0.25)},
    ),
    Suite(
        "scaling",
        "How does cost grow with the model? Attribution ÷ plain forward + backward, and the whole graph ÷ attribution, "
        "on random models of known shapes, with as many of their layers as fit a budget (and as large a share of the "
        "vocabulary). Predicted: what FLOP counts say (for attribution ÷ plain 1.00 throughout).",
        ("tests/benchmarks/test_scaling.py", "tests/lrp_hooks/graph/test_edges.py"),
        {
            "shape": ("model", ""),
            "layers": ("layers", ""),
            "MB": ("megabytes", ",.0f"),
            "tokens": ("tokens", ",d"),
            "plain s": ("plain_seconds", ".2f"),
            "attribution ÷ plain": ("ratio", ".2f"),
            "of the fastest": ("fastest_ratio", ".2f"),
            "min to max": ("spread", ".2f"),
            "graph ÷ attribution": ("graph_ratio", ".2f"),
            "min to max ": ("graph_spread", ".2f"),
            "predicted": ("graph_predicted", ".3f"),
        },
        (
            Table(
                "handling",
                "`instrument()` and `remove()` against loading the same weights, from files that the system has in "
                "memory. Predicted for `instrument()` ÷ load: about 2.",
                {
                    "shape": ("model", ""),
                    "layers": ("layers", ""),
                    "MB": ("megabytes", ",.0f"),
                    "load s": ("load_seconds", ".2f"),
                    "instrument s": ("instrument_seconds", ".2f"),
                    "instrument ÷ load": ("instrument_ratio", ".2f"),
                    "min to max": ("instrument_spread", ".2f"),
                    "remove ms": ("remove_milliseconds", ".1f"),
                    "remove ÷ load": ("remove_ratio", ".4f"),
                },
            ),
            Table(
                "targets",
                "Targets of one trace (SmolLM2-135M's shape): against one attribution, and against as many traces with "
                "one target each.",
                {
                    "targets": ("targets", ""),
                    "layers": ("layers", ""),
                    "tokens": ("tokens", ",d"),
                    "s": ("seconds", ".2f"),
                    "÷ one": ("to_one", ".2f"),
                    "min to max": ("to_one_spread", ".2f"),
                    "predicted": ("to_one_predicted", ".2f"),
                    "÷ separate traces": ("to_separate", ".2f"),
                    "min to max ": ("to_separate_spread", ".2f"),
                    "predicted ": ("to_separate_predicted", ".2f"),
                },
            ),
            Table(
                "packed",
                "All edges the packed way (arXiv 2604.17761, appendix A; SmolLM2-135M's shape): extrapolated from four "
                "sampled chunks, against exact edges; both with their attribution. Rows: copies of the prompt a block.",
                {
                    "tokens": ("tokens", ",d"),
                    "layers": ("layers", ""),
                    "exact s": ("exact_seconds", ".2f"),
                    "packed s": ("packed_seconds", ",.0f"),
                    "rows": ("rows", ",.0f"),
                    "packed ÷ exact": ("ratio", ",.0f"),
                    "min to max": ("spread", ",.0f"),
                    "predicted": ("predicted", ",.0f"),
                },
            ),
        ),
        notes=(
            "Seconds are those of the processor on one thread, which other work on the machine hardly moves.",
            "Predictions count FLOPs and were written down before the first measurement (`benchmarks/predicted.py`). "
            "Where they miss: *attribution* and *graph* cost more than their FLOPs on narrow shapes, since they add "
            "work per number (rules, masks, a histogram of |A|) and calls per module, which no FLOP count knows; both "
            "shrink beside matrices that grow with the width squared. *instrument()* reads the weights more than four "
            "times (four forwards on ten tokens, and each MLP twice in its own probe), and loading is cheaper than "
            "a read and a write, since files are mapped. *Packed* products run on matrices many copies tall, quicker "
            "per FLOP than the one prompt of the exact way.",
        ),
        smoke=True,
        bounds={"targets": Bound(0.15)},
    ),
    Suite(
        "planted",
        "Does the map find a cause that is known? Small models with a planted failure ([planted.md](planted.md)); "
        "signed relevance, means over five tasks and three lengths.",
        ("tests/benchmarks/test_planted.py", "tests/benchmarks/test_methods.py"),
        {
            "method": ("method", ""),
            "hit@1": ("hit", ".2f"),
            "AUC": ("auc", ".2f"),
            "mean rank": ("rank", ".1f"),
            "AUC of abs(R)": ("unsigned_auc", ".2f"),
            **{f"hit@1 {name}": (f"hit_{name}", ".2f") for name in CAUSES},
            **{f"{n} tokens": (f"hit_{n}", ".2f") for n in (16, 32, 64)},
            "ms": ("milliseconds", ".0f"),
        },
        smoke=True,
        bounds={"auc": Bound(0.05, smaller_is_better=False)},
    ),
    Suite(
        "planted_paths",
        "Do graphs find a path that is known? The planted chain task, on the prompts whose path holds when it is cut. "
        "Edge AUC: edges whose cut alone turns the choice against all others. Precision: share of these among as many "
        "heaviest. Agreement: rank correlation of weight with what cutting changes. Follows: the strongest path from "
        "the answer's source goes over the relay. First, in top 10: the strongest of all, one of ten strongest does.",
        ("tests/benchmarks/test_planted.py",),
        {
            "graph": ("method", ""),
            "tokens": ("tokens", ""),
            "prompts": ("prompts", ""),
            "of": ("tried", ""),
            "edges": ("edges", ",d"),
            "causal": ("causal", ".1f"),
            "edge AUC": ("edge_auc", ".2f"),
            "precision": ("precision", ".2f"),
            "agreement": ("agreement", ".2f"),
            "follows": ("follows", ".2f"),
            "first": ("first", ".2f"),
            "in top 10": ("in_top", ".2f"),
            "ms": ("milliseconds", ".0f"),
        },
    ),
    Suite(
        "faithfulness",
        "Does removing what a map calls relevant change the prediction? Indirect objects, IFEval and GSM8K prompts; "
        "shares of the logit difference; 95 % bootstrap intervals.",
        ("tests/benchmarks/test_faithfulness.py", "tests/benchmarks/test_methods.py"),
        {
            "method": ("method", ""),
            "prompts of": ("source", ""),
            "n": ("prompts", ""),
            "LeRF - MoRF area": ("gap", ".2f"),
            "interval": ("gap_interval", ".2f"),
            "MoRF": ("most_first", ".2f"),
            "LeRF": ("least_first", ".2f"),
            "compreh.": ("comprehensiveness", ".2f"),
            "suffic.": ("sufficiency", ".2f"),
            "tokens to turn": ("median_turn", "g"),
            "turned": ("turned", ".0%"),
            "Spearman with leave-one-out": ("agreement", ".2f"),
            "s": ("seconds", ".2f"),
        },
        smoke=True,
        bounds={"gap": Bound(0.15, smaller_is_better=False)},
    ),
    Suite(
        "sanity",
        "Does the map depend on the weights, and on nothing but the function? Rank correlation and largest change "
        "(share of the largest entry) after randomising weights, and after computing the same function in another way.",
        ("tests/benchmarks/test_sanity.py",),
        {
            "method": ("method", ""),
            "done to the model": ("done", ""),
            "function changes": ("function_changes", ""),
            "Spearman": ("spearman", ".2f"),
            "largest change": ("change", ".1e"),
        },
        smoke=True,
    ),
    Suite(
        "graph_faithfulness",
        "Do the graph's edges matter? Share of the logit difference that stays when the kept attention edges are cut, "
        "when as many random ones are, and when all others are (completeness of what is kept).",
        ("tests/benchmarks/test_graph_faithfulness.py", "tests/lrp_hooks/test_ablation.py"),
        {
            "rules": ("composite", ""),
            "top_p": ("top_p", ""),
            "edges": ("edges", ".0f"),
            "of all": ("share", ".1%"),
            "kept cut": ("kept_cut", ".2f"),
            "interval ": ("kept_cut_interval", ".2f"),
            "random cut": ("random_cut", ".2f"),
            "others cut": ("others_cut", ".2f"),
            "interval": ("others_cut_interval", ".2f"),
            "weight ~ change, Spearman": ("spearman", ".2f"),
            "signs agree": ("signs", ".0%"),
        },
        notes=(
            "Kept edges are needed, and they are not enough: with the 8 edges of top_p 0.85 alone (and attention to "
            "the first token, which is never cut) the difference is gone, about a tenth of all edges keep half of it, "
            "and all of it takes two fifths. Gradient x input keeps no edge between tokens at any top_p: the norm "
            "before a branch does not change when its input is scaled, so that the input times the branch's gradient "
            "is 0 but for the norm's epsilon. It is compared at equal numbers of edges instead (edge_ranking).",
        ),
        smoke=True,
        bounds={"difference": Bound(0.15, smaller_is_better=False)},
    ),
    Suite(
        "edge_ranking",
        "Whose heaviest edges matter most? As many from every method (attention rollout: the head-averaged attention "
        "weights). What stays of the logit difference when so many are cut: the less, the better they were chosen.",
        ("tests/benchmarks/test_graph_faithfulness.py", "tests/lrp_hooks/test_ablation.py"),
        {"edges cut": ("method", ""), **{str(n): (f"cut_{n}", ".2f") for n in EDGE_COUNTS}},
        (
            Table(
                "rows",
                "What stays when all others are cut, so that only so many are left: the nearer to 1 the better.",
                {"edges left": ("method", ""), **{str(n): (f"only_{n}", ".2f") for n in EDGE_COUNTS}},
            ),
        ),
    ),
    Suite(
        "examples",
        "What does cutting single tokens change in README's two examples? Logits of the explained difference.",
        ("tests/benchmarks/test_examples.py", "tests/lrp_hooks/test_ablation.py"),
        {
            "example": ("example", ""),
            "without": ("token", ""),
            "at": ("position", ""),
            "difference": ("before", "+.3f"),
            "changes by": ("change", "+.2f"),
        },
    ),
    Suite(
        "peers",
        "What do other tools say about the same prompts? Agreement with this project's scores where the method is the "
        "same, and else which map is more faithful: area between the curves of removing the least and the most "
        "relevant tokens first, in shares of the logit difference, ours less theirs with its 95 % interval over the "
        "prompts. Time of one map, and memory it adds in a fresh process at the stated length, each in its own "
        "environment on this machine.",
        ("tests/benchmarks/test_peers.py",),
        {
            "tool": ("tool", ""),
            "version": ("version", ""),
            "method": ("method", ""),
            "ours": ("ours", ""),
            "model": ("model", ""),
            "largest difference": ("difference", ".1e"),
            "Pearson": ("pearson", ".4f"),
            "area": ("gap", ".2f"),
            "ours ": ("our_gap", ".2f"),
            "ours - theirs": ("gap_interval", ".2f"),
            "s": ("seconds", ".2f"),
            "ours s": ("our_seconds", ".2f"),
            "tokens": ("long_tokens", ""),
            "MB": ("megabytes", ",.0f"),
            "ours MB": ("our_megabytes", ",.0f"),
            "remark": ("remark", ""),
        },
    ),
    Suite(
        "failures",
        "How many failures of a benchmark does the search explain, and does masking what they come from change them?",
        ("tests/lrp_hooks/cases/test_find.py", "tests/lrp_hooks/cases/test_validate.py"),
        page="docs/failures.md",
        alone=True,
    ),
    Suite(
        "families",
        "Which causal-LM types of transformers are certified?",
        ("tests/lrp_hooks/test_census.py",),
        page="docs/families.md",
        alone=True,
    ),
    Suite(
        "kernels",
        "What do the kernels compile to, for GPUs that need not be there?",
        ("tests/benchmarks/test_kernels.py",),
        page="docs/kernels.md",
        alone=True,
    ),
    Suite(
        "long",
        "How do memory and time grow with the prompt?",
        ("tests/lrp_hooks/test_memory.py",),
        page="docs/long.md",
        alone=True,
    ),
    Suite(
        "needle",
        "Is a fact planted in filler the region of the prompt that carries most relevance?",
        ("tests/benchmarks/test_needle.py",),
        page="docs/long.md",
        alone=True,
    ),
    Suite(
        "sentences",
        "Does a real sentence encoder (all-MiniLM-L6-v2) close its ledger, and agree with masking tokens?",
        ("tests/lrp_hooks/test_beyond_oracle.py",),
        page="docs/families.md",
        alone=True,
    ),
    Suite(
        "loading",
        "Quantised, offloaded, tensor parallel, compiled: the same explanation, and what it costs.",
        ("tests/lrp_hooks/test_quantised.py", "tests/lrp_hooks/test_offload.py"),
        page="docs/loading.md",
        alone=True,
    ),
    Suite(
        "gpu",
        "How far are the kernels from the machine's limits? Needs a GPU.",
        ("tests/lrp_kernels",),
        page="docs/gpu.md",
        alone=True,
    ),
    Suite(
        "graph_page",
        "How smooth is the page of a large graph? Needs Chromium.",
        ("tests/lrp_hooks/test_render_page.py",),
        page="docs/graph.md",
        alone=True,
    ),
)
