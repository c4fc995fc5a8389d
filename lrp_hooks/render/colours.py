"""Diverging palettes: what supports the target, what supports the contrast, the ground's own colour for neither."""

from __future__ import annotations

from dataclasses import dataclass

from lrp_hooks.errors import LrpError

Rgb = tuple[int, int, int]
GRAY: Rgb = (224, 224, 224)
"""Special tokens, which lie outside the scale."""
GROUNDS: dict[str, Rgb] = {"light": (255, 255, 255), "dark": (29, 31, 38), "unknown": (148, 148, 148)}
"""Colour of a score of 0. A terminal's ground is often unknown: mid gray to vivid reads on light and on dark."""
GRAY_ON_DARK: Rgb = (70, 73, 84)
GAMMA = 0.8
"""Exponent of a score's weight: lifts weak scores a little; order is kept."""


@dataclass(frozen=True)
class Palette:
    """End colours for +1 and -1, their names for the legend, and brighter ends for dark grounds.

    ColorBrewer's RdBu and PuOr are colour-blind safe.
    """

    name: str
    positive: Rgb
    negative: Rgb
    positive_name: str
    negative_name: str
    positive_on_dark: Rgb
    negative_on_dark: Rgb

    def end(self, share: float, ground: str = "light") -> Rgb:
        """The end colour on the side of ``share``."""
        if ground == "light":
            return self.positive if share >= 0 else self.negative
        return self.positive_on_dark if share >= 0 else self.negative_on_dark

    def colour(self, share: float, ground: str = "light") -> Rgb:
        """Colour of a normalized score in [-1, 1]: from the ground's neutral colour to the end colour."""
        weight = min(abs(share), 1.0) ** GAMMA
        pairs = zip(GROUNDS[ground], self.end(share, ground), strict=True)
        red, green, blue = (round(n + (e - n) * weight) for n, e in pairs)
        return red, green, blue


PALETTES = {
    p.name: p
    for p in (
        Palette("red-blue", (178, 24, 43), (33, 102, 172), "red", "blue", (240, 82, 82), (72, 146, 232)),
        Palette("orange-purple", (200, 95, 5), (84, 39, 136), "orange", "purple", (240, 146, 44), (160, 124, 236)),
    )
}


def palette_by_name(name: str) -> Palette:
    """A palette.

    Raises:
        LrpError: for an unknown name; lists the choices.
    """
    if name not in PALETTES:
        raise LrpError(f"unknown palette {name!r}. choices: {', '.join(PALETTES)}")
    return PALETTES[name]


def text_colour(background: Rgb) -> Rgb:
    """Black or white, whichever reads better (WCAG relative luminance): at least 4.5 to 1 on any background."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def css(colour: Rgb) -> str:
    """``#rrggbb``."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
