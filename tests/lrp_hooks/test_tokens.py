"""Token text: whole characters, round trips, and nothing that acts on a terminal or a page."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lrp_hooks.tokens import TokenText, rtl_runs, token_texts, visible

TEXTS = (
    "When Mary went\nto the store,\t twice  ",
    "🦜 parrots and 東京 and naïve café",
    "مرحبا بالعالم",
    "a\u202eevil\u202c \x1b[31mred\x07",
    "</script><img src=x onerror=alert(1)>",
    "e\u0301 👩‍👩‍👧 ünï",
)


def byte_tokenizer(vocabulary: dict[str, int]) -> Any:
    raw = Tokenizer(models.BPE(vocabulary, []))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|start|>", eos_token="<|end|>")


@cache
def every_byte() -> Any:
    """Every byte its own token: all multi-byte characters are split."""
    return byte_tokenizer({symbol: i for i, symbol in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))})


@cache
def bytes_to_symbols() -> dict[int, str]:
    """The byte-level alphabet, asked of the tokenizer itself: each byte in a character of its own."""
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    table: dict[int, str] = {}
    for code in [
        *range(0x80),
        *range(0x80, 0x800),
        0x800,
        *range(0x1000, 0x10000, 0x1000),
        *range(0x10000, 0x110000, 0x8000),
    ]:
        if not 0xD800 <= code < 0xE000:
            symbols = split.pre_tokenize_str(chr(code))[0][0]
            table.update(zip(chr(code).encode(), symbols, strict=True))
    unused = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - set(table.values()))  # bytes that UTF-8 never has
    return table | dict(zip(sorted(set(range(256)) - set(table)), unused, strict=True))


@pytest.fixture(scope="module")
def byte_level() -> Any:
    return every_byte()


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
    assert [t.display for t in texts] == ["a", "🦜", "·", "·", "·", "b"]
    assert [t.label for t in texts[1:5]] == ["🦜·1/4", "🦜·2/4", "🦜·3/4", "🦜·4/4"]
    assert [(t.part, t.parts) for t in texts[1:5]] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_tokens_that_share_two_characters_are_one_group() -> None:
    """One token holds the end of a character and the start of the next."""
    table = bytes_to_symbols()
    pieces = ["".join(table[byte] for byte in piece) for piece in (b"a\xe4", b"\xbd\xa0\xe5", b"\xa5\xbdb")]
    tokenizer = byte_tokenizer({piece: i for i, piece in enumerate(pieces)})
    texts = token_texts(tokenizer, [0, 1, 2])
    assert [t.text for t in texts] == ["a你", "好", "b"]
    assert [t.display for t in texts] == ["a你", "·好", "·b"]
    assert [t.label for t in texts] == ["a你好b·1/3", "a你好b·2/3", "a你好b·3/3"]


def test_bytes_that_make_no_character_are_shown_as_bytes(byte_level: Any) -> None:
    ids = byte_level.encode("x🦜")[:-2]
    cut = token_texts(byte_level, ids)
    assert [t.display for t in cut] == ["x", "⟨F0⟩", "⟨9F⟩"]
    assert "".join(t.text for t in cut) == byte_level.decode(ids) == "x\ufffd"
    swapped = [*byte_level.encode("🦜")[:2], *byte_level.encode("ok")]
    assert [t.display for t in token_texts(byte_level, swapped)] == ["⟨F0⟩", "⟨9F⟩", "o", "k"]
    real = token_texts(byte_level, byte_level.encode("\ufffd"))
    assert real[0].display == "\ufffd", "a replacement character that was in the prompt is no broken one"


@pytest.mark.parametrize("seed", range(100))
def test_any_bytes_give_what_the_tokenizer_decodes(seed: int) -> None:
    """Valid characters, cut ones and noise in any order."""
    tokenizer, symbols, random = every_byte(), bytes_to_symbols(), Random(seed)
    whole = "".join(random.choices("a é你🦜\u202e\n\u0301م", k=12)).encode()
    noise = random.choices((0xE4, 0xF0, 0x9F, 0x80, 0xC0, 0xFF, 0xED, 0x41), k=8)
    data = [*whole[random.randrange(4) :], *noise, *whole[: random.randrange(len(whole))]]
    ids = [tokenizer.convert_tokens_to_ids(symbols[byte]) for byte in data]
    texts = token_texts(tokenizer, ids)
    assert "".join(t.text for t in texts) == tokenizer.decode(ids)
    assert all(t.display and t.label and t.display.isprintable() for t in texts)


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


def test_invisible_characters_are_shown() -> None:
    """Text can be hidden from a reader and still reach the model."""
    hidden = "".join(chr(0xE0000 + ord(c)) for c in "hi")  # tag characters
    assert visible("a" + hidden) == "a⟨U+E0068⟩⟨U+E0069⟩"
    assert visible("\u3164\u00ad\u00a0") == "⟨U+3164⟩⟨U+00AD⟩⍽"
    assert visible("\u200d") == "⟨U+200D⟩"
    assert visible("\ufe0f") == "⟨U+FE0F⟩"
    assert visible("\ud800\ufffe\ue000") == "⟨U+D800⟩⟨U+FFFE⟩⟨U+E000⟩"


def test_labels_make_spaces_and_marks_visible() -> None:
    labels = {" Mary": "␣Mary", "  ": "␣␣", " " * 12: "␣(12)", "a b ": "a b␣", "\u0301": "◌\u0301", "\n": "↵", "": "∅"}
    assert {text: TokenText(0, text).label for text in labels} == labels


def test_running_text_breaks_after_a_newline() -> None:
    assert TokenText(0, ".\n\n  x\t").flow == ".↵\n↵\n  x⇥   "


def test_right_to_left_runs_span_words_and_end_at_other_letters() -> None:
    words = ["a", " م", "رحبا", " ", "بال", "عالم", "،", " ok", "שלום", "\n", "ش"]
    runs = rtl_runs([TokenText(i, word) for i, word in enumerate(words)])
    assert runs == [range(1, 6), range(8, 9), range(10, 11)]
    assert rtl_runs([TokenText(0, "plain")]) == []


def test_added_tokens_are_shown_as_they_are_written() -> None:
    tokenizer = byte_tokenizer({"a": 0})
    tokenizer.add_tokens(["<think>", "é", "  "])
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|role|>"]})
    ids = tokenizer.convert_tokens_to_ids(["<think>", "é", "  ", "<|role|>"])
    texts = token_texts(tokenizer, ids)
    assert [t.display for t in texts] == ["<think>", "é", "  ", "<|role|>"]
    assert [t.special for t in texts] == [False, False, False, True]


def test_the_space_that_sentencepiece_adds_is_no_text_of_the_prompt() -> None:
    pieces = ["<unk>", "<s>", "\u2581hi", "\u2581you", "!"]
    raw = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    raw.decoder = decoders.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", bos_token="<s>")
    assert [t.text for t in token_texts(tokenizer, [2, 3, 4])] == ["hi", " you", "!"]
    assert "".join(t.text for t in token_texts(tokenizer, [1, 2, 3])) == tokenizer.decode([1, 2, 3])


def test_word_pieces_get_their_spaces() -> None:
    raw = Tokenizer(models.WordPiece({"[UNK]": 0, "para": 1, "##chute": 2, "jump": 3}, unk_token="[UNK]"))
    raw.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="[UNK]")
    assert [t.text for t in token_texts(tokenizer, [1, 2, 3])] == ["para", "chute", " jump"]


def test_an_id_outside_the_vocabulary_is_shown_as_a_number(byte_level: Any) -> None:
    (outside,) = token_texts(byte_level, [99_999])
    assert (outside.text, outside.display, outside.label) == ("", "#99999", "#99999")
