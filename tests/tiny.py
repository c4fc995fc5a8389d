"""A tiny llama with a tokenizer of letters, saved as a folder that the commands can load, and cases for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from families import build

from lrp_hooks.cases.schema import Case, CaseToken, Message
from lrp_hooks.loading.loaded import LoadedModel

LETTERS = [chr(code) for code in range(33, 33 + 90)]
TEMPLATE = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}<answer>"


def tokenizer(letters: list[str] | None = None) -> Any:
    """One token per character; 97 entries, as the tiny models have."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "</s>", "<user>", "<answer>", "<unk>", " ", *(letters or LETTERS)]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    made.decoder = decoders.Fuse()
    made.add_special_tokens([AddedToken(word, special=True) for word in words[:5]])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.chat_template = TEMPLATE
    return fast


def loaded(seed: int = 0) -> LoadedModel:
    """A random llama in float32."""
    from families import reinitialise

    model = build("llama")
    reinitialise(model, seed)
    return LoadedModel(model.float().eval(), tokenizer(), "made", f"tiny-{seed}")


def save(folder: Path, seed: int = 0) -> Path:
    """The model as a folder."""
    made = loaded(seed)
    made.model.save_pretrained(folder)
    made.tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def cases(model: LoadedModel, count: int = 4) -> list[Case]:
    """Cases whose target is the model's own first choice and whose contrast is its second."""
    texts = ["say no more", "what is it now", "go on and on", "one two three", "he and she", "up and down we go"]
    made = []
    for number in range(count):
        message = Message(role="user", content=texts[number % len(texts)] + " " + LETTERS[number + 40])
        text = f"<user>{message.content}<answer>so it"
        ids = model.tokenizer(text, add_special_tokens=False)["input_ids"]
        first, second = model.model(torch.tensor([ids])).logits[0, -1].topk(2).indices.tolist()
        made.append(
            Case(
                id=f"case/{number}",
                messages=(message,),
                completion="so it",
                target=CaseToken(id=first),
                contrast=CaseToken(id=second),
            )
        )
    return made
