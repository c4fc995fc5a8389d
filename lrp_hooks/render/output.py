"""Save heatmaps: the suffix decides the format; a file is complete or not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal, cast

from pydantic import TypeAdapter, ValidationError

from lrp_hooks.errors import LrpError
from lrp_hooks.files import write_atomically
from lrp_hooks.render.colours import palette_by_name
from lrp_hooks.render.heatmap import Heatmap

SUFFIXES = (".html", ".svg", ".png", ".pdf", ".txt", ".json")
FORMAT = "lrp_hooks.heatmap/1"
"""Name and version of the JSON records."""


def save(
    heatmaps: Heatmap | Sequence[Heatmap], path: str | Path, *, title: str = "", palette: str = "red-blue"
) -> Path:
    """Write one or several heatmaps (side by side) to ``path``; the format follows its suffix.

    Raises:
        LrpError: an unknown suffix or palette, or a folder that cannot be written.
    """
    panels = [heatmaps] if isinstance(heatmaps, Heatmap) else list(heatmaps)
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise LrpError(f"{path.name}: unknown format {path.suffix!r}. choices: {', '.join(SUFFIXES)}")
    if not panels:
        raise LrpError("there is no heatmap to save")
    palette_by_name(palette)
    title = title or (panels[0].title if len(panels) == 1 else "")
    write_atomically(path, lambda file: _write(panels, file, suffix, title, palette))
    return path


def load(path: str | Path) -> list[Heatmap]:
    """Heatmaps from a ``.json`` file that `save` wrote.

    Raises:
        LrpError: the file cannot be read or holds something else.
    """
    try:
        records = _adapter().validate_json(Path(path).read_bytes(), strict=True)
    except OSError as error:
        raise LrpError(f"cannot read {path}: {error.strerror}") from error
    except ValidationError as error:
        wrong = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise LrpError(f"{path} holds no heatmaps of {FORMAT}: {where}{': ' if where else ''}{wrong['msg']}") from error
    return [Heatmap(**{f.name: getattr(record, f.name) for f in fields(Heatmap)}) for record in records]


@dataclass(frozen=True, eq=False)
class _Record(Heatmap):
    """A heatmap as it is written, with the name of the format. Nothing in it is taken for what it is not."""

    format: Literal["lrp_hooks.heatmap/1"] = field(kw_only=True)


@cache
def _adapter() -> TypeAdapter[list[_Record]]:
    return TypeAdapter(list[_Record])


def _write(panels: list[Heatmap], file: IO[bytes], suffix: str, title: str, palette: str) -> None:
    if suffix == ".html":
        from lrp_hooks.render.page import page

        file.write(page(panels, title=title or "Relevance of the input tokens", palette=palette).encode())
    elif suffix == ".txt":
        file.write(_plain(panels, palette).encode())
    elif suffix == ".json":
        records = [_record(panel) for panel in panels]
        file.write(json.dumps(records, ensure_ascii=False, indent=1, allow_nan=False).encode(errors="replace"))
    else:
        from lrp_hooks.render.figures import save_figure

        save_figure(
            panels,
            file,
            cast(Literal["svg", "png", "pdf"], suffix[1:]),
            title=title if title != panels[0].title else "",
            palette=palette,
        )


def _plain(panels: list[Heatmap], palette: str) -> str:
    from io import StringIO

    from rich.console import Console

    from lrp_hooks.render.text import print_heatmap

    console = Console(width=100, no_color=True, color_system=None, file=StringIO(), record=True)
    for number, panel in enumerate(panels):
        if number:
            console.print()
        print_heatmap(panel, console, palette=palette)
    return "\n".join(line.rstrip() for line in console.export_text().splitlines()) + "\n"


def _record(panel: Heatmap) -> dict[str, Any]:
    tokens = [{**asdict(token), "display": token.display} for token in panel.tokens]
    return {"format": FORMAT, **{f.name: getattr(panel, f.name) for f in fields(panel)}, "tokens": tokens}
