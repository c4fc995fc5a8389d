"""Whole texts after a prompt, teacher-forced: why this one, or why this one and not another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.cli.inputs import PromptSource
from lrp_hooks.errors import InputError
from lrp_hooks.instrumentation.instrument import Instrumentation
from lrp_hooks.relevance import Relevance
from lrp_hooks.targets import SequenceLogProb, SequenceLogProbDiff


@dataclass(frozen=True, eq=False)
class Continuations:
    """A prompt and one or two texts after it.

    Attributes:
        prompt: ids [P].
        texts, spans: the continuation and the one preferred against, as text and as ids.
    """

    prompt: Tensor
    texts: tuple[str, ...]
    spans: tuple[Tensor, ...]

    @classmethod
    def of(cls, source: PromptSource, continuation: str, against: str | None, tokenizer: Any) -> Continuations:
        """Encoded.

        Raises:
            InputError: no tokenizer, or what `PromptSource.encode` refuses.
        """
        if tokenizer is None:
            raise InputError("this model has no tokenizer, and --continuation is text. do: SequenceLogProb in Python")
        source = source.read()
        prompt = source.encode(tokenizer)["input_ids"][0]
        texts = (continuation,) if against is None else (continuation, against)
        return cls(prompt, texts, tuple(_span(source, prompt, text, tokenizer) for text in texts))

    @property
    def tokens(self) -> int:
        return len(self.prompt) + max(map(len, self.spans))

    @property
    def words(self) -> str:
        return " - ".join(f"log p({text!r})" for text in self.texts)

    def relevance(self, lrp: Instrumentation, told: Any = None) -> tuple[Relevance, list[float]]:
        """Of each text, a row each (the second one's with its sign turned), and their log-probabilities."""
        if len(self.spans) == 1:
            trace = lrp.trace(input_ids=torch.cat((self.prompt, self.spans[0]))[None])
            relevance = trace.attribute(SequenceLogProb(len(self.prompt)), progress=told)
        else:
            trace = lrp.trace_continuations(self.prompt, *self.spans)
            relevance = trace.attribute(SequenceLogProbDiff(), progress=told)
        assert relevance.target_value is not None
        signs = (1.0, -1.0)
        return relevance, [sign * float(v) for sign, v in zip(signs, relevance.target_value, strict=False)]

    def on_prompt(self, relevance: Relevance) -> Relevance:
        """One row: of two texts the sum on the prompt that they share; of one the prompt and the text."""
        if len(self.spans) == 1:
            return replace(relevance, target=self.words)
        end = len(self.prompt)
        assert relevance.target_value is not None
        return Relevance(
            tokens=relevance.tokens[:, :end].sum(0, keepdim=True),
            layers=relevance.layers[:, :, :end].sum(0, keepdim=True),
            value=relevance.value.sum(0, keepdim=True),
            target_value=relevance.target_value.sum(0, keepdim=True),
            attention_mask=relevance.attention_mask[:1, :end],
            input_ids=self.prompt[None],
            target=self.words,
            composite=relevance.composite,
        )

    def inside(self, relevance: Relevance) -> str:
        """What two texts' own tokens hold, in words: early ones speak for later ones. Empty where that is nothing."""
        if len(self.spans) == 1 or max(map(len, self.spans)) == 1:
            return ""
        own = relevance.tokens[:, len(self.prompt) :].sum(1).tolist()
        shares = ", ".join(f"{text!r} {share:+.3f}" for text, share in zip(self.texts, own, strict=True))
        return f"besides, inside the continuations: {shares}"


def _span(source: PromptSource, prompt: Tensor, text: str, tokenizer: Any) -> Tensor:
    """The text's ids as they follow the prompt; by itself where the two have a token in common."""
    if source.ids is None:
        whole = replace(source, completion=source.completion + text).encode(tokenizer)["input_ids"][0]
        if len(whole) > len(prompt) and torch.equal(whole[: len(prompt)], prompt):
            return whole[len(prompt) :]
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return torch.tensor(ids, dtype=prompt.dtype)
