"""A model with its tokenizer, as everything that explains it is given it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be instrumented.

    Attributes:
        model, tokenizer: as transformers loads them; the tokenizer is None when there is none.
        source: where the weights came from, in words.
        name: what to call it in captions.
        head: what its head is for, a key of `lrp_hooks.loading.heads.HEADS`.
    """

    model: Any
    tokenizer: Any
    source: str
    name: str
    head: str = "causal-lm"


@contextmanager
def quiet() -> Iterator[None]:
    """Transformers' own progress bars and advice, off for the moment."""
    import transformers

    transformers_logging: Any = transformers.logging
    bars, level = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
