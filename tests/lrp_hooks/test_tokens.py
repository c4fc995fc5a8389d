"""Token text: whole characters, round trips, and nothing that acts on a terminal or a page."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lrp_hooks.tokens import token_texts, visible

TEXTS = (
    "When Mary went\nto the store,\t twice  ",
    "🦜 parrots and 東京 and naïve café",
    "مرحبا بالعالم",
    "a\u202eevil\u202c \x1b[31mred\x07",
    "</script><img src=x onerror=alert(1)>",
    "e\u0301 👩‍👩‍👧 ünï",
)


@pytest.fixture(scope="module")
def byte_level() -> Any:
    """Every byte its own token: all multi-byte characters are split."""
    alphabet = {symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    raw = Tokenizer(models.BPE(alphabet, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|start|>", eos_token="<|end|>")


@pytest.fixture(scope="module")
def byte_fallback() -> Any:
    """SentencePiece style: spaces as U+2581, unknown characters as bytes."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"abcdefghijklmnopqrstuvwxyzWM,"]
    raw = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    raw.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_the_texts_joined_are_the_prompt(kind: str, text: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(kind)
    ids = tokenizer.encode(text, add_special_tokens=False)
    texts = token_texts(tokenizer, ids)
    assert [t.id for t in texts] == ids
    assert "".join(t.text for t in texts) == text
    assert not any("\ufffd" in t.display for t in texts)


def test_a_split_character_is_shown_once_and_its_pieces_marked(byte_level: Any) -> None:
    texts = token_texts(byte_level, byte_level.encode("a🦜b"))
    assert [t.display for t in texts] == ["a", "🦜", "⋯", "⋯", "⋯", "b"]
    assert [(t.part, t.parts) for t in texts[1:5]] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_cut_off_character_is_a_replacement_mark_not_an_error(byte_level: Any) -> None:
    ids = byte_level.encode("x🦜")[:-2]
    assert [t.display for t in token_texts(byte_level, ids)] == ["x", "�", "�"]
    swapped = [*byte_level.encode("🦜")[:2], *byte_level.encode("ok")]
    assert [t.display for t in token_texts(byte_level, swapped)] == ["�", "�", "o", "k"]


def test_special_tokens_are_flagged_and_keep_their_name(byte_level: Any) -> None:
    texts = token_texts(byte_level, [byte_level.bos_token_id, *byte_level.encode("hi")])
    assert [t.special for t in texts] == [True, False, False]
    assert texts[0].display == "<|start|>"


def test_control_characters_become_symbols() -> None:
    assert visible("a\nb\tc") == "a↵b⇥c"
    assert visible("\x1b[31m\x07\x7f\r") == "␛[31m␇␡␍"
    assert visible("\u202eabc\u2066\u200b\x9b") == "⟨U+202E⟩abc⟨U+2066⟩⟨U+200B⟩⟨U+009B⟩"
    assert visible("👩‍👧") == "👩‍👧"


def test_without_a_tokenizer_ids_are_shown() -> None:
    assert [t.display for t in token_texts(None, [5, 17])] == ["#5", "#17"]
