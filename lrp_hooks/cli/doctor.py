"""``lrp-hooks doctor``: what each module is to LRP, and whether relevance adds up on a prompt."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lrp_hooks.certificate import Certificate, EntryCheck, Verdict, refusal
from lrp_hooks.certificate.report import Report
from lrp_hooks.cli.attribute import consoles, working
from lrp_hooks.cli.heads import masked_positions
from lrp_hooks.errors import UnclaimedModuleError
from lrp_hooks.instrumentation.instrument import Instrumentation, instrument
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.loading.model import load_model
from lrp_hooks.targets import LogitDiff

STYLES = {Verdict.CERTIFIED: "bold green", Verdict.APPROXIMATE: "bold yellow", Verdict.REFUSED: "bold red"}
DEFAULT_PROMPT = "When Mary and John went to the store, John gave a drink to"


def run(
    model: str,
    *,
    prompt: str | None,
    composite: str,
    unknown: str,
    everything: bool = False,
    as_json: bool = False,
    **loading: Any,
) -> int:
    """Print the certificate; 0 when the model is certified, else 1."""
    console, notes = consoles()
    with working(notes, f"loading {model}"):
        loaded = load_model(model, **loading)
    try:
        lrp = instrument(loaded.model, composite, unknown=unknown)  # type: ignore[arg-type]
    except UnclaimedModuleError as error:
        if as_json:
            console.print_json(json.dumps(refusal(error)))
        else:
            console.print(f"refused: {error}", style="red", markup=False, highlight=False)
        return 1
    with lrp, working(notes, "certifying"):
        certificate = _certify(lrp, loaded, prompt)
    if as_json:
        console.print_json(json.dumps(certificate.to_dict()))
    else:
        show(certificate, console, everything=everything)
    return 0 if certificate.verdict is Verdict.CERTIFIED else 1


def _certify(lrp: Instrumentation, loaded: LoadedModel, prompt: str | None) -> Certificate:
    """On the model's first against its second choice: after the prompt, at its first mask, or of its classes."""
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        return lrp.certify()
    if loaded.head == "masked-lm":
        batch = tokenizer(prompt or f"{DEFAULT_PROMPT} {tokenizer.mask_token or ''}.", return_tensors="pt")
        places = masked_positions(tokenizer, loaded.model.config, batch)
        return lrp.certify(LogitDiff(position=places[0] if places else -1, tokenizer=tokenizer), **batch)
    batch = tokenizer(prompt or DEFAULT_PROMPT, return_tensors="pt")
    if loaded.head == "causal-lm":
        return lrp.certify(LogitDiff(tokenizer=tokenizer), **batch)
    return lrp.certify(**batch)


def show(certificate: Certificate, console: Console, *, everything: bool = False) -> None:
    """The certificate for people; with ``everything``, each module by itself and the ledger at every point."""
    report = certificate.report
    facts = {
        "model": report.model,
        "composite": report.composite,
        "dtype": report.dtype,
        "blocks": f"{report.blocks} ({report.mid_points} with a point between attention and MLP)",
        "attention": report.attention,
        "operators": report.backend,
        "versions": ", ".join(f"{name} {version}" for name, version in certificate.versions.items()),
        "logits changed by": f"{report.value_error:g}" + (" (bit for bit equal)" if report.value_error == 0 else ""),
    }
    for name, value in facts.items():
        console.print(f"[dim]{name:<18}[/]{escape(value)}", highlight=False)
    console.print()
    console.print(_sites(report))
    if everything:
        console.print()
        console.print(_modules(report))
    for entry in report.accepted:
        console.print(f"no rule: {entry}", style="yellow", markup=False)
    if report.ledger:
        console.print()
        console.print(_ledger(report, everything=everything))
        console.print(_absorbed(report))
    console.print(_entries(certificate.entries), markup=False, highlight=False)
    words = certificate.reason or "every part has its rule, and relevance adds up"
    verdict = certificate.verdict
    console.print(f"\nverdict  {verdict.value}: {words}", style=STYLES[verdict], markup=False, highlight=False)


def _entries(entries: EntryCheck) -> str:
    if entries.error is None:
        return f"\nentries  not compared{f': {entries.reason}' if entries.reason else ''}"
    limit = f", limit {entries.limit:g}" if entries.limit is not None else ", no limit in half precision"
    return (
        f"\nentries  {entries.tokens} tokens and {entries.points} points within {entries.error:.1e} of the largest "
        f"(worst: {entries.point}{limit}), against rules for autograd nodes on the untouched model"
    )


def _sites(report: Report) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("role", "class", "count", "parameters", "rule", "probe error", "first"):
        table.add_column(name, justify="right" if name in ("count", "probe error") else "left", overflow="fold")
    for row in report.sites:
        error = "exact" if row.error == 0 else f"{row.error:.1e}"
        cells = (row.role, row.class_name, str(row.count), row.parameters, row.rule, error, row.first)
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _modules(report: Report) -> Table:
    title = "modules (without a role: linear, or left to the modules inside)"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("module", "class", "role", "rule", "parameters", "probe error"):
        table.add_column(name, header_style="dim", overflow="fold", no_wrap=name == "module")
    for row in report.modules:
        error = "" if not row.role else "exact" if row.error == 0 else f"{row.error:.1e}"
        cells = (row.path, row.class_name, row.role, row.rule, row.parameters, error)
        table.add_row(*(escape(cell) for cell in cells))
    return table


def _ledger(report: Report, *, everything: bool) -> Table:
    limit = f"(limit {report.ledger_limit:g} of sum |R|)"
    title = f"ledger: relevance + absorbed above = {report.explained:+.4f} logits {limit}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("residual point", "relevance", "absorbed above", "error"):
        table.add_column(name, justify="right", header_style="dim")
    count = len(report.ledger)
    shown = range(count) if everything else sorted({0, count // 2, count - 1, _worst(report)})
    for place in shown:
        row = report.ledger[place]
        name = f"{row.name} (worst)" if place == _worst(report) else row.name
        table.add_row(name, f"{row.relevance:+.4f}", f"{row.absorbed:+.4f}", f"{row.error:.1e}")
    return table


def _absorbed(report: Report) -> Table:
    table = Table(title="absorbed", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("by", header_style="dim")
    table.add_column("logits", justify="right", header_style="dim")
    for share in report.absorbed[:12]:
        table.add_row(escape(share.what), f"{share.share:+.4f}")
    return table


def _worst(report: Report) -> int:
    return max(range(len(report.ledger)), key=lambda i: report.ledger[i].error)
