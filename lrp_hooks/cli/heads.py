"""What a model is asked, by its head: at which position, about which names, and what its scores are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lrp_hooks.errors import InputError
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.targets import Target, TopToken
from lrp_hooks.tokens import token_texts
from lrp_hooks.written import make_target

Chances = Literal["softmax", "sigmoid", "none"]


@dataclass(frozen=True)
class Question:
    """Which logits of a model are explained.

    Attributes:
        position: of the logits among the prompt's tokens; -1 where there is one set of logits per input.
        names: the tokenizer that names the candidates; None for classes, which the model names itself.
        title, column: over the table of candidates, and over their names.
        probabilities: over all candidates, of each class by itself, or none: a score is no probability.
        single: there is one score and nothing to contrast it with.
    """

    position: int
    names: Any
    title: str
    column: str = "token"
    probabilities: Chances = "softmax"
    single: bool = False

    def target(self, kind: str, target: str | None, contrasts: tuple[str, ...]) -> Target:
        """The target that the options describe; by default the first choice against the second, or the one score.

        Raises:
            InputError: a contrast to the only score, or one with another kind of target.
            TargetError, TokenError: an unknown kind; a token that cannot be read.
        """
        if self.single and contrasts:
            raise InputError("the model has one score and no other class to contrast it with. do: leave out --contrast")
        if self.single and kind == "logit-diff":
            return make_target("logit", target or "#0", (), self.position, self.names)
        return make_target(kind, target, contrasts, self.position, self.names)

    def chances(self, rows: list[TopToken]) -> list[float]:
        """Probabilities of the candidates; empty where there are none."""
        if self.probabilities == "none":
            return []
        if self.probabilities == "sigmoid":
            return [(1 + math.tanh(row.logit / 2)) / 2 for row in rows]
        return [row.probability for row in rows]


def ask(loaded: LoadedModel, batch: dict[str, Tensor], position: int | None) -> Question:
    """The question to a model about one prompt.

    Args:
        batch: one row of ``input_ids``, and its mask where there is one.
        position: what --position says, if anything.

    Raises:
        InputError: a masked language model's prompt without a mask, or with several, and no position; a classifier of
            tokens without a position; an encoder-decoder model.
    """
    tokenizer = loaded.tokenizer
    if loaded.head == "causal-lm":
        return Question(-1 if position is None else position, tokenizer, "next token")
    config = loaded.model.config
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"{type(loaded.model).__name__} reads the prompt twice, in its encoder and its decoder, and one map shows "
            "one of them. do: in Python, relevance = instrument(model).trace(**batch).attribute(LogitDiff()); "
            "relevance.encoder.tokens and relevance.tokens"
        )
    if loaded.head == "masked-lm":
        masks = masked_positions(tokenizer, config, batch)
        position = _only(masks, tokenizer) if position is None else position
        what = f"tokens for {_mask(tokenizer)}" if position in masks else "tokens"
        return Question(position, tokenizer, f"{what} at position {position}")
    single = config.num_labels == 1
    kind = getattr(config, "problem_type", None)
    title, column = ("score" if single else "classes"), "class"
    chances: Chances = (
        "none" if single or kind == "regression" else "sigmoid" if kind == "multi_label_classification" else "softmax"
    )
    if loaded.head == "token-classification":
        if position is None:
            raise InputError(f"this model classifies every token. do: --position, one of {_numbered(tokenizer, batch)}")
        return Question(position, None, f"classes of the token at position {position}", column, chances, single)
    return Question(-1 if position is None else position, None, title, column, chances, single)


def masked_positions(tokenizer: Any, config: Any, batch: dict[str, Tensor]) -> list[int]:
    """Where the mask stands among the prompt's tokens."""
    mask = getattr(tokenizer, "mask_token_id", None)
    mask = getattr(config, "mask_token_id", None) if mask is None else mask
    return [place for place, token in enumerate(_ids(batch)) if token == mask]


def _only(masks: list[int], tokenizer: Any) -> int:
    if len(masks) == 1:
        return masks[0]
    mask = _mask(tokenizer)
    if not masks:
        raise InputError(
            f"the prompt has no {mask}, and a masked language model is asked about one. "
            f"do: write {mask} where the token is to be explained, or give its --position"
        )
    many = ", ".join(map(str, masks))
    raise InputError(f"{mask} is in the prompt {len(masks)} times. do: --position, one of {many}")


def _mask(tokenizer: Any) -> str:
    return str(getattr(tokenizer, "mask_token", None) or "mask token")


def _numbered(tokenizer: Any, batch: dict[str, Tensor], most: int = 40) -> str:
    """``0 [CLS], 1 hello``: the tokens with their positions."""
    texts = token_texts(tokenizer, _ids(batch))
    words = [f"{place} {text.label}" for place, text in enumerate(texts[:most])]
    return ", ".join(words) + (", …" if len(texts) > most else "")


def _ids(batch: dict[str, Tensor]) -> list[int]:
    """The row's tokens without padding: positions count these."""
    ids, mask = batch["input_ids"][0], batch.get("attention_mask")
    real: list[int] = (ids if mask is None else ids[mask[0].bool()]).tolist()
    return real
