"""Fonts for static figures: matplotlib's own, and whatever this machine has for the characters that they lack.

A character that no font has is drawn as a box, without warnings.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MONO, SANS = "DejaVu Sans Mono", "DejaVu Sans"
BOX = "□"
_PREFERRED = re.compile(
    r"NotoSansCJK|NotoSansMonoCJK|SourceHanSans|DroidSansFallback|wqy|PingFang|Hiragino|msyh|YuGoth|malgun|simsun|"
    r"NotoSans|NotoEmoji|Symbola|unifont|ArialUnicode|Arial Unicode",
    re.IGNORECASE,
)
_COLOUR_EMOJI = re.compile(r"NotoColorEmoji|Apple Color Emoji|seguiemj|Twemoji|TwitterColorEmoji", re.IGNORECASE)
_BITMAP_SIZES = (109, 160, 128, 96)  # Noto, Apple, Twemoji; a bitmap font has one size only
_MOST_FONTS = 400


@cache
def _files() -> tuple[Path, ...]:
    """Font files of this machine, likely helpers first; matplotlib's own cached list may be older than they are."""
    from matplotlib import font_manager

    found = sorted((Path(name) for name in font_manager.findSystemFonts()), key=lambda path: (path.name, str(path)))
    regular = [path for path in found if not re.search(r"bold|italic|oblique|light|thin|black", path.name, re.I)]
    rank = {path: _PREFERRED.search(path.name) is None for path in regular}
    return tuple(sorted(regular, key=lambda path: rank[path]))


@cache
def _charmap(path: str) -> tuple[str, frozenset[int]]:
    """Family name and characters of a font file; none for one that cannot be drawn from."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return font.family_name, frozenset(font.get_charmap())
    except (OSError, RuntimeError, ValueError):
        return "", frozenset()


@cache
def family(character: str) -> str | None:
    """A family that has the character, registered with matplotlib; None when no font has it."""
    from matplotlib import font_manager

    code = ord(character)
    for name in (MONO, SANS):
        if code in _charmap(font_manager.findfont(name))[1]:
            return name
    for path in _files()[:_MOST_FONTS]:
        if _COLOUR_EMOJI.search(path.name):
            continue
        name, codes = _charmap(str(path))
        if code in codes:
            if name not in font_manager.fontManager.get_font_names():
                font_manager.fontManager.addfont(str(path))
            return name
    return None


def families(text: str, first: str = MONO) -> list[str]:
    """Families to draw the text with, in order."""
    others = dict.fromkeys(name for character in text if not character.isascii() and (name := family(character)))
    return list(dict.fromkeys((first, *others)))


def needs_help(text: str) -> bool:
    """Whether a character comes from a font of this machine and not from matplotlib's own."""
    return not text.isascii() and any(family(c) not in (MONO, SANS, None) for c in text)


def drawable(text: str) -> str:
    """The text with boxes for characters that no font has."""
    return "".join(c if c.isascii() or family(c) else BOX for c in text if c not in "\u200c\u200d\ufe0e\ufe0f")


@cache
def emoji(character: str) -> NDArray[np.uint8] | None:
    """A picture [H, W, 4] of an emoji that only a colour font has; None where there is none."""
    if ord(character) < 0x1F000 and family(character):
        return None
    font = _emoji_font()
    if font is None:
        return None
    import numpy as np
    from PIL import Image, ImageDraw

    left, top, right, bottom = (round(edge) for edge in font.getbbox(character))
    if right <= left or bottom <= top:
        return None
    picture = Image.new("RGBA", (right - left, bottom - top), (255, 255, 255, 0))
    ImageDraw.Draw(picture).text((-left, -top), character, font=font, embedded_color=True)
    pixels: NDArray[np.uint8] = np.asarray(picture, dtype=np.uint8)
    return pixels if len(np.unique(pixels.reshape(-1, 4), axis=0)) > 2 else None  # two colours: its box for "missing"


@cache
def _emoji_font() -> Any:
    from PIL import ImageFont

    for path in _files():
        if _COLOUR_EMOJI.search(path.name):
            for size in _BITMAP_SIZES:
                try:
                    return ImageFont.truetype(str(path), size)
                except (OSError, ValueError):
                    continue
    return None
