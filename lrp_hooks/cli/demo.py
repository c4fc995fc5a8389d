"""``lrp-hooks demo``: one right prediction and one real failure, explained and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from lrp_hooks.cases.answers.generate import encode_prompt, generate
from lrp_hooks.cases.benchmarks.ifeval import ifeval_prompts
from lrp_hooks.cli.attribute import Request, consoles, explain, working
from lrp_hooks.cli.graph import GraphShown, show
from lrp_hooks.cli.inputs import PromptSource
from lrp_hooks.cli.pace import pace
from lrp_hooks.errors import InputError, ModelLoadError
from lrp_hooks.graph.model import AttributionGraph
from lrp_hooks.instrumentation.instrument import instrument
from lrp_hooks.loading.demo import load_demo_model
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.targets import LogitDiff

PROMPT = "When Mary and John went to the store, John gave a drink to"
RULE = "punctuation:no_comma"
KEY = 1418
"""The IFEval prompt of the failure: a short one whose answer has a comma early."""
NEW_TOKENS, CHOICES = 60, 10


@dataclass(frozen=True)
class Failure:
    """An answer up to the token that broke the rule, with that token and the best that would not have.

    Attributes:
        ids: prompt and answer before the error token.
        said: the answer so far, as text.
    """

    prompt: str
    ids: tuple[int, ...]
    said: str
    target: int
    contrast: int


def run(folder: Path, palette: str) -> None:
    """Explain " Mary" against " John" with every format, then a failure of an IFEval instruction, with its graph."""
    console, notes = consoles()
    loaded = load_demo_model(progress=True)
    notes.print(f"model: {loaded.name} from {loaded.source}", markup=False, highlight=False)
    console.print(f"prompt: {PROMPT}\nWhy does the model say ' Mary' and not ' John'?", markup=False, highlight=False)
    request = Request(
        source=PromptSource(PROMPT),
        target=" Mary",
        contrasts=(" John",),
        top=5,
        palette=palette,
        outputs=tuple(folder / f"mary{suffix}" for suffix in (".html", ".svg", ".png", ".pdf", ".json")),
    )
    request.check()
    explain(request, loaded, console, notes)
    pages = [folder / "mary.html"]
    try:
        failure = first_comma(loaded)
    except ModelLoadError as error:  # without a package index there is no benchmark data
        notes.print(f"the failure is left out: {error}", markup=False, highlight=False)
    else:
        pages.append(folder / "comma.html")
        explain_failure(failure, loaded, console, notes, GraphShown(5, outputs=(pages[-1],), palette=palette))
    console.print(f"\nopen {' and '.join(map(str, pages))} in a browser", markup=False, highlight=False)


def first_comma(loaded: LoadedModel, key: int = KEY) -> Failure:
    """Let the model answer an IFEval prompt that forbids commas, up to its first comma.

    The contrast is the model's best choice there that holds no comma.

    Raises:
        ModelLoadError: the prompts cannot be fetched.
        InputError: the answer has no comma.
    """
    prompt = next(p for p in ifeval_prompts(RULE) if p.key == key)
    asked = encode_prompt(loaded.tokenizer, [{"role": "user", "content": prompt.prompt}])
    _, answer = next(iter(generate(loaded.model, loaded.tokenizer, [asked], max_new_tokens=NEW_TOKENS)))
    text = loaded.tokenizer.decode
    place = next((i for i, token in enumerate(answer.ids) if "," in text([token])), None)
    if place is None:
        raise InputError(f"the first {NEW_TOKENS} tokens of the answer hold no comma: nothing has failed")
    ids = [*asked, *answer.ids[:place]]
    with torch.no_grad():
        choices = loaded.model(torch.tensor([ids]), logits_to_keep=1).logits[0, -1].topk(CHOICES).indices.tolist()
    contrast = next(token for token in choices if "," not in text([token]))
    return Failure(prompt.prompt, tuple(ids), text(answer.ids[:place]), answer.ids[place], contrast)


def explain_failure(
    failure: Failure, loaded: LoadedModel, console: Console, notes: Console, shown: GraphShown
) -> AttributionGraph:
    """The graph of the first broken token, printed and drawn."""
    console.print(f"\nprompt (IFEval): {failure.prompt}", markup=False, highlight=False)
    console.print(f"answer so far: {failure.said}\nWhy does the model say a comma now?", markup=False, highlight=False)
    with (
        working(notes, f"{len(failure.ids)} tokens"),
        instrument(loaded.model) as lrp,
        pace(notes, "transitions") as progress,
    ):
        target = LogitDiff(failure.target, failure.contrast, tokenizer=loaded.tokenizer)
        trace = lrp.trace(input_ids=torch.tensor([failure.ids]))
        graph = trace.graph(target, detail=True, tokenizer=loaded.tokenizer, progress=progress)
    graph = graph.under_name(loaded.name)
    show(graph, shown, console, notes)
    return graph
