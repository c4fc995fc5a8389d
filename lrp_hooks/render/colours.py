"""Diverging palettes: what supports the target, what supports the contrast, white for neither."""

from __future__ import annotations

from dataclasses import dataclass

from lrp_hooks.errors import LrpError

Rgb = tuple[int, int, int]
GRAY: Rgb = (224, 224, 224)
"""Special tokens, which lie outside the scale."""


@dataclass(frozen=True)
class Palette:
    """End colours for +1 and -1 and their names for the legend. ColorBrewer's RdBu and PuOr are colour-blind safe."""

    name: str
    positive: Rgb
    negative: Rgb
    positive_name: str
    negative_name: str

    def colour(self, share: float) -> Rgb:
        """Colour of a normalized score in [-1, 1]; beyond, the end colour."""
        end = self.positive if share >= 0 else self.negative
        weight = min(abs(share), 1.0) ** 0.8  # lifts weak scores a little; order is kept
        red, green, blue = (round(255 + (e - 255) * weight) for e in end)
        return red, green, blue


PALETTES = {
    p.name: p
    for p in (
        Palette("red-blue", (178, 24, 43), (33, 102, 172), "red", "blue"),
        Palette("orange-purple", (200, 95, 5), (84, 39, 136), "orange", "purple"),
    )
}


def palette_by_name(name: str) -> Palette:
    if name not in PALETTES:
        raise LrpError(f"unknown palette {name!r}. choices: {', '.join(PALETTES)}")
    return PALETTES[name]


def text_colour(background: Rgb) -> Rgb:
    """Black or white, whichever reads better (WCAG relative luminance)."""
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in background]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def css(colour: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
