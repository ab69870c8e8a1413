"""One color per label value, equal in every picture and table."""

from __future__ import annotations

import colorsys
import math

# Okabe and Ito's palette without black, which readers with a color vision deficiency can tell apart, on grey.
PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167), (213, 94, 0), (0, 114, 178))
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2  # steps of this size along the hue circle give further colors that stay apart


def label_color(value: int) -> tuple[int, int, int]:
    """Return the fixed color of a label value >= 1: red, green, blue from 0 to 255."""
    if value <= len(PALETTE):
        return PALETTE[value - 1]
    red, green, blue = (
        round(255 * part) for part in colorsys.hsv_to_rgb((value * GOLDEN_RATIO) % 1.0, 0.55 + 0.3 * (value % 2), 0.95)
    )
    return red, green, blue
