"""Prompts and amounts of memory as they are written on a command line."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrp_hooks.errors import InputError
from lrp_hooks.recording.checkpointing import Mode


@dataclass(frozen=True)
class PromptSource:
    """Where the prompt comes from: exactly one of text, file, chat messages, ids."""

    prompt: str | None = None
    file: Path | None = None
    messages: str | None = None
    completion: str = ""
    ids: str | None = None

    def encode(self, tokenizer: Any, *, next_token: bool = True) -> dict[str, Tensor]:
        """The batch of one row for the model.

        Args:
            next_token: the model goes on from here: chats end with the mark of its turn. Others are given a finished
                text, with what else the tokenizer makes of it.

        Raises:
            InputError: none or several sources, an empty prompt, unreadable files or messages.
        """
        given = self._given()
        if len(given) != 1:
            raise InputError(
                f"give exactly one of --prompt, --prompt-file, --messages, --ids (got {', '.join(given) or 'none'})"
            )
        if self.ids is not None:
            return {"input_ids": _parse_ids(self.ids)}
        if tokenizer is None:
            raise InputError("this model has no tokenizer. do: give the prompt as --ids 1,2,3")
        if self.messages is not None:
            messages = _parse_messages(_read(self.messages))
            text, special = _chat(tokenizer, messages, its_turn=next_token), False
        else:
            text, special = _read_file(self.file) if self.file is not None else _read_text(self.prompt or ""), True
        if not text:
            raise InputError("the prompt is empty: there is no token to explain anything by")
        batch: Any = tokenizer(text + self.completion, return_tensors="pt", add_special_tokens=special)
        kept = ("input_ids", "attention_mask", *(() if next_token else ("token_type_ids",)))
        return {name: batch[name] for name in kept if name in batch}

    def read(self) -> PromptSource:
        """The same with standard input read, which can be done once."""
        if self.prompt == "-":
            return replace(self, prompt=sys.stdin.read())
        return replace(self, messages=sys.stdin.read()) if self.messages == "-" else self

    def refuse(self, why: str) -> None:
        """Raises InputError when a prompt is given all the same."""
        if self._given() or self.completion:
            raise InputError(
                f"{why}. do: leave out {', '.join(f'--{name}' for name in self._given()) or '--completion'}"
            )

    def _given(self) -> list[str]:
        return [name for name in ("prompt", "file", "messages", "ids") if getattr(self, name) is not None]


def _read_text(text: str) -> str:
    return sys.stdin.read() if text == "-" else text


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the prompt from {path}: {error}") from error


def _read(argument: str) -> str:
    """JSON given directly, on standard input, or in a file."""
    if argument == "-":
        return sys.stdin.read()
    return argument if argument.lstrip().startswith("[") else _read_file(Path(argument))


def _parse_ids(text: str) -> Tensor:
    try:
        ids = [int(part) for part in text.replace(",", " ").split()]
    except ValueError as error:
        raise InputError(f"--ids takes whole numbers separated by commas: {error}") from error
    if not ids:
        raise InputError("the prompt is empty: there is no token to explain anything by")
    return torch.tensor([ids])


def _parse_messages(text: str) -> list[dict[str, str]]:
    try:
        messages = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--messages is no JSON: {error}") from error
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    )
    if not good or not messages:
        raise InputError('--messages takes a list like [{"role": "user", "content": "..."}]')
    return list(messages)


def _chat(tokenizer: Any, messages: list[dict[str, str]], *, its_turn: bool) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("this tokenizer has no chat template. do: give the prompt as --prompt")
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=its_turn)
    return text


CHECKPOINT: dict[str, Mode] = {"auto": "auto", "on": True, "off": False}


def parse_checkpoint(text: str) -> Mode:
    """What ``--checkpoint`` says.

    Raises:
        InputError: an unknown word; lists the choices.
    """
    if text not in CHECKPOINT:
        raise InputError(f"--checkpoint {text!r} is unknown. choices: {', '.join(CHECKPOINT)}")
    return CHECKPOINT[text]


UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def parse_memory(text: str | None) -> int | None:
    """Bytes of "6GB", "512 MB", "1.5GiB" or a bare number; None for None.

    Raises:
        InputError: anything else.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if found is None or found[2].upper() not in UNITS or not float(found[1]):
        raise InputError(f"--max-memory {text!r} is no amount of memory. do: 6GB, 512MB, 1.5GiB or a number of bytes")
    return int(float(found[1]) * UNITS[found[2].upper()])
