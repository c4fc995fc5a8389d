"""The result of one attribution: relevance per token and residual point, and what was absorbed on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Absorbed:
    """Relevance that did not reach the tokens, by where it went. All values in logits, float32.

    Attributes:
        biases: module path -> [B], sum over tokens of <b, d value / d b> for every additive constant
            (biases of linears and norms; the constant part f(0) of an activation).
        attention: [B, L], per block (1 - c_v)<out, d out> - <q, d q> - <k, d k>: what the softmax
            (and its sinks) kept.
        around: [B, L+1] relevance that passes a residual point outside the residual stream, to a later block: inputs
            per layer, keys and values shared across layers, an encoder's output. None where there is none.
        positions: [B], share of learned position embeddings (0 where there are none).
        block_of: module path -> block index; None for modules above the last block, -1 below the first.
    """

    biases: Mapping[str, Tensor]
    attention: Tensor
    positions: Tensor
    block_of: Mapping[str, int | None] = field(default_factory=dict)
    around: Tensor | None = None

    def above(self, point: int) -> Tensor:
        """Sum of everything absorbed between residual point ``point`` and the target, and what flows around it, [B]."""
        total = self.attention[:, point:].sum(1)
        if self.around is not None:
            total = total + self.around[:, point]
        for path, share in self.biases.items():
            block = self.block_of.get(path)
            if block is None or block >= point:
                total = total + share
        return total


@dataclass(frozen=True, eq=False)
class Relevance:
    """Relevance scores of one target, in logits (float32).

    B = batch, T = tokens, L = blocks. Padding positions are exactly 0. Of an image, tokens are the learned ones (CLS,
    registers) and then its patches, row by row; of an encoder-decoder model, those that the decoder was given.

    Attributes:
        tokens: [B, T], relevance of each input token: its word embedding (a patch's projection) times its gradient.
        layers: [B, L+1, T], residual stream before the first block (positions included) and after each block.
        value: [B], the explained value sum_k l_k df/dl_k; equals the logit difference for linear targets.
            With a final logit softcap it is the value before the cap.
        target_value: [B] the target f itself as the model reports it (after a softcap); None for a bare ``backward()``.
        input_ids: [B, T] token ids, None when the model ran on ``inputs_embeds``.
        attention_mask: [B, T] bool, False at padding.
        position: [B] position whose logits are explained; None for a bare ``backward()``, a target that reads several
            (`SequenceLogProb`), and where logits have none.
        target: what was explained, in words, e.g. ``l(' Mary') - l(' John')``.
        composite: name of the rule table.
        mid: [B, L, T] points between attention and MLP, or None where the blocks have none.
        heads: [B, L, H, T] relevance of each head's output, on request.
        neurons: block index -> [B, T, I] relevance of each MLP neuron (input of the down projection), on request.
        absorbed: what biases, positions and softmax kept; None when it was not recorded.
        encoder: the same for the encoder's stream, [B, S] and [B, L_enc+1, S]; its ``value`` is the relevance that the
            decoder's blocks pass to the encoder's output, ``absorbed.around[:, 0]`` here. None without an encoder.
    """

    tokens: Tensor
    layers: Tensor
    value: Tensor
    attention_mask: Tensor
    input_ids: Tensor | None = None
    target_value: Tensor | None = None
    position: Tensor | None = None
    target: str = ""
    composite: str = ""
    mid: Tensor | None = None
    heads: Tensor | None = None
    neurons: Mapping[int, Tensor] | None = None
    absorbed: Absorbed | None = None
    encoder: Relevance | None = None

    def ledger(self) -> Tensor:
        """[B, L+1] error of the ledger at each residual point, relative to sum |R| there.

        The ledger (docs/mathematics.md) says: relevance at a residual point plus everything absorbed above
        it equals the explained value, for every LRP composite. It is 0 up to rounding when each non-linear
        part of the model has its rule. An encoder's stream has its own: ``relevance.encoder.ledger()``.

        Raises:
            ValueError: if absorbed parts were not recorded.
        """
        if self.absorbed is None:
            raise ValueError("the ledger needs the absorbed parts: attribute(..., absorbed=True)")
        errors = []
        for point in range(self.layers.shape[1]):
            scores = self.layers[:, point].double()
            missing = scores.sum(1) + self.absorbed.above(point).double() - self.value.double()
            errors.append(missing.abs() / scores.abs().sum(1).clamp_min(torch.finfo(torch.float64).tiny))
        return torch.stack(errors, 1)
