"""Another model's choices at the places of an answer: contrast tokens that the failing model ranks too low to try."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lrp_hooks.cases.answers.generate import check_length
from lrp_hooks.cases.inputs import fingerprint
from lrp_hooks.errors import InputError
from lrp_hooks.loading.loaded import LoadedModel
from lrp_hooks.structure.probe import embedding_device


class Reference:
    """A model that is asked what it would have said.

    Attributes:
        name: its name.
    """

    def __init__(self, loaded: LoadedModel, of: LoadedModel):
        """Check that both speak in the same tokens.

        Raises:
            InputError: the tokenizers differ.
        """
        if fingerprint(loaded.tokenizer) != fingerprint(of.tokenizer):
            raise InputError(
                f"{loaded.name} has another tokenizer than {of.name}: its choices are other tokens. "
                "do: take a reference model of the same family"
            )
        self.name, self._model = loaded.name, loaded.model

    @torch.no_grad()
    def best(self, ids: Sequence[int], positions: Sequence[int], most: int) -> list[list[int]]:
        """Its ``most`` likeliest tokens after the first p tokens, for each p of ``positions``; one forward.

        Raises:
            ContextLengthError: the tokens do not fit.
        """
        check_length(self._model, len(ids), 0)
        given = torch.tensor([list(ids)], device=embedding_device(self._model))
        logits: Tensor = self._model(input_ids=given, use_cache=False).logits[0]
        return [logits[p - 1].topk(most).indices.tolist() for p in positions]
