"""A fact planted in filler: is it the region of the prompt that carries most relevance?

Two models that demonstrably use the fact (the target's lead over the contrast vanishes when the fact is exchanged for
another): the demo model within its trained length, and a two-layer model trained here to recall the one word of a kind
that stands among others, far beyond the length it was trained at.

    python -m benchmarks.needle                  # both; the committed result: benchmarks/results/needle.json
    python -m benchmarks.needle --model tiny
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from itertools import accumulate, chain, cycle, islice
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import RESULTS, load, write_result

FILLER = (
    "The train left the station a little late and rolled past gardens, fields and low white houses. ",
    "On the table lay a newspaper, two cups and a letter that nobody had opened yet. ",
    "In the afternoon the wind turned and clouds came up from the sea. ",
    "She counted the steps to the harbour, as she had done every day that summer. ",
    "The shop on the corner sold string, candles and paper of every colour. ",
)
FACT = "Remember this: the secret password of the blue door is {}. "
QUESTION = "Question: What is the secret password of the blue door?\nAnswer: The secret password of the blue door is"
TARGET, OTHER = " banana", " guitar"
MARK, QUERY, FACTS, FIRST, VOCABULARY = 1, 2, range(3, 13), 13, 64
"""Of the tiny model: a mark before the fact, the question, the words that can be facts, all others from FIRST on."""
TRAINED, STEPS, BATCH = 128, 300, 16
"""The tiny model: tokens per sequence, steps and sequences per step of its training."""


MODELS = ("tiny", "demo")
PLACES = (
    ("tiny", 8192, 0.1), ("tiny", 8192, 0.5), ("tiny", 8192, 0.9), ("tiny", 32_768, 0.5),
    ("demo", 2048, 0.25), ("demo", 2048, 0.75), ("demo", 4096, 0.5), ("demo", 8192, 0.5),
)  # fmt: skip
"""Model, tokens, and where the fact stands."""


@dataclass(frozen=True)
class Prompt:
    """A prompt with a fact in it, and the same prompt with another one.

    Attributes:
        ids, exchanged: [1, T]; start, stop: the fact's tokens; end: where the question begins.
        target, contrast: token ids, of the fact and of the other one.
    """

    ids: Tensor
    exchanged: Tensor
    start: int
    stop: int
    end: int
    target: int
    contrast: int


@dataclass(frozen=True)
class Found:
    """One prompt explained.

    Attributes:
        lead, exchanged_lead: logit of the target minus that of the contrast, with the fact and with the other.
        rank: place of the fact among all regions of its size before the question, by summed relevance; 1 is the top.
        share: of the relevance before the question that is the fact's; runner_up: the next region's.
    """

    model: str
    tokens: int
    depth: float
    lead: float
    exchanged_lead: float
    rank: int
    share: float
    runner_up: float
    regions: int


def demo_prompt(tokenizer: Any, tokens: int, depth: float) -> Prompt:
    """``tokens`` tokens; the fact stands at the share ``depth`` of the filler."""

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    question = encode("\n" + QUESTION)
    sentences = [encode(text) for text in FILLER]
    fact, other = (encode(FACT.format(word.strip())) for word in (TARGET, OTHER))
    room = tokens - len(question) - len(fact)
    filler = list(islice(chain.from_iterable(cycle(sentences)), room))
    ends = [0, *accumulate(len(sentence) for sentence in islice(cycle(sentences), room))]
    start = max(end for end in ends if end <= depth * room)  # between two sentences
    made = [torch.tensor([filler[:start] + text + filler[start:] + question]) for text in (fact, other)]
    target, contrast = (encode(word)[0] for word in (TARGET, OTHER))
    return Prompt(*made, start, start + len(fact), room + len(fact), target, contrast)


def tiny_prompt(tokens: int, depth: float, seed: int = 0) -> Prompt:
    """Random words, and one that can be a fact with its mark before; the question is the last token."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST, VOCABULARY, (1, tokens), generator=generator)
    start = round(depth * (tokens - 4))
    ids[0, start], ids[0, -1] = MARK, QUERY
    target, contrast = FACTS[3], FACTS[7]
    ids[0, start + 1] = target
    exchanged = ids.clone()
    exchanged[0, start + 1] = contrast
    return Prompt(ids, exchanged, start, start + 2, tokens - 1, target, contrast)


def tiny_model(steps: int = STEPS) -> Any:
    """Two layers without positions, trained to recall the fact: what they attend to does not depend on where it is."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "smollm3", hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=VOCABULARY, max_position_embeddings=1 << 17, no_rope_layers=[0, 0],
        pad_token_id=0, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        ids, answers = _lesson(step)
        loss = torch.nn.functional.cross_entropy(model(input_ids=ids, logits_to_keep=1).logits[:, 0], answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def _lesson(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(FIRST, VOCABULARY, (BATCH, TRAINED), generator=generator)
    row, place = torch.arange(BATCH), torch.randint(TRAINED - 3, (BATCH,), generator=generator)
    answers = torch.randint(FACTS.start, FACTS.stop, (BATCH,), generator=generator)
    ids[row, place], ids[row, place + 1], ids[:, -1] = MARK, answers, QUERY
    return ids, answers


def explain(name: str, model: Any, prompt: Prompt) -> Found:
    """Relevance of target against contrast, summed over regions as long as the fact."""
    from lrp_hooks import LogitDiff, instrument

    target, size = LogitDiff(prompt.target, prompt.contrast), prompt.stop - prompt.start
    with instrument(model) as lrp:
        relevance = lrp.trace(input_ids=prompt.ids).attribute(target)
    scores = relevance.tokens[0, : prompt.end].double()
    fact = float(scores[prompt.start : prompt.stop].sum())
    others = torch.cat([scores[: prompt.start], scores[prompt.stop :]])
    regions = torch.stack([part.sum() for part in torch.split(others, size)])
    with torch.no_grad():
        logits = model(input_ids=prompt.exchanged, use_cache=False, logits_to_keep=1).logits[0, -1]
    return Found(
        model=name,
        tokens=prompt.ids.shape[1],
        depth=prompt.start / prompt.end,
        lead=float(relevance.value[0]),
        exchanged_lead=float(logits[prompt.target] - logits[prompt.contrast]),
        rank=1 + int((regions >= fact).sum()),
        share=fact / float(scores.abs().sum()),
        runner_up=float(regions.max()) / float(scores.abs().sum()),
        regions=len(regions) + 1,
    )


def explained(name: str, places: list[tuple[str, int, float]]) -> list[Found]:
    """One model at some lengths and depths."""
    model: Any = tiny_model() if name == "tiny" else load()
    found = []
    for _, tokens, depth in places:
        prompt = tiny_prompt(tokens, depth) if name == "tiny" else demo_prompt(_tokenizer(), tokens, depth)
        found.append(explain(name, model, prompt))
        print(found[-1], flush=True)
    return found


def known() -> list[Found]:
    """Rows of the result file."""
    file = RESULTS / "needle.json"
    return [Found(**row) for row in json.loads(file.read_text())["rows"]] if file.exists() else []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", choices=("demo", "tiny"), help="only this model")
    parser.add_argument("--tokens", type=int, help="only this length")
    options = parser.parse_args()
    found: list[Found] = []
    for name in MODELS:
        places = [place for place in PLACES if place[0] == name and options.tokens in (None, place[1])]
        if options.model in (None, name) and places:
            found += explained(name, places)
    rows = {(row.model, row.tokens, round(row.depth, 1)): row for row in (*known(), *found)}
    write_result("needle", [asdict(row) for row in rows.values()])
    return 0 if all(row.rank == 1 and row.lead > 0 > row.exchanged_lead for row in found) else 1


def _tokenizer() -> Any:
    from lrp_hooks.loading.demo import load_demo_model

    return load_demo_model().tokenizer


if __name__ == "__main__":
    sys.exit(main())
