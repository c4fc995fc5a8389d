"""``lrp-hooks demo``: one real prediction, explained and drawn."""

from __future__ import annotations

from pathlib import Path

from lrp_hooks.cli.attribute import Request, consoles, explain
from lrp_hooks.cli.inputs import PromptSource
from lrp_hooks.demo_model import load_demo_model

PROMPT = "When Mary and John went to the store, John gave a drink to"


def run(folder: Path, palette: str) -> None:
    """Explain " Mary" against " John" with three rule sets and write every format."""
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
    console.print(f"\nopen {folder / 'mary.html'} in a browser", markup=False, highlight=False)
