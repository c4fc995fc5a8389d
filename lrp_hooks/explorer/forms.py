"""What the page sends, checked: unknown fields and values out of range are errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lrp_hooks.errors import InputError

CompositeName = Literal["attnlrp", "cp-lrp", "gradient"]
F = TypeVar("F", bound="Form")
Kind = Literal["logit-diff", "logit", "max-logit", "demeaned-logit", "topk-mean-logit", "log-prob"]


Position = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Number = Annotated[int, Field(ge=0, lt=2**31)]


class Part(BaseModel):
    """Fields that are checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Form(Part):
    """A request's body.

    Attributes:
        model: number of the model that it is about (`Session.state`), which may have been replaced; None: any.
    """

    model: Number | None = None


class Turn(Part):
    """One message of a chat."""

    role: Annotated[str, Field(min_length=1, max_length=40)]
    content: str


class Prompt(Part):
    """A text, or a chat through the model's template; and what the model has said so far."""

    text: str | None = None
    messages: tuple[Turn, ...] | None = None
    completion: str = ""

    @model_validator(mode="after")
    def _one(self) -> Prompt:
        if (self.text is None) == (self.messages is None):
            raise ValueError("give a text or messages")
        return self


class Reading(Form):
    """What would the model say after this prompt, or after one of its tokens?"""

    prompt: Prompt
    position: Position = -1
    composite: CompositeName = "attnlrp"
    top: Annotated[int, Field(ge=1, le=100)] = 12
    extra: tuple[str, ...] = ()


class Continuing(Form):
    """Let the model go on from the prompt, after one token that is chosen for it."""

    prompt: Prompt
    token: Number | None = None
    new_tokens: Annotated[int, Field(ge=1, le=2000)] = 60


class Explaining(Form):
    """Why the target and not the contrast? Tokens as `lrp_hooks.written` reads them."""

    prompt: Prompt
    position: Position = -1
    target: str | None = None
    contrasts: tuple[str, ...] = ()
    kind: Kind = "logit-diff"
    composite: CompositeName = "attnlrp"
    show: Literal["heatmap", "graph"] = "heatmap"
    node_threshold: Annotated[float, Field(ge=0)] = 0.01
    node_unit: Literal["logits", "value", "layer"] = "logits"
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.85
    segments: str = ""
    mid: bool = False
    detail: bool = False


class Loading(Form):
    """Which model."""

    name: Annotated[str, Field(min_length=1, max_length=4096)]
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str | None = None
    revision: str | None = None


class Comparing(Form):
    """Which results to put beside each other."""

    results: Annotated[tuple[Number, ...], Field(min_length=2, max_length=8)]


def read_form(kind: type[F], body: bytes | Mapping[str, Any]) -> F:
    """A form from JSON, or from its fields.

    Raises:
        InputError: names the fields that are wrong.
    """
    try:
        return kind.model_validate_json(body) if isinstance(body, bytes) else kind.model_validate(body)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'the request'}: {e['msg']}" for e in error.errors()[:3]]
        raise InputError("; ".join(wrong)) from error
