"""One color a class, equal in every picture, curve and table; no two alike."""

from __future__ import annotations

import functools

import numpy as np

from samunet.core.labels import Labels

Color = tuple[int, int, int]
"""Red, green, blue from 0 to 255."""
# Okabe and Ito's palette without black, which readers with a color vision deficiency can tell apart, on grey.
FIRST: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
LEVELS = range(0, 256, 17)  # of red, green and blue in further colors
LIGHTNESS, CHROMA = (35.0, 95.0), 30.0  # ours, in CIELAB: neither lost on black or white, nor taken for grey


def label_color(value: int) -> Color:
    """Return the fixed color of a label value >= 1; those of the first `len(palette())` values all differ."""
    if value <= len(FIRST):  # what most datasets need does not wait for the others
        return FIRST[value - 1]
    return palette()[(value - 1) % len(palette())]


def class_colors(labels: Labels) -> dict[str, Color]:
    """Return the color of every foreground class or region by its name, in their order.

    A region has the color of the value that is written for it, so that curves, tables and pictures agree.
    """
    values = labels.regions_order or tuple(values[0] for _, values in labels.foreground)
    spare = iter(range(max(labels.all_values) + 1, max(labels.all_values) + 1 + len(values)))
    distinct = [value if value and value not in values[:i] else next(spare) for i, value in enumerate(values)]
    return {name: label_color(value) for (name, _), value in zip(labels.foreground, distinct, strict=True)}


def spare_color(labels: Labels, index: int) -> Color:
    """Return a color that no class has, for what is not one: methods in a comparison, numbered from 0."""
    return label_color(max(labels.expected_in_files) + len(labels.foreground) + 1 + index)


def as_hex(color: Color) -> str:
    """Return a color as HTML and matplotlib take it, e.g. "#e69f00"."""
    return "#{:02x}{:02x}{:02x}".format(*color)


@functools.cache
def palette() -> tuple[Color, ...]:
    """Return more than a thousand colors; each is the one farthest from all before it in CIELAB."""
    from skimage.color import rgb2lab  # takes a while to load

    grid = np.array(np.meshgrid(LEVELS, LEVELS, LEVELS, indexing="ij")).reshape(3, -1).T
    places = rgb2lab(grid / 255)
    seen = (LIGHTNESS[0] <= places[:, 0]) & (places[:, 0] <= LIGHTNESS[1]) & (np.hypot(*places[:, 1:].T) >= CHROMA)
    grid, places = grid[seen], places[seen]
    first = rgb2lab(np.array(FIRST) / 255)
    distance = np.linalg.norm(places[:, None] - first, axis=2).min(axis=1)
    colors = list(FIRST)
    while len(colors) < len(grid):
        farthest = int(distance.argmax())
        colors.append((int(grid[farthest, 0]), int(grid[farthest, 1]), int(grid[farthest, 2])))
        distance = np.minimum(distance, np.linalg.norm(places - places[farthest], axis=1))
    return tuple(colors)
