"""What a sweep writes: one record per item."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from typing import Literal

from lrp_hooks.cases.schema import Strict
from lrp_hooks.cases.sweep.breakdown import Share
from lrp_hooks.cases.validation.validate import Validation
from lrp_hooks.tokens import TokenText

Stage = Literal["attribute", "validate"]


@dataclass(frozen=True)
class Item:
    """One piece of work: a case with a model and, for attribution, a composite."""

    stage: Stage
    model: str
    case: str
    composite: str = ""

    @property
    def name(self) -> str:
        """A file name of its own, whatever characters the names hold."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode(errors="surrogatepass")).hexdigest()
        words = re.sub(r"[^A-Za-z0-9]+", "-", f"{self.composite} {self.case}").strip("-")[:48]
        return f"{self.stage}-{words}-{digest[:12]}"


class Piece(Strict):
    """One token as text; the fields of `TokenText`."""

    id: int
    text: str
    part: int = 1
    parts: int = 1
    whole: str = ""
    special: bool = False
    symbol: str = ""

    def token(self) -> TokenText:
        return TokenText(**self.model_dump())


class Attributed(Strict):
    """One case attributed with one model and composite.

    Attributes:
        tokenizer: fingerprint; models with the same one see the same tokens.
        value: logit(target) - logit(contrast), explained by the scores.
        target_logit, contrast_logit: its two parts.
        top: id of the model's own first choice there, with its text.
        ledger: largest error of the ledger, relative to sum |R|; None where the composite is no LRP.
        shares: relevance per named part of the prompt.
        pieces, scores: text and relevance of each token, in logits.
        error: why there is nothing else.
    """

    case: str
    model: str
    composite: str
    tokenizer: str = ""
    value: float = 0.0
    target_logit: float = 0.0
    contrast_logit: float = 0.0
    top: int = -1
    top_text: str = ""
    ledger: float | None = None
    shares: tuple[Share, ...] = ()
    pieces: tuple[Piece, ...] = ()
    scores: tuple[float, ...] = ()
    seconds: float = 0.0
    error: str = ""


class Validated(Strict):
    """One case validated with one model, by all composites."""

    case: str
    model: str
    validation: Validation | None = None
    seconds: float = 0.0
    error: str = ""


Record = Attributed | Validated
KINDS: dict[Stage, type[Attributed] | type[Validated]] = {"attribute": Attributed, "validate": Validated}
