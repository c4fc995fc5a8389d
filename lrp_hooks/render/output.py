"""Save heatmaps: the suffix decides the format; a file is complete or not there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Literal, cast

from lrp_hooks.errors import LrpError
from lrp_hooks.render.heatmap import Heatmap

SUFFIXES = (".html", ".svg", ".png", ".pdf", ".txt", ".json")


def save(
    heatmaps: Heatmap | Sequence[Heatmap], path: str | Path, *, title: str = "", palette: str = "red-blue"
) -> Path:
    """Write one or several heatmaps (side by side) to ``path``; the format follows its suffix.

    Raises:
        LrpError: an unknown suffix, or a folder that cannot be written.
    """
    panels = [heatmaps] if isinstance(heatmaps, Heatmap) else list(heatmaps)
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise LrpError(f"{path.name}: unknown format {path.suffix!r}. choices: {', '.join(SUFFIXES)}")
    if not panels:
        raise LrpError("there is no heatmap to save")
    write_atomically(path, lambda file: _write(panels, file, path.suffix, title or panels[0].title, palette))
    return path


def write_atomically(path: Path, write: Any) -> None:
    """Call ``write(binary file)`` on a temporary file beside ``path`` and rename it into place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise LrpError(f"cannot write to {path.parent}: {error.strerror}. do: choose another folder") from error
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise LrpError(f"cannot write {path}: {error.strerror}") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write(panels: list[Heatmap], file: IO[bytes], suffix: str, title: str, palette: str) -> None:
    if suffix == ".html":
        from lrp_hooks.render.page import page

        file.write(page(panels, title=title or "Relevance", palette=palette).encode())
    elif suffix == ".txt":
        file.write(_plain(panels, palette).encode())
    elif suffix == ".json":
        file.write(json.dumps([_record(panel) for panel in panels], ensure_ascii=False, indent=1).encode())
    else:
        from lrp_hooks.render.figures import save_figure

        save_figure(panels, file, cast(Literal["svg", "png", "pdf"], suffix[1:]), palette=palette)


def _plain(panels: list[Heatmap], palette: str) -> str:
    from rich.console import Console

    from lrp_hooks.render.text import print_heatmap

    console = Console(width=100, no_color=True, color_system=None, file=open(os.devnull, "w"), record=True)  # noqa: SIM115
    with console.file:
        for panel in panels:
            print_heatmap(panel, console, palette=palette)
        return console.export_text()


def _record(panel: Heatmap) -> dict[str, Any]:
    return {**asdict(panel), "tokens": [{**asdict(token), "display": token.display} for token in panel.tokens]}
