"""The census: every causal-LM type of the installed transformers, tiny, instrumented and certified, or refused by name.

Each type runs in a process of its own and ends as one of

- certified: logits unchanged, the ledger closes in float32 and float64 for AttnLRP and CP-LRP, undo is exact, exact
  edges equal packed ones where the blocks' attention is softmax, and removing any rule it uses is noticed;
- refused: `instrument` raised; the first line of its error;
- failed: instrumented, but a check above does not hold (a fault of this package);
- not built: the type cannot be made tiny from its default config, or does not run on token ids alone.

    python -m benchmarks.families                 # benchmarks/results/families.json and docs/families.md
    python -m benchmarks.families mixtral gpt_oss  # these only; prints, writes nothing
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "families.json"
TABLE = Path(__file__).parents[1] / "docs" / "families.md"
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
    roles: dict[str, int] = field(default_factory=dict)
    removed: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0


def examine(kind: str, removals: bool = True) -> Result:
    """Run all checks on one type, in this process."""
    import torch

    from benchmarks.tiny import tiny_ids, tiny_model

    result, ids = Result(kind), tiny_ids()
    try:
        model = tiny_model(kind)
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits
        if not torch.isfinite(logits).all():
            raise ValueError("logits are not finite")
    except Exception as error:
        result.reason = first_line(error)
        return result
    if not certify(result, model, ids, "float32"):
        return result
    from families import exact_float64

    with exact_float64():
        try:
            model = tiny_model(kind, torch.float64)
            with torch.no_grad():
                model(input_ids=ids, use_cache=False)
        except Exception as error:
            result.edges_reason = f"does not run in float64: {first_line(error)}"
            if removals:
                remove_rules(result, tiny_model(kind), ids)
            return result
        if certify(result, model, ids, "float64") and removals:
            remove_rules(result, model, ids)
    return result


def certify(result: Result, model: Any, ids: Any, dtype: str) -> bool:
    """Instrument, attribute, undo; False when the type is out."""
    from lrp_hooks.errors import LrpError

    before = fingerprint(model, ids)
    try:
        for composite in COMPOSITES:
            measure(result, model, ids, composite, dtype)
    except LrpError as error:
        result.status, result.reason = "refused", f"{type(error).__name__}: {first_line(error)}"
    except Exception as error:
        result.status, result.reason = "failed", f"{dtype}: {type(error).__name__}: {first_line(error)}"
    result.undone = result.undone is not False and same(before, fingerprint(model, ids))
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
    result.status, result.reason = ("failed", "; ".join(faults)) if faults else ("certified", "")
    return not faults


def measure(result: Result, model: Any, ids: Any, composite: str, dtype: str) -> None:
    from lrp_hooks import LogitDiff, instrument

    with instrument(model, composite) as lrp:
        trace = lrp.trace(input_ids=ids)
        relevance = trace.attribute(LogitDiff(5, 7))
        result.ledger[f"{dtype} {composite}"] = float(relevance.ledger().max())
        result.logits = max(result.logits or 0.0, lrp.value_error)
        for site in lrp.sites:
            result.roles[site.role.value] = result.roles.get(site.role.value, 0) + (
                composite == "attnlrp" and dtype == "float32"
            )
        if dtype == "float64":
            compare_edges(result, trace)


def compare_edges(result: Result, trace: Any) -> None:
    """Largest difference of exact and packed edges, per transition relative to its largest edge."""
    from lrp_hooks import LogitDiff
    from lrp_hooks.errors import GraphError

    worst, reasons = result.edges, set()
    for block in range(len(trace._lrp.skeleton.blocks)):
        try:
            exact = trace.edge_matrices(LogitDiff(5, 7), layers=[block, block + 1])
        except GraphError as error:
            reasons.add(first_line(error))
            continue
        try:
            packed = trace.edge_matrices(LogitDiff(5, 7), layers=[block, block + 1], method="packed")
        except (IndexError, RuntimeError) as error:  # a block that cannot run on copies: nothing to compare with
            reasons.add(f"packed: {first_line(error)}")
            continue
        for pair, matrix in exact.items():
            scale = float(packed[pair].abs().max()) or 1.0
            worst = max(worst or 0.0, float((matrix - packed[pair]).abs().max()) / scale)
    result.edges, result.edges_reason = worst, "; ".join(sorted(reasons))


def remove_rules(result: Result, model: Any, ids: Any) -> None:
    """Take each role's rule away once: the walk refuses, the ledger opens, or entries move (the largest of these)."""
    from lrp_hooks import LogitDiff, instrument
    from lrp_hooks.composites import ATTNLRP, CP_LRP
    from lrp_hooks.errors import LrpError
    from lrp_hooks.sites import Role

    by_name = {role.value: role for role in Role}
    rows = {name: role for name, role in by_name.items() if name in result.roles and name != "dropout"}
    for name in set(rows) - roles_at_work(model, ids):
        rows.pop(name)
    truth = {}
    for base in (ATTNLRP, CP_LRP):
        with instrument(model, base) as lrp:
            truth[base.name] = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7)).tokens
    for name, role in rows.items():
        effect = 0.0
        for base in (ATTNLRP, CP_LRP):
            mutated = base.extended("mutated", (role, None))
            try:
                with instrument(model, mutated, unknown="gradient") as lrp:
                    wrong = lrp.trace(input_ids=ids).attribute(LogitDiff(5, 7))
            except LrpError:
                effect = float("inf")
                break
            right = truth[base.name]
            moved = float((wrong.tokens - right).abs().max() / right.abs().max())
            effect = max(effect, moved, float(wrong.ledger().max()))
            if effect < NOTICED and walk_refuses(model, mutated):
                effect = float("inf")
        result.removed[name] = effect
    blind = [name for name, effect in result.removed.items() if effect < NOTICED]
    if blind:
        result.status, result.reason = "failed", f"removing {', '.join(blind)} is not noticed"


def walk_refuses(model: Any, composite: Any) -> bool:
    from lrp_hooks import instrument
    from lrp_hooks.errors import UnclaimedModuleError

    try:
        instrument(model, composite).remove()
    except UnclaimedModuleError:
        return True
    return False


def roles_at_work(model: Any, ids: Any) -> set[str]:
    """Roles of modules that run, leaving out what is part of a gated MLP's rule and what is its own slope (ReLU)."""
    from lrp_hooks import instrument
    from lrp_hooks.sites import Role

    ran: set[int] = set()
    handles = [m.register_forward_hook(lambda module, *_: ran.add(id(module))) for m in model.modules()]
    with instrument(model) as lrp:
        ran.clear()  # probes have called modules too
        lrp.trace(input_ids=ids)
        roles = {site.path: site.role for site in lrp.sites}
        at_work = {
            site.role.value
            for site in lrp.sites
            if id(site.module) in ran
            and site.spec != "constants"  # a precaution: it may have none
            and not (
                site.role is Role.ACTIVATION
                and (roles.get(site.path.rpartition(".")[0]) is Role.GATED or site.spec.name in ("relu", "identity"))
            )
        }
    for handle in handles:
        handle.remove()
    return at_work


def fingerprint(model: Any, ids: Any) -> list[Any]:
    """Outputs, gradients, hooks, flags and attributes of an untouched model."""
    import torch

    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    try:
        logits = model(inputs_embeds=embeds, use_cache=False).logits
        (gradient,) = torch.autograd.grad(logits[0, -1, 5], embeds)
    except Exception:  # needs ids, or has no differentiable way in
        with torch.no_grad():
            logits, gradient = model(input_ids=ids, use_cache=False).logits, torch.zeros(())
    state = [
        (sorted(m.__dict__), id(m.__dict__.get("config")), m.training, len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in model.modules()
    ]
    return [logits.detach().clone(), gradient.clone(), state, [p.requires_grad for p in model.parameters()]]


def same(before: list[Any], after: list[Any]) -> bool:
    import torch

    tensors = all(torch.equal(a, b) for a, b in zip(before[:2], after[:2], strict=True))
    return tensors and before[2:] == after[2:]


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]


def guarded(kind: str, removals: bool = True) -> Result:
    """`examine` in a process of its own, with a time limit: one crash does not stop the census."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(kind, removals, sender))
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
    result.seconds = round(time.perf_counter() - started, 1)
    return result


def _send(kind: str, removals: bool, sender: Any) -> None:
    sender.send(examine(kind, removals))


def table(results: list[Result], versions: dict[str, str]) -> str:
    """docs/families.md."""
    counts = {s: sum(r.status == s for r in results) for s in ("certified", "refused", "failed", "not built")}
    lines = [
        "# Families",
        "",
        "Generated by `python -m benchmarks.families`: every causal-LM type of the installed transformers, built tiny",
        "from its default config, re-initialised so that no rule is invisible, and examined. Do not edit.",
        "",
        f"transformers {versions['transformers']}, torch {versions['torch']}; {len(results)} types: "
        + ", ".join(f"{count} {status}" for status, count in counts.items())
        + ".",
        "",
        "Ledger: largest error at any residual point relative to Σ|R|, AttnLRP and CP-LRP. Edges: exact against",
        "packed, float64; blank where blocks have no closed form. Removal: the least effect of taking one rule away",
        "(∞: refused).",
        "",
        "| type | status | ledger fp32 | ledger fp64 | edges | removal | rules | remark |",
        "|---|---|---|---|---|---|---|---|",
    ]
    order = {"failed": 0, "certified": 1, "refused": 2, "not built": 3}
    for r in sorted(results, key=lambda r: (order[r.status], r.kind)):
        worst = {d: [v for k, v in r.ledger.items() if k.startswith(d)] for d in LIMITS}
        cells = [
            r.kind,
            r.status,
            *(f"{max(v):.0e}" if v else "" for v in worst.values()),
            "" if r.edges is None else f"{r.edges:.0e}",
            f"{min(r.removed.values()):.0e}".replace("inf", "∞") if r.removed else "",
            ", ".join(role for role in r.roles if role != "dropout"),
            (r.reason or r.edges_reason).replace("|", "\\|"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def quiet() -> None:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def main(arguments: list[str]) -> int:
    os.environ["HF_HUB_OFFLINE"] = "1"
    quiet()
    import torch
    import transformers

    from benchmarks.tiny import TYPES

    examine("llama")  # what every process would import again is imported once, before they fork
    results = []
    for kind in arguments or TYPES:
        result = guarded(kind)
        results.append(result)
        print(f"{kind}: {result.status} {result.reason} {result.seconds}s", file=sys.stderr, flush=True)
    if not arguments:
        versions = {"transformers": transformers.__version__, "torch": torch.__version__}
        RESULT.write_text(json.dumps({"versions": versions, "types": [asdict(r) for r in results]}, indent=1) + "\n")
        TABLE.parent.mkdir(exist_ok=True)
        TABLE.write_text(table(results, versions))
    return int(any(r.status == "failed" for r in results))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
