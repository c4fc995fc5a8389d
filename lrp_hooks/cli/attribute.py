"""``lrp-hooks attribute``: load, trace, attribute, show, save."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lrp_hooks.cli.continuations import Continuations
from lrp_hooks.cli.heads import Question, ask
from lrp_hooks.cli.inputs import PromptSource, parse_checkpoint, parse_memory
from lrp_hooks.cli.pace import lines
from lrp_hooks.errors import InputError, LrpError
from lrp_hooks.instrumentation.instrument import Instrumentation, instrument
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.loading.model import load_model
from lrp_hooks.relevance import Relevance
from lrp_hooks.render.colours import palette_by_name
from lrp_hooks.render.heatmap import NORMALIZATIONS, Heatmap
from lrp_hooks.render.output import SUFFIXES, save
from lrp_hooks.render.text import print_heatmap
from lrp_hooks.targets import TopToken, target_by_name
from lrp_hooks.tokens import visible


@dataclass(frozen=True)
class Request:
    """What was asked for, checked before the model is loaded."""

    source: PromptSource
    target: str | None = None
    contrasts: tuple[str, ...] = ()
    kind: str = "logit-diff"
    position: int | None = None
    continuation: str | None = None
    against: str | None = None
    composites: tuple[str, ...] = ("attnlrp",)
    normalize: str = "max"
    first_token_special: bool = False
    top: int = 10
    outputs: tuple[Path, ...] = ()
    palette: str = "red-blue"
    checkpoint: str = "auto"
    max_memory: str | None = None
    unknown: str = "error"
    title: str = ""

    def check(self) -> None:
        """Raise for what can be known to be wrong without the model."""
        from lrp_hooks.composites import resolve

        palette_by_name(self.palette)
        target_by_name(self.kind)
        self._check_continuation()
        for composite in self.composites:
            resolve(composite)
        for path in self.outputs:
            if path.suffix not in SUFFIXES:
                raise LrpError(f"{path.name}: unknown format {path.suffix!r}. choices: {', '.join(SUFFIXES)}")
        if self.normalize not in NORMALIZATIONS:
            raise LrpError(f"unknown normalization {self.normalize!r}. choices: {', '.join(NORMALIZATIONS)}")
        parse_checkpoint(self.checkpoint)
        parse_memory(self.max_memory)
        if self.top < 1:
            raise InputError("--top must be at least 1")

    def _check_continuation(self) -> None:
        if self.continuation is None:
            if self.against is not None:
                raise InputError("--against goes with --continuation, the text that is explained")
            return
        given = {
            "--target": self.target is not None,
            "--contrast": bool(self.contrasts),
            "--of": self.kind != "logit-diff",
            "--position": self.position is not None,
        }
        wrong = [name for name, used in given.items() if used]
        if wrong:
            raise InputError(
                f"--continuation explains a text after the prompt, {', '.join(wrong)} one token. do: either; "
                "--against is the text preferred against"
            )
        if not self.continuation or self.against == "":
            raise InputError("the continuation is empty: there is nothing to explain")
        if self.continuation == self.against:
            raise InputError("--continuation and --against are the same text: their difference is 0")


def run(request: Request, *, model: str, **loading: Any) -> None:
    """The whole command."""
    request.check()
    console, notes = consoles()
    if request.continuation is not None:
        if loading.get("head", "auto") not in ("auto", "causal-lm"):
            raise InputError(f"--continuation is for causal language models, not for --head {loading['head']}")
        loading["causal_for"] = "lrp-hooks attribute --continuation"
    with working(notes, f"loading {model}") as progress:
        loaded = load_model(model, progress=not progress, **loading)
    explain(request, loaded, console, notes)


def explain(request: Request, loaded: LoadedModel, console: Console, notes: Console) -> list[Heatmap]:
    """Attribute with every composite, print the first and save all."""
    tokens, answer = (candidates if request.continuation is None else continuations)(request, loaded)
    heatmaps: list[Heatmap] = []
    for composite in request.composites:
        with working(notes, f"{composite}: {tokens} tokens") as moving:
            told = None if moving else lines("residual points", lambda text: notes.print(text, highlight=False))
            options: Any = {
                "unknown": request.unknown,
                "checkpoint": parse_checkpoint(request.checkpoint),
                "max_memory": parse_memory(request.max_memory),
            }
            with instrument(loaded.model, composite, **options) as lrp:
                relevance, table, more = answer(lrp, told)
        title = request.title or (composite if len(request.composites) > 1 else "")
        heatmaps.append(
            Heatmap.from_relevance(
                relevance,
                loaded.tokenizer,
                model=loaded.name,
                title="; ".join(part for part in (title, more) if part),
                normalize=request.normalize,
                first_token_special=request.first_token_special,
                target_text=request.continuation,
                contrast_text=request.against,
            )
        )
        if len(heatmaps) == 1:
            console.print(table)
        console.print()
        print_heatmap(heatmaps[-1], console, palette=request.palette, top=request.top)
    for path in request.outputs:
        save(heatmaps, path, title=f"Why? {heatmaps[0].target}", palette=request.palette)
        notes.print(f"wrote {path}", markup=False, highlight=False)
    return heatmaps


Answer = Callable[[Instrumentation, Any], tuple[Relevance, Table, str]]
"""Relevance of the instrumented model, told how far it is; the table of what was asked about; a title."""


def candidates(request: Request, loaded: LoadedModel) -> tuple[int, Answer]:
    """How many tokens are read, and what explains one token or class against others."""
    batch: dict[str, Any] = request.source.encode(loaded.tokenizer, next_token=loaded.head == "causal-lm")
    question = ask(loaded, batch, request.position)
    target = question.target(request.kind, request.target, request.contrasts)

    def answer(lrp: Instrumentation, told: Any) -> tuple[Relevance, Table, str]:
        trace = lrp.trace(**batch)
        rows = trace.top(request.top, position=question.position, tokenizer=question.names)
        return trace.attribute(target, progress=told), top_table(rows, question), ""

    return batch["input_ids"].shape[1], answer


def continuations(request: Request, loaded: LoadedModel) -> tuple[int, Answer]:
    """How many tokens are read, and what explains a text after the prompt, alone or against another."""
    asked = Continuations.of(request.source, request.continuation or "", request.against, loaded.tokenizer)

    def answer(lrp: Instrumentation, told: Any) -> tuple[Relevance, Table, str]:
        relevance, log_probs = asked.relevance(lrp, told)
        return asked.on_prompt(relevance), continuation_table(asked, log_probs), asked.inside(relevance)

    return asked.tokens, answer


def consoles() -> tuple[Console, Console]:
    """Standard output for results and standard error for notes; wide enough for the tables when piped to a file."""
    out, notes = Console(), Console(stderr=True, soft_wrap=True)
    return out if out.is_terminal else Console(width=120), notes


@contextmanager
def working(notes: Console, words: str) -> Iterator[bool]:
    """A spinner with the words on a terminal, a line otherwise. Yields whether something moves."""
    if notes.is_terminal:
        with notes.status(escape(words)):
            yield True
    else:
        notes.print(f"{words} …", markup=False, highlight=False)
        yield False


def top_table(rows: list[TopToken], question: Question) -> Table:
    """What the model chooses from: next tokens, tokens for the mask, classes."""
    table = Table(
        title=escape(question.title), title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0)
    )
    chances = question.chances(rows)
    for name in ("rank", question.column, "id", "logit", *(("probability",) if chances else ())):
        table.add_column(name, justify="left" if name == question.column else "right", header_style="dim")
    for place, row in enumerate(rows):
        text = escape(repr(visible(row.text)))
        chance = (f"{chances[place]:.2%}",) if chances else ()
        table.add_row(str(row.rank), text, str(row.id), f"{row.logit:.3f}", *chance)
    return table


def continuation_table(asked: Continuations, log_probs: list[float]) -> Table:
    """How likely each continuation is."""
    table = Table(title="continuations", title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in ("text", "tokens", "log p", "probability"):
        table.add_column(name, justify="left" if name == "text" else "right", header_style="dim")
    for text, ids, log_p in zip(asked.texts, asked.spans, log_probs, strict=True):
        chance = math.exp(log_p)
        words = f"{chance:.2%}" if chance >= 1e-4 else f"{chance:.1e}"
        table.add_row(escape(repr(visible(text))), str(len(ids)), f"{log_p:.3f}", words)
    return table
