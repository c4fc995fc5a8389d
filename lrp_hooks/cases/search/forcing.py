"""Answers that were written elsewhere, in the tokens of the model that is made to say them (teacher forcing)."""

from __future__ import annotations

from typing import Any

from lrp_hooks.cases.answers.generate import decode, encode_prompt
from lrp_hooks.cases.answers.run import Answer
from lrp_hooks.errors import InputError


def tokenized(tokenizer: Any, answer: Answer) -> Answer:
    """The answer with the ids of prompt and response; one that the model itself has generated has them and stays.

    The response may be as long as it is, whatever ``max_new_tokens`` says.

    Raises:
        InputError: a chat without a chat template; tokens that do not spell the response, so that another text would be
            judged; ids of another tokenizer.
    """
    if not answer.written_by:
        return answer
    if not answer.ids:
        said = tokenizer(answer.response, add_special_tokens=False)["input_ids"] if answer.response else ()
        prompt = tuple(encode_prompt(tokenizer, answer.given))
        longest = max(answer.max_new_tokens, len(said))
        tokens = {"prompt_ids": prompt, "ids": tuple(map(int, said)), "max_new_tokens": longest}
        answer = answer.model_copy(update=tokens)
    spelled = decode(tokenizer, answer.ids)
    if spelled != answer.response:
        raise InputError(
            f"this tokenizer's tokens of the response read {_shown(spelled)}, not {_shown(answer.response)}: "
            "it drops or changes characters, or the ids are another tokenizer's"
        )
    return answer


def _shown(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[:most] + "…")
