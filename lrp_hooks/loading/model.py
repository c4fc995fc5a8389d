"""Load the model that a command names: a folder, a hub name, a GGUF file, or "demo"."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from lrp_hooks.errors import ModelLoadError, first_line
from lrp_hooks.loading.demo import load_demo_model
from lrp_hooks.loading.heads import HEADS, check_head, find_head, require_causal
from lrp_hooks.loading.loaded import LoadedModel, quiet
from lrp_hooks.loading.packing import keep_unpacked

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load_model(
    name: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    revision: str | None = None,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    progress: bool = False,
    head: str = "auto",
    causal_for: str | None = None,
) -> LoadedModel:
    """Load a model and its tokenizer: a causal or masked language model, a classifier of sequences or of tokens.

    Args:
        name: a folder, a hub name, the path of a ``.gguf`` file, or "demo".
        dtype: "auto" keeps the checkpoint's.
        device: where to put it ("cpu", "cuda:0"), or "auto" to spread it with accelerate.
        revision: branch, tag or commit of a hub repository (a training checkpoint); a folder has none.
        trust_remote_code: run model code from the repository. Off unless asked for.
        head: "causal-lm" (logits [B, T, V] of the next token), "masked-lm" ([B, T, V] of the token itself),
            "sequence-classification" ([B, classes]), "token-classification" ([B, T, classes]), or "auto": the first of
            the config's ``architectures`` decides. A config that names no head is a causal language model's.
        causal_for: who asks, where only a causal language model will do: with "auto" others are refused in its name.

    Raises:
        ModelLoadError: says what was missing: an unknown head (lists the choices), weights of a head that was asked
            for. A model without a tokenizer is no error: ids still work.
    """
    check_head(head)
    if dtype not in DTYPES:
        raise ModelLoadError(f"unknown dtype {dtype!r}. choices: {', '.join(DTYPES)}")
    if name == "demo":
        if head not in ("auto", "causal-lm"):
            raise ModelLoadError(
                f"the demo model is a causal language model, it has no head {head!r}. do: leave it out"
            )
        return _demo(dtype, device, progress)
    where, extra = _locate(name)
    options: dict[str, Any] = {**extra, "trust_remote_code": trust_remote_code}
    if revision is not None:
        if Path(where).is_dir():
            raise ModelLoadError(f"{name} is a folder and has no revisions (revision={revision!r}). do: leave it out")
        options["revision"] = revision
    if causal_for is not None and head == "auto":
        require_causal(name, where, options, causal_for)
        found = "causal-lm"
    else:
        found = find_head(name, where, options)[0] if head == "auto" else head
    checked = found != "causal-lm" or head != "auto"
    model = _load_model(name, where, dtype, device, attn_implementation, options, found, checked=checked)
    tokenizer = _load_tokenizer(name, where, options)
    return LoadedModel(model.eval(), tokenizer, f"{name}", Path(name).stem or name, found)


def look_for_model(name: str, revision: str | None = None, *, trust_remote_code: bool = False) -> None:
    """Read the config of a model that `load_model` takes, and nothing else.

    Raises:
        ModelLoadError: there is no such model, or no such revision.
    """
    if name == "demo":
        return
    from transformers import AutoConfig

    where, extra = _locate(name)
    options: dict[str, Any] = {**extra, "trust_remote_code": trust_remote_code}
    if revision is not None:
        options["revision"] = revision
    try:
        with quiet():
            AutoConfig.from_pretrained(where, **options)
    except Exception as error:
        raise ModelLoadError(f"there is no model {name!r} to be had: {first_line(error)}") from error


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """The tokenizer of a model that `load_model` takes, without the model.

    Raises:
        ModelLoadError: there is none, or it cannot be read.
    """
    if name == "demo":
        return load_demo_model().tokenizer
    where, extra = _locate(name)
    tokenizer = _load_tokenizer(name, where, {**extra, **({"revision": revision} if revision is not None else {})})
    if tokenizer is None:
        raise ModelLoadError(f"{name} has no tokenizer")
    return tokenizer


def _demo(dtype: str, device: str | None, progress: bool) -> LoadedModel:
    import torch

    loaded = load_demo_model(progress=progress)
    if dtype != "auto":
        loaded.model.to(getattr(torch, dtype))
    if device not in (None, "auto"):
        try:
            loaded.model.to(device)
        except Exception as error:
            raise ModelLoadError(f"the model cannot be put on {device!r}: {first_line(error)}") from error
    return loaded


def _locate(name: str) -> tuple[str, dict[str, Any]]:
    path = Path(name).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelLoadError(f"there is no file {path}")
        return str(path.parent), {"gguf_file": path.name}
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.is_dir():
        raise ModelLoadError(f"there is no folder {path}. do: give a folder with config.json, a hub name, or 'demo'")
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelLoadError(f"{path} holds no model (config.json is missing)")
    return (str(path) if path.is_dir() else name), {}


def _load_model(
    name: str,
    where: str,
    dtype: str,
    device: str | None,
    attn: str | None,
    options: dict[str, Any],
    head: str,
    *,
    checked: bool,
) -> Any:
    """``checked``: a head whose weights the checkpoint lacks is refused."""
    import torch
    import transformers

    if attn is not None:
        options = {**options, "attn_implementation": attn}
    if device is not None:
        options = {**options, "device_map": device}
    kind = "auto" if dtype == "auto" else getattr(torch, dtype)
    auto: Any = getattr(transformers, HEADS[head].auto)
    try:
        with quiet():
            model = auto.from_pretrained(where, dtype=kind, output_loading_info=checked, **options)
    except Exception as error:
        raise ModelLoadError(
            f"the model {name!r} could not be loaded as {HEADS[head].words}: {first_line(error)}. "
            f"tried: {HEADS[head].auto}. do: check the name, the network, or give a local folder"
        ) from error
    if checked:
        model, info = model
        _check_complete(name, head, info["missing_keys"])
    keep_unpacked(model)
    return model


def _check_complete(name: str, head: str, missing: Collection[str]) -> None:
    if missing:
        raise ModelLoadError(
            f"{name!r} has no weights for {', '.join(sorted(missing)[:4])}{', …' if len(missing) > 4 else ''}: as "
            f"{HEADS[head].words} it would have random ones. do: another head, one of {', '.join(HEADS)}"
        )


def _load_tokenizer(name: str, where: str, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    files = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if Path(where).is_dir() and "gguf_file" not in options and not any((Path(where) / f).is_file() for f in files):
        return None
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(where, **options)
    except Exception as error:
        raise ModelLoadError(
            f"the tokenizer of {name!r} cannot be read: {first_line(error)}. "
            "do: mend the files, or remove them and work with token ids"
        ) from error
