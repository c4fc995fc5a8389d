"""A causal language model under questions: one forward is kept, so that another question costs one backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from lrp_hooks.cases.answers.generate import check_length, context_length, decode, encode_so_far, generate
from lrp_hooks.errors import InputError, LrpError, first_line
from lrp_hooks.explorer.forms import Continuing, Explaining, Prompt, Reading
from lrp_hooks.explorer.jobs import Cancelled, Job
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.instrumentation.instrument import Instrumentation, instrument
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.recording.checkpointing import Mode
from lrp_hooks.render.graph_layout import is_smooth
from lrp_hooks.render.heatmap import Heatmap
from lrp_hooks.segments import Segment, cut_segments, sentences
from lrp_hooks.structure.probe import embedding_device, vocabulary_of
from lrp_hooks.targets import TopToken, token_id
from lrp_hooks.tokens import token_texts
from lrp_hooks.trace import Trace
from lrp_hooks.written import make_target, parse_token

CONTEXT = 8
"""Tokens before a text that its decoding looks at."""


@dataclass(frozen=True)
class Settings:
    """How every model is instrumented; see `lrp_hooks.instrument`."""

    unknown: Any = "error"
    checkpoint: Mode = "auto"
    max_memory: int | None = None


class Engine:
    """Answers questions about one model. For one thread at a time.

    Attributes:
        loaded: the model; instrumented while a forward is kept, its own self while it writes.
    """

    def __init__(self, loaded: LoadedModel, settings: Settings | None = None):
        self.loaded = loaded
        self._settings = settings or Settings()
        self._lrp: Instrumentation | None = None
        self._trace: Trace | None = None
        self._ids: tuple[int, ...] = ()

    def encode(self, prompt: Prompt) -> list[int]:
        """Token ids of a prompt and what has been said after it.

        Raises:
            InputError: no tokenizer, an empty prompt, a chat without a template, more tokens than the model takes.
        """
        tokenizer = self.loaded.tokenizer
        if tokenizer is None:
            raise InputError("this model has no tokenizer, and the explorer works with text. do: the Python API")
        asked = prompt.text if prompt.messages is None else [turn.model_dump() for turn in prompt.messages]
        if prompt.messages == ():
            raise InputError("the chat has no message. do: write one")
        try:
            ids = encode_so_far(tokenizer, asked or "", prompt.completion)
        except LrpError:
            raise
        except Exception as error:  # chat templates are programs of the model's makers
            raise InputError(f"the model's chat template refuses these messages: {first_line(error)}") from error
        check_length(self.loaded.model, len(ids), 0)
        return ids

    def read(self, form: Reading, job: Job) -> dict[str, Any]:
        """The prompt's tokens, and the candidates for the token after one of them."""
        ids = self.encode(form.prompt)
        trace = self._traced(ids, form.composite, job)
        extra = [self._extra(text) for text in form.extra if text]
        rows = trace.top(form.top, position=form.position, tokenizer=self.loaded.tokenizer, extra=extra)
        return {
            "tokens": [
                {"text": token.display, "label": token.label, "id": token.id, "special": token.special}
                for token in token_texts(self.loaded.tokenizer, ids)
            ],
            "position": form.position if form.position >= 0 else len(ids) + form.position,
            "candidates": [_candidate(row, self.loaded.tokenizer) for row in rows],
        }

    def go_on(self, form: Continuing, job: Job) -> dict[str, Any]:
        """What the model says after the prompt and a token of the reader's choice; greedy, as it comes."""
        ids, tokenizer = self.encode(form.prompt), self.loaded.tokenizer
        first = [] if form.token is None else [token_id(form.token, tokenizer, vocabulary_of(self.loaded.model))]
        maximum = context_length(self.loaded.model)
        room = form.new_tokens if maximum is None else min(form.new_tokens, maximum - len(ids) - len(first))
        if room < 1:
            raise InputError(f"{len(ids)} tokens fill the model's context of {maximum}: it cannot go on")
        self.release()
        told = job.begin("writing")

        def look(said: Sequence[int]) -> bool:
            job.text = _after(tokenizer, ids, [*first, *said])
            told(len(said), room)
            return False

        job.text = _after(tokenizer, ids, first)
        (_, said), *_ = generate(self.loaded.model, tokenizer, [[*ids, *first]], max_new_tokens=room, stop=look)
        return {"text": _after(tokenizer, ids, [*first, *said.ids]), "ended": said.ended, "tokens": len(said.ids)}

    def heatmap(self, form: Explaining, job: Job) -> Heatmap:
        """Relevance of every token, and of every token at every residual point."""
        ids = self.encode(form.prompt)
        target = make_target(form.kind, form.target, form.contrasts, form.position, self.loaded.tokenizer)
        trace = self._traced(ids, form.composite, job)
        with self._backward():
            relevance = trace.attribute(target, absorbed=False, progress=job.begin("propagating relevance"))
        return Heatmap.from_relevance(relevance, self.loaded.tokenizer, model=self.loaded.name)

    def graphs(self, form: Explaining, job: Job) -> Iterator[AttributionGraph]:
        """The attribution graph; and one over sentences where a page could not draw the tokens smoothly."""
        ids, tokenizer = self.encode(form.prompt), self.loaded.tokenizer
        target = make_target(form.kind, form.target, form.contrasts, form.position, tokenizer)
        texts = [token.text for token in token_texts(tokenizer, ids)]
        segments = cut_segments(form.segments, texts) if form.segments else None
        trace = self._traced(ids, form.composite, job)

        def made(columns: Sequence[Segment] | None, step: str) -> AttributionGraph:
            with self._backward():
                graph = trace.graph(
                    target,
                    node_threshold=form.node_threshold,
                    node_unit=form.node_unit,
                    top_p=form.top_p,
                    mid=form.mid,
                    detail=form.detail and columns is None,
                    segments=columns,
                    tokenizer=tokenizer,
                    progress=job.begin(step),
                )
            return graph.under_name(self.loaded.name)

        graph = made(segments, "building the graph: transitions")
        yield graph
        if segments is None and not is_smooth(graph):
            yield made(sentences(texts), "building a graph of sentences: transitions")

    def release(self) -> None:
        """Give up the kept forward and undo the instrumentation."""
        self._trace, self._ids = None, ()
        if self._lrp is not None:
            self._lrp.remove()
            self._lrp = None

    def _traced(self, ids: Sequence[int], composite: str, job: Job) -> Trace:
        """The forward of these tokens under these rules: the kept one, or a new one."""
        if self._lrp is None or self._lrp.composite.name != composite:
            self.release()
            job.begin("patching the model and probing its parts")
            options = self._settings
            self._lrp = instrument(
                self.loaded.model,
                composite,
                unknown=options.unknown,
                checkpoint=options.checkpoint,
                max_memory=options.max_memory,
            )
        if self._trace is None or self._ids != tuple(ids):
            self._trace, self._ids = None, ()  # before the next: two do not fit where one just does
            device = embedding_device(self.loaded.model)
            batch: dict[str, Any] = {"input_ids": torch.tensor([list(ids)], device=device)}
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            with _blocks_told(self._lrp, job.begin(f"reading {len(ids):,} tokens: blocks")):
                self._trace = self._lrp.trace(**batch)
            self._ids = tuple(ids)
        return self._trace

    @contextmanager
    def _backward(self) -> Iterator[None]:
        """A forward whose backward pass went wrong is not used again; one that was stopped is."""
        try:
            yield
        except Cancelled:
            raise
        except BaseException:
            self._trace, self._ids = None, ()
            raise

    def _extra(self, text: str) -> int | str:
        token = parse_token(text)
        if not isinstance(token, int | str):
            raise InputError(f"{text!r} is a rank: the table has its first ranks anyway. do: a token's text, or #id")
        return token


@contextmanager
def _blocks_told(lrp: Instrumentation, told: Any) -> Iterator[None]:
    """Tell how many blocks a forward has reached."""
    modules = [block for _, block in lrp.skeleton.blocks]

    def hook(done: int) -> Any:
        return lambda *_: told(done, len(modules))

    handles = [module.register_forward_pre_hook(hook(done)) for done, module in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _after(tokenizer: Any, before: Sequence[int], ids: Sequence[int]) -> str:
    """The text of ids after others. Some decoders drop the space at the start of a text: here nothing starts."""
    tail = list(before[-CONTEXT:])
    known, whole = decode(tokenizer, tail), decode(tokenizer, [*tail, *ids])
    return whole.removeprefix(known) if whole.startswith(known) else decode(tokenizer, ids)


def _candidate(row: TopToken, tokenizer: Any) -> dict[str, Any]:
    return {
        "rank": row.rank,
        "id": row.id,
        "label": token_texts(tokenizer, [row.id])[0].label,
        "logit": row.logit,
        "probability": row.probability,
    }
