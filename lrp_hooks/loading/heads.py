"""What a checkpoint's head is for: which of transformers' auto classes loads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrp_hooks.errors import ModelLoadError
from lrp_hooks.loading.loaded import quiet


@dataclass(frozen=True)
class Head:
    """A kind of head that `load_model` loads.

    Attributes:
        ending: of the names of model classes with this head.
        auto: transformers' class that loads them.
        words: what such a model is.
    """

    ending: str
    auto: str
    words: str


HEADS = {
    "causal-lm": Head("ForCausalLM", "AutoModelForCausalLM", "a causal language model"),
    "masked-lm": Head("ForMaskedLM", "AutoModelForMaskedLM", "a masked language model"),
    "sequence-classification": Head(
        "ForSequenceClassification", "AutoModelForSequenceClassification", "a classifier of sequences"
    ),
    "token-classification": Head("ForTokenClassification", "AutoModelForTokenClassification", "a classifier of tokens"),
}
CHOICES = ("auto", *HEADS)

IN_PYTHON = {
    "ForQuestionAnswering": (
        "AutoModelForQuestionAnswering",
        "trace(**tokenizer(question, context, return_tensors='pt')).attribute(AnswerSpan(start, end))",
    ),
    "ForConditionalGeneration": (
        "AutoModelForSeq2SeqLM",
        "trace(**batch, decoder_input_ids=...).attribute(LogitDiff(tokenizer=tokenizer))",
    ),
    "ForImageClassification": (
        "AutoModelForImageClassification",
        "trace(**processor(image, return_tensors='pt')).attribute(LogitDiff('cat', 'dog'))",
    ),
}
"""Heads that have no name here, and how they are explained all the same."""


def check_head(head: str) -> None:
    """Raises ModelLoadError for an unknown name; lists the choices."""
    if head not in CHOICES:
        raise ModelLoadError(f"unknown head {head!r}. choices: {', '.join(CHOICES)}")


def find_head(name: str, where: str, options: dict[str, Any]) -> tuple[str, str]:
    """The head that a checkpoint's config names, a key of `HEADS`, and the class that it names, "" if none.

    A config that names no head, or cannot be read, is taken for a causal language model's.

    Raises:
        ModelLoadError: the config names a head that is none of these; lists the choices.
    """
    if "gguf_file" in options:
        return "causal-lm", ""
    config = _config(where, {key: options[key] for key in ("revision",) if key in options})
    architecture = str((config.get("architectures") or [""])[0])
    for head, known in HEADS.items():
        if architecture.endswith(known.ending):
            return head, architecture
    if "For" not in architecture or _loads_as_causal(architecture, config):
        return "causal-lm", architecture
    raise ModelLoadError(
        f"the config of {name!r} names {architecture}, whose head is none of {', '.join(HEADS)}. "
        f'do: choose one of these all the same (head="masked-lm", --head masked-lm){_python(architecture)}'
    )


def require_causal(name: str, where: str, options: dict[str, Any], command: str) -> None:
    """For commands that explain next tokens only.

    Raises:
        ModelLoadError: the config names another head.
    """
    try:
        head, architecture = find_head(name, where, options)
    except ModelLoadError as error:
        raise ModelLoadError(f"{command} takes causal language models only: {error}") from error
    if head != "causal-lm":
        raise ModelLoadError(
            f"{command} takes causal language models only, and the config of {name!r} names {architecture}. "
            f"do: lrp-hooks attribute explains it, and lrp-hooks doctor examines it; in Python "
            f"instrument({HEADS[head].auto}.from_pretrained(...)) has graphs of it, too"
        )


def _config(where: str, options: dict[str, Any]) -> dict[str, Any]:
    from transformers import PretrainedConfig

    try:
        with quiet():
            config, _ = PretrainedConfig.get_config_dict(where, **options)
    except Exception:  # what is wrong is said by the loading of the model; an adapter has no config of its own
        return {}
    return dict(config)


def _loads_as_causal(architecture: str, config: dict[str, Any]) -> bool:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    return architecture in KNOWN.values() or "AutoModelForCausalLM" in (config.get("auto_map") or {})


def _python(architecture: str) -> str:
    for ending, (auto, call) in IN_PYTHON.items():
        if architecture.endswith(ending):
            return f", or in Python: instrument({auto}.from_pretrained(...)).{call}"
    return ", or load it in Python with its own class and instrument(model)"
