"""One explorer: the model, the work on it, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lrp_hooks.errors import InputError
from lrp_hooks.explorer.engine import Engine, Settings
from lrp_hooks.explorer.forms import Comparing, Continuing, Explaining, Form, Loading, Reading
from lrp_hooks.explorer.jobs import Job, Jobs
from lrp_hooks.explorer.results import GraphResult, HeatmapResult, compared, opened
from lrp_hooks.explorer.shelf import Entry, Shelf
from lrp_hooks.loading.loaded import LoadedModel

Loader = Callable[..., LoadedModel]
"""`lrp_hooks.loading.model.load_model` with what the user decided at the start: whether remote code may run."""


class Session:
    """What the page's requests act on.

    Args:
        loader: loads the model that a name stands for.
        settings: how models are instrumented.
        shelf: keeps the results.
        look: raises for a name (and a revision) that no model can be had by, without loading it.
    """

    def __init__(self, loader: Loader, settings: Settings, shelf: Shelf, look: Callable[..., object] | None = None):
        self.jobs = Jobs()
        self.shelf = shelf
        self._loader = loader
        self._look = look or (lambda *_: None)
        self._settings = settings
        self._engine: Engine | None = None
        self._number = 0

    def state(self) -> dict[str, Any]:
        """What a page needs when it is opened."""
        return {
            "model": self._model(),
            "entries": [entry.facts for entry in self.shelf],
            "jobs": [job.facts() for job in self.jobs.unfinished()],
            "folder": None if self.shelf.folder is None else str(self.shelf.folder),
            "notes": self.shelf.notes,
        }

    def load(self, form: Loading) -> Job:
        """Replace the model; the old one is freed before the new one is loaded."""

        def work(job: Job) -> dict[str, Any]:
            job.begin(f"loading {form.name}")
            options = {"dtype": form.dtype, "device": form.device or None, "revision": form.revision or None}
            if self._engine is not None:
                self._look(form.name, form.revision or None)  # what cannot be had does not cost the model that is there
                self._engine.release()
                self._engine = None
            loaded = self._loader(form.name, causal_for="lrp-hooks serve", **options)
            job.check()
            self._number, self._engine = self._number + 1, Engine(loaded, self._settings)
            return self._model() or {}

        return self.jobs.submit(f"load {form.name}", work)

    def read(self, form: Reading) -> Job:
        return self.jobs.submit("read the prompt", lambda job: self._asked(form).read(form, job))

    def go_on(self, form: Continuing) -> Job:
        return self.jobs.submit("let the model go on", lambda job: self._asked(form).go_on(form, job))

    def explain(self, form: Explaining) -> Job:
        """The job's result is the list of new entries."""
        question = form.model_dump(mode="json", exclude={"model"})

        def work(job: Job) -> list[dict[str, Any]]:
            start, entries = time.monotonic(), list[dict[str, Any]]()
            engine = self._asked(form)
            job.result = entries  # what is done stays, whatever becomes of the rest
            if form.show == "heatmap":
                made: Any = [HeatmapResult((engine.heatmap(form, job),))]
            else:
                made = map(GraphResult, engine.graphs(form, job))
            for result in made:
                seconds = round(time.monotonic() - start, 2)
                entries.append(self.shelf.add(result, "explained", question, seconds).facts)
            return entries

        return self.jobs.submit("heatmap" if form.show == "heatmap" else "attribution graph", work)

    def compare(self, form: Comparing) -> Entry:
        """Put results beside each other.

        Raises:
            LrpError: they cannot be compared; says why.
        """
        return self.shelf.add(compared([self.shelf.get(number).result for number in form.results]), "compared")

    def open(self, path: Path, name: str) -> Entry:
        """Take up a file that somebody saved; ``name``: what they call it.

        Raises:
            LrpError: it is none of ours, or damaged.
        """
        return self.shelf.add(opened(path, name), "opened")

    def close(self) -> bool:
        """Stop the work and give the model back as it was; False when a step could not be interrupted."""
        if not self.jobs.close():
            return False
        if self._engine is not None:
            self._engine.release()
        return True

    def _asked(self, form: Form) -> Engine:
        """The model that a form is about.

        Raises:
            InputError: there is none, or another one has taken its place.
        """
        if self._engine is None:
            raise InputError("no model is loaded. do: load one, by its folder or its hub name")
        if form.model not in (None, self._number):
            raise InputError(f"{self._engine.loaded.name} has taken the model's place since. do: read the prompt again")
        return self._engine

    def _model(self) -> dict[str, Any] | None:
        engine = self._engine
        if engine is None:
            return None
        model, tokenizer = engine.loaded.model, engine.loaded.tokenizer
        parameter = next(model.parameters())
        return {
            "number": self._number,
            "name": engine.loaded.name,
            "source": engine.loaded.source,
            "class": type(model).__name__,
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": str(parameter.device),
            "parameters": sum(p.numel() for p in model.parameters()),
            "chat": bool(getattr(tokenizer, "chat_template", None)),
        }
