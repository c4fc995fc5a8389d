"""Named parts of an IFEval prompt: the phrases that state a verifiable instruction, and the rest, the query.

Which phrase states which instruction is not in the data. A sentence of the prompt is taken to state an instruction when
it holds one of the words that go with it. A prompt whose instruction is put in other words keeps it in the query (5 of
541), and one whose only sentence states task and instruction alike is all instruction (about 96 of 541).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lrp_hooks.cases.schema import Case, Span
from lrp_hooks.cases.verify import OWN
from lrp_hooks.errors import InputError
from lrp_hooks.segments import Segment, check_partition
from lrp_hooks.tokens import TokenText, token_texts

_PHRASES: dict[str, str] = {
    "gsm8k:number": r"####",
    "math:boxed": r"\\boxed",
    "code:tests": r"\bcode block\b",
    "punctuation:no_comma": r"\bcommas?\b",
    "keywords:existence": r"\b(includ\w+|keywords?|words?|mention\w*)\b",
    "keywords:frequency": r"\b(times|once|twice|appear|mention|at least|less than|word)\b",
    "keywords:forbidden_words": r"\b(not|don't|doesn't|cannot|without|avoid|exclude|forbidden)\b",
    "keywords:letter_frequency": r"\bletters?\b|[#!]",
    "language:response_language": r"\b(language|only in|in [a-z]+ only|translat\w+)\b",
    "length_constraints:number_sentences": r"\bsentences?\b",
    "length_constraints:number_paragraphs": r"\bparagraphs?\b|\*\*\*|\bsections?\b",
    "length_constraints:number_words": r"\bwords?\b",
    "length_constraints:nth_paragraph_first_word": r"\bparagraphs?\b|\\n\\n|\bnew lines\b",
    "detectable_content:number_placeholders": r"\bplaceholders?\b|\bbrackets?\b|\[",
    "detectable_content:postscript": r"\bpostscript\b|\bP\.\s?(?:P\.\s?)?S\b",
    "detectable_format:number_bullet_lists": r"\bbullets?\b|^\s*\*",
    "detectable_format:constrained_response": r"My answer is",
    "detectable_format:number_highlighted_sections": r"\bhighlight\w*|\*[^*\n]+\*|\bmarkdown\b|\bitalic\w*",
    "detectable_format:multiple_sections": r"\bsections?\b|\bSECTION\b|\bPARAGRAPH\b|\bparts?\b",
    "detectable_format:json_format": r"\bjson\b",
    "detectable_format:title": r"\btitle\b|<<",
    "combination:two_responses": r"\btwo\b|\*{6}|\basterisks?\b",
    "combination:repeat_prompt": r"\brepeat\w*\b",
    "startend:end_checker": r"\b(end|finish|exact(?:ly)? phrase|last)\b",
    "startend:quotation": r"\b(quotation|quotes?)\b|\bwrap\b",
    "change_case:capital_word_frequency": r"\bcapitals?\b|\bcapitalized\b|\bcaps\b|\buppercase\b",
    "change_case:english_capital": r"\bcapitals?\b|\bcaps\b|\buppercase\b|\bupper case\b",
    "change_case:english_lowercase": r"\blower\s?case\b|\bcapitals?\b|\bsmall letters\b",
}
_SENTENCE = re.compile(r"[^\n.!?]+(?:[.!?]+(?!\s|$)[^\n.!?]*)*[.!?]*|[.!?]+")


def instruction_spans(prompt: str, instruction_ids: Sequence[str], message: int | None = None) -> tuple[Span, ...]:
    """Characters of the sentences that state the instructions, named "instruction"; neighbours are joined.

    How own prompts put what they ask for is not known: their instructions have no sentences.
    """
    patterns = [re.compile(_PHRASES[name], re.IGNORECASE) for name in instruction_ids if name not in OWN]
    found: list[tuple[int, int]] = []
    for sentence in _SENTENCE.finditer(prompt):
        if not any(pattern.search(sentence.group()) for pattern in patterns):
            continue
        start, stop = sentence.span()
        start += len(sentence.group()) - len(sentence.group().lstrip())
        if found and not prompt[found[-1][1] : start].strip():
            start = found.pop()[0]
        found.append((start, stop))
    return tuple(Span(name="instruction", start=a, stop=b, message=message) for a, b in found)


def token_segments(case: Case, tokenizer: Any, ids: Sequence[int]) -> tuple[Segment, ...]:
    """The case's segments as a partition of the tokens ``ids`` of prompt and completion.

    Tokens inside a named span get its name; other tokens of a message "query" (user) or the message's role; the
    completion is "answer"; markers of the chat template and roles are "special".

    Raises:
        InputError: a message's text that is not found in the tokens' text.
    """
    texts = token_texts(tokenizer, ids)
    whole = "".join(token.text for token in texts)
    names = ["special"] * len(whole)
    for start, stop, name in _named(case, whole):
        names[start:stop] = [name] * (stop - start)
    return check_partition(tuple(_runs(_token_names(texts, names))), len(ids))


def _token_names(texts: Sequence[TokenText], names: Sequence[str]) -> Iterator[str]:
    """The name of each token: that of its first visible character. A later piece of a character goes with the first."""
    at, last = 0, "special"
    for token in texts:
        inside = names[at : at + len(token.text)]
        visible = [name for name, c in zip(inside, token.text, strict=True) if not c.isspace()]
        last = "special" if token.special else next(iter(visible or inside), last)
        yield last
        at += len(token.text)


def _named(case: Case, whole: str) -> Iterator[tuple[int, int, str]]:
    """Spans of the text of all tokens, the general ones before the special ones."""
    parts = [(m.role, m.content) for m in case.messages] if case.messages else [("user", case.prompt or "")]
    at = 0
    for index, (role, content) in enumerate(parts):
        shown = content if content in whole[at:] else content.strip()  # many chat templates strip messages
        at = whole.find(shown, at)
        if at < 0:
            raise InputError(f"case {case.id!r}: the text of message {index} is not among the tokens")
        yield at, at + len(shown), "query" if role == "user" else role
        cut = content.find(shown)
        for span in case.segments:
            if span.message == (index if case.messages else None):
                yield at + max(span.start - cut, 0), at + min(span.stop - cut, len(shown)), span.name
        at += len(shown)
    if case.completion:
        start = whole.rfind(case.completion)
        yield (start if start >= at else at), len(whole), "answer"


def _runs(names: Iterator[str]) -> Iterator[Segment]:
    start, stop, current = 0, 0, ""
    for stop, name in enumerate(names):
        if name != current and stop > start:
            yield Segment(current, start, stop)
            start = stop
        current = name
    yield Segment(current, start, stop + 1)
