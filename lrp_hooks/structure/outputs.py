"""What a model outputs: logits per token, one row of logits per input, or a start and an end of an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn, stack

from lrp_hooks.errors import TokenError, UnsupportedModelError

Kind = Literal["tokens", "classes", "span"]
"""Logits [B, T, V]; [B, V], pooled over tokens; or start and end logits, [B, T] each."""
LOSS_INPUTS = ("labels", "start_positions", "end_positions")


@dataclass(frozen=True)
class Output:
    """What is explained of a model, read off one forward.

    Attributes:
        kind: the shape of the logits.
        causal: whether logits of a token depend on no later token, so that those at position p predict token p + 1.
        labels: names of the classes, where the model's config has one for each.
    """

    kind: Kind
    causal: bool = False
    labels: Labels | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The fields of the model's output that hold the logits, in the order of its tuple."""
        return ("start_logits", "end_logits") if self.kind == "span" else ("logits",)

    def of(self, out: Any) -> Tensor:
        """Logits [B, T, V], [B, V], or [B, 2, T] (start and end)."""
        parts = [getattr(out, name) for name in self.names]
        logits: Tensor = parts[0] if len(parts) == 1 else stack(parts, 1)
        return logits

    def changed(self, out: Any, change: Callable[[Tensor], Tensor]) -> Any:
        """The model's output, as an object or a tuple, with each of its logits replaced by ``change(logits)``."""
        if isinstance(out, tuple):
            count = len(self.names)
            return (*map(change, out[:count]), *out[count:])
        for name in self.names:
            setattr(out, name, change(getattr(out, name)))
        return out


@dataclass(frozen=True)
class Labels:
    """Names of classes in the place of a tokenizer, so that targets take them as text: ``Logit("POSITIVE")``."""

    names: tuple[str, ...]
    all_special_tokens: tuple[str, ...] = ()

    def get_vocab(self) -> dict[str, int]:
        return {name: index for index, name in enumerate(self.names)}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """The class with this name, as a list of one id.

        Raises:
            TokenError: there is none, or several; lists the names.
        """
        found = [index for index, name in enumerate(self.names) if name == text]
        if len(found) != 1:
            raise TokenError(f"{text!r} names {len(found)} of the classes {', '.join(self.names[:20])}")
        return found

    def decode(self, ids: list[int]) -> str:
        return ", ".join(self.names[i] for i in ids)


def read_output(model: nn.Module, out: Any, *, causal: bool, tokens: int | None) -> Output:
    """What kind of logits the model returned.

    Args:
        tokens: length of the sequence that logits per token belong to, where it is known.

    Raises:
        UnsupportedModelError: none, or of a shape that is neither per token nor per input.
    """
    if all(isinstance(getattr(out, name, None), Tensor) for name in ("start_logits", "end_logits")):
        return Output("span")
    logits = getattr(out, "logits", None)
    shape = list(logits.shape) if isinstance(logits, Tensor) else None
    if shape is None or len(shape) not in (2, 3) or (len(shape) == 3 and shape[1] != (tokens or shape[1])):
        what = "no logits" if shape is None else f"logits of shape {shape}"
        raise UnsupportedModelError(
            f"{type(model).__name__} has no head that is understood: it returns {what}, neither [B, T, V] "
            "nor [B, V] nor start_logits and end_logits. "
            "do: load it with AutoModelForCausalLM, MaskedLM, Seq2SeqLM, SequenceClassification, TokenClassification, "
            "QuestionAnswering or ImageClassification"
        )
    return Output("tokens" if len(shape) == 3 else "classes", causal and len(shape) == 3)


def class_labels(model: nn.Module, count: int) -> Labels | None:
    """The config's names of ``count`` classes."""
    config: Any = model.config
    named = getattr(config, "id2label", None) or {}
    names = [named.get(i, named.get(str(i))) for i in range(count)]
    return Labels(tuple(map(str, names))) if all(name is not None for name in names) else None
