"""What a census checks of one type, tiny and re-initialised, in a process of its own. It ends as one of

- certified: logits unchanged, the ledger closes in float32 and float64 for AttnLRP and CP-LRP (in both streams of an
  encoder-decoder model), undo is exact, exact edges equal packed ones where the blocks' attention is softmax, and
  removing any rule it uses is noticed (for tasks whose bodies no other table has);
- refused: `instrument` raised; the first line of its error;
- failed: instrumented, but a check above does not hold (a fault of this package);
- not built: the type cannot be made tiny from its default config, or does not run on the task's inputs alone.
"""

from __future__ import annotations

import multiprocessing
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMITS = {"float32": 1e-3, "float64": 1e-8}
EDGE_LIMIT = 1e-8
NOTICED = 1e-4
"""A removed rule must open the float64 ledger, move an entry, or be refused by the walk by at least this much."""
SECONDS = 240
COMPOSITES = ("attnlrp", "cp-lrp")


@dataclass
class Result:
    """What became of one type. Errors are relative, see `lrp_hooks.Relevance.ledger`."""

    kind: str
    status: str = "not built"
    reason: str = ""
    logits: float | None = None
    ledger: dict[str, float] = field(default_factory=dict)
    undone: bool | None = None
    edges: float | None = None
    edges_reason: str = ""
    entries: float | None = None
    entries_reason: str = ""
    roles: dict[str, int] = field(default_factory=dict)
    removed: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    task: str = "causal language model"


@dataclass(eq=False)
class Subject:
    """One model with what it is asked.

    Attributes:
        inputs: keywords of its forward; target: a `lrp_hooks.Target`.
        plain: keywords of forwards of the untouched model.
        tokens: relevance of the tokens by composite; at_work: roles of modules that run; both once it was measured.
    """

    model: Any
    inputs: dict[str, Any]
    target: Any
    plain: dict[str, Any]
    tokens: dict[str, Any] = field(default_factory=dict)
    at_work: set[str] = field(default_factory=set)

    def logits(self) -> list[Any]:
        out = self.model(**self.inputs, **self.plain)
        found = [getattr(out, name, None) for name in ("logits", "start_logits", "end_logits")]
        return [x for x in found if x is not None]


def make(kind: str, task: Any, dtype: Any) -> Subject:
    """A tiny model of the type with the task's head, and what it is asked."""
    from benchmarks.tiny import tiny_inputs, tiny_model
    from lrp_hooks import AnswerSpan, LogitDiff

    model = tiny_model(kind, dtype, task=task)
    target: Any = LogitDiff(2, 0) if task.labels else LogitDiff(5, 7)
    if task.mapping == "QUESTION_ANSWERING":
        target = AnswerSpan(3, 5, contrast=AnswerSpan(1, 2))
    if task.mapping in ("MASKED_LM", "TOKEN_CLASSIFICATION"):
        target = LogitDiff(target.target, target.contrast, position=4)
    plain = {"use_cache": False} if task.mapping in ("CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM") else {}
    return Subject(model, tiny_inputs(model, task), target, plain)


def examine(kind: str, task: Any = None, removals: bool | None = None) -> Result:
    """Run all checks on one type, in this process; ``removals``: the task's by default."""
    import torch

    from benchmarks.tiny import CAUSAL

    task = task or CAUSAL
    removals = task.removals if removals is None else removals
    result = Result(kind, task=task.name)
    try:
        subject = make(kind, task, torch.float32)
        with torch.no_grad():
            logits = subject.logits()
        if not logits or not all(bool(torch.isfinite(x).all()) for x in logits):
            raise ValueError("logits are not finite" if logits else "there are no logits")
    except Exception as error:
        result.reason = first_line(error)
        return result
    if not certify(result, subject, "float32"):
        return result
    from families import exact_float64

    with exact_float64():
        try:
            exact = make(kind, task, torch.float64)
            with torch.no_grad():
                exact.logits()
        except Exception as error:
            result.edges_reason = f"does not run in float64: {first_line(error)}"
            if removals:
                remove_rules(result, subject)
            return result
        if certify(result, exact, "float64") and removals:
            remove_rules(result, exact)
    return result


def certify(result: Result, subject: Subject, dtype: str) -> bool:
    """Instrument, attribute, undo; False when the type is out."""
    from lrp_hooks.errors import LrpError

    before = fingerprint(subject)
    try:
        for composite in COMPOSITES:
            measure(result, subject, composite, dtype)
    except LrpError as error:
        result.status, result.reason = "refused", f"{type(error).__name__}: {first_line(error)}"
    except Exception as error:
        result.status, result.reason = "failed", f"{dtype}: {type(error).__name__}: {first_line(error)}"
    result.undone = result.undone is not False and same(before, fingerprint(subject))
    if result.reason:
        if not result.undone:
            result.status = "failed"
        return False
    worst = max(result.ledger[f"{dtype} {composite}"] for composite in COMPOSITES)
    faults = []
    if not worst <= LIMITS[dtype]:
        faults.append(f"the {dtype} ledger misses {worst:.1e}")
    if result.logits:
        faults.append(f"logits differ by {result.logits:.1e}")
    if not result.undone:
        faults.append("undo is not exact")
    if result.edges is not None and not result.edges <= EDGE_LIMIT:
        faults.append(f"exact edges differ from packed by {result.edges:.1e}")
    if result.entries is not None and not result.entries <= LIMITS["float64"]:
        faults.append(f"entries differ from the reference by {result.entries:.1e}")
    result.status, result.reason = ("failed", "; ".join(faults)) if faults else ("certified", "")
    return not faults


def measure(result: Result, subject: Subject, composite: str, dtype: str) -> None:
    from lrp_hooks import instrument

    with instrument(subject.model, composite) as lrp:
        with ran_modules(subject.model) as ran:
            trace = lrp.trace(**subject.inputs)
            relevance = trace.attribute(subject.target)
        subject.tokens[composite], subject.at_work = all_tokens(relevance), roles_at_work(lrp, ran)
        result.ledger[f"{dtype} {composite}"] = ledger_error(relevance)
        result.logits = max(result.logits or 0.0, lrp.value_error)
        for site in lrp.sites:
            result.roles[site.role.value] = result.roles.get(site.role.value, 0) + (
                composite == "attnlrp" and dtype == "float32"
            )
        if dtype == "float64":
            compare_edges(result, trace, subject.target)
            compare_entries(result, lrp, subject)


def compare_entries(result: Result, lrp: Any, subject: Subject) -> None:
    """Largest difference of any token's or residual point's entry from the rules for autograd nodes."""
    from lrp_hooks.certificate.entries import check_entries

    entries = check_entries(lrp, subject.inputs, subject.target)
    result.entries_reason = entries.reason
    if entries.error is not None:
        result.entries = max(result.entries or 0.0, entries.error)


def ledger_error(relevance: Any) -> float:
    """The largest error at any residual point of any stream, and of what is handed from one to the other."""
    errors = [float(relevance.ledger().max())]
    if relevance.encoder is not None:
        encoder, passed = relevance.encoder, relevance.absorbed.around[:, 0]
        between = (passed - encoder.value).abs() / encoder.layers[:, -1].abs().sum(1)
        errors += [float(encoder.ledger().max()), float(between.max())]
    return max(errors)


def compare_edges(result: Result, trace: Any, target: Any) -> None:
    """Largest difference of exact and packed edges, per transition relative to its largest edge."""
    blocks = len(trace._lrp.skeleton.blocks)
    worst, reasons = result.edges, set[str]()
    exact = edges_of(trace, target, [*range(blocks + 1)], "exact", set())
    pairs = [[*range(blocks + 1)]] if exact else [[block, block + 1] for block in range(blocks)]
    for points in pairs:
        exact = exact or edges_of(trace, target, points, "exact", reasons)
        packed = edges_of(trace, target, points, "packed", reasons) if exact else {}
        for pair in packed:
            scale = float(packed[pair].abs().max()) or 1.0
            worst = max(worst or 0.0, float((exact[pair] - packed[pair]).abs().max()) / scale)
        exact = {}
    result.edges, result.edges_reason = worst, "; ".join(sorted(reasons))


def edges_of(trace: Any, target: Any, points: list[int], method: str, reasons: set[str]) -> dict[Any, Any]:
    """Edge matrices, or none and the reason why."""
    from lrp_hooks.errors import GraphError

    try:
        found: dict[Any, Any] = trace.edge_matrices(target, layers=points, method=method)
        return found
    except GraphError as error:
        reasons.add(first_line(error))
    except (IndexError, RuntimeError) as error:
        if method == "exact":
            raise
        reasons.add(f"packed: {first_line(error)}")  # a block that cannot run on copies: nothing to compare with
    return {}


def remove_rules(result: Result, subject: Subject) -> None:
    """Take each role's rule away once: the walk refuses, the ledger opens, or entries move (the largest of these)."""
    from lrp_hooks import instrument
    from lrp_hooks.composites import ATTNLRP, CP_LRP
    from lrp_hooks.errors import LrpError
    from lrp_hooks.sites import Role

    by_name = {role.value: role for role in Role}
    rows = {name: role for name, role in by_name.items() if name in result.roles and name != "dropout"}
    for name in set(rows) - subject.at_work:
        rows.pop(name)
    for name, role in rows.items():
        effect = 0.0
        for base in (ATTNLRP, CP_LRP):
            if effect >= NOTICED:
                break
            mutated = base.extended("mutated", (role, None))
            try:
                with instrument(subject.model, mutated, unknown="gradient") as lrp:
                    wrong = lrp.trace(**subject.inputs).attribute(subject.target)
            except LrpError:
                effect = float("inf")
                break
            right = subject.tokens[base.name]
            moved = float((all_tokens(wrong) - right).abs().max() / right.abs().max())
            effect = max(effect, moved, ledger_error(wrong))
            if effect < NOTICED and walk_refuses(subject.model, mutated):
                effect = float("inf")
        result.removed[name] = effect
    blind = [name for name, effect in result.removed.items() if effect < NOTICED]
    if blind:
        result.status, result.reason = "failed", f"removing {', '.join(blind)} is not noticed"


def all_tokens(relevance: Any) -> Any:
    """[B, T + S] tokens of both streams."""
    import torch

    parts = [relevance.tokens] if relevance.encoder is None else [relevance.tokens, relevance.encoder.tokens]
    return torch.cat(parts, 1)


def walk_refuses(model: Any, composite: Any) -> bool:
    from lrp_hooks import instrument
    from lrp_hooks.errors import UnclaimedModuleError

    try:
        instrument(model, composite).remove()
    except UnclaimedModuleError:
        return True
    return False


@contextmanager
def ran_modules(model: Any) -> Iterator[set[int]]:
    """Ids of the modules that run inside the block."""
    ran: set[int] = set()
    handles = [m.register_forward_hook(lambda module, *_: ran.add(id(module))) for m in model.modules()]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def roles_at_work(lrp: Any, ran: set[int]) -> set[str]:
    """Roles of modules that ran, leaving out what is part of a gated MLP's rule and what is its own slope (ReLU)."""
    from lrp_hooks.sites import Role

    roles = {site.path: site.role for site in lrp.sites}
    return {
        site.role.value
        for site in lrp.sites
        if id(site.module) in ran
        and site.spec != "constants"  # a precaution: it may have none
        and not (
            site.role is Role.ACTIVATION
            and (roles.get(site.path.rpartition(".")[0]) is Role.GATED or site.spec.name in ("relu", "identity"))
        )
    }


def fingerprint(subject: Subject) -> list[Any]:
    """Outputs, gradients, hooks, flags and attributes of an untouched model."""
    import torch

    parameters = [p for p in subject.model.parameters() if p.requires_grad and p.is_floating_point()]
    logits = subject.logits()
    try:
        grads = torch.autograd.grad(sum(x.float().flatten()[0] for x in logits), parameters, allow_unused=True)
    except (AssertionError, RuntimeError):  # Reformer has gradients in training mode only
        grads = ()
    state = [
        (sorted(m.__dict__), id(m.__dict__.get("config")), m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in subject.model.modules()
    ]
    tensors = [x.detach().clone() for x in (*logits, *(g for g in grads if g is not None))]
    return [tensors, state, [p.requires_grad for p in subject.model.parameters()]]


def same(before: list[Any], after: list[Any]) -> bool:
    import torch

    alike = len(before[0]) == len(after[0]) and all(
        torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before[0], after[0], strict=True)
    )
    return alike and before[1:] == after[1:]


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def guarded(kind: str, task: Any = None, removals: bool | None = None) -> Result:
    """`examine` in a process of its own, with a time limit: one crash does not stop the census."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(kind, task, removals, sender))
    started = time.perf_counter()
    process.start()
    sender.close()
    result = Result(kind, "failed", f"no answer within {SECONDS} s")
    try:
        if receiver.poll(SECONDS):
            result = receiver.recv()
    except EOFError:
        result.reason = "the process died"
    process.join(1)
    if process.is_alive():
        process.kill()
    if task is not None:
        result.task = task.name
    result.seconds = round(time.perf_counter() - started, 1)
    return result


def _send(kind: str, task: Any, removals: bool | None, sender: Any) -> None:
    sender.send(examine(kind, task, removals))


def quiet() -> None:
    """One thread, no warnings, the tests' helpers importable."""
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def cells(result: Result) -> list[str]:
    """A row of a census's table: kind, status, ledgers, entries, edges, removal, rules, remark."""
    worst = {d: [v for k, v in result.ledger.items() if k.startswith(d)] for d in LIMITS}
    return [
        result.kind,
        result.status,
        *(f"{max(v):.0e}" if v else "" for v in worst.values()),
        "" if result.entries is None else f"{result.entries:.0e}",
        "" if result.edges is None else f"{result.edges:.0e}",
        f"{min(result.removed.values()):.0e}".replace("inf", "∞") if result.removed else "",
        ", ".join(role for role in result.roles if role != "dropout"),
        remark(result).replace("|", "\\|"),
    ]


def remark(result: Result) -> str:
    """Why it is out; else why parts have no closed form (each reason once, whichever the block), or no reference."""
    if result.reason:
        return result.reason
    parts = [
        re.sub(r" do: method=.*", "", re.sub(r"(layers?|block|h)([. ])\d+", r"\1\2N", r))
        for r in result.edges_reason.split("; ")
        if r
    ]
    if result.entries is None and result.entries_reason:
        parts.append(f"entries: {result.entries_reason}")
    return "; ".join(dict.fromkeys(parts))


HEADER = (
    "| type | status | ledger fp32 | ledger fp64 | entries | edges | removal | rules | remark |",
    "|---|---|---|---|---|---|---|---|---|",
)
ORDER = {"failed": 0, "certified": 1, "refused": 2, "not built": 3}


def rows(results: list[Result]) -> list[str]:
    """Lines of a table, header first."""
    listed = sorted(results, key=lambda r: (ORDER[r.status], r.kind))
    return [*HEADER, *("| " + " | ".join(cells(r)) + " |" for r in listed)]
