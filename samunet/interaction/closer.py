"""Ask a model about a plane, and let it look closer where what prompts show is small in it.

A model that sees a plane at few pixels sees little of a small object. What a box and an earlier mask show of its size,
or else the model's answer to the whole plane, is shown to it with its surroundings alone, at as many pixels. Axes: H W
pixels of a plane of the file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from samunet.core.prompts import BOX, INSIDE, MASK, OUTSIDE, SHOWS
from samunet.interaction.embeddings import Embeddings, Window, plane_spacing
from samunet.interaction.slices import Answer
from samunet.pipeline.simulated_prompts import middle_of

AROUND = 2.5  # lengths of the object that a closer look shows; on real slices 1.8 to 3 differ little
FEWEST = 24  # pixels of the file along the finer of its sides, at least
LEVELS_A_HALF, SHIFTS = 2, 8  # sizes per halving of the plane, and places per size: like looks are the same one


def ask_plane(looks: Embeddings, axis: int, index: int, drawn: np.ndarray) -> Answer:
    """Segment what a (H, W) uint8 map of prompts shows in a plane (see `samunet.core.prompts`)."""
    spacing, closer = plane_spacing(looks.volume, axis), looks.model.looks_closer
    shown, window = drawn, None
    if closer and (drawn & (BOX | MASK)).any():
        window = window_about(drawn & SHOWS > 0, spacing)
    if window is None:
        whole = ask_whole_plane(looks, axis, index, drawn)
        shown = np.where(whole.mask, drawn | MASK, drawn & (INSIDE | OUTSIDE | BOX)).astype(np.uint8)
        window = window_about(shown & SHOWS > 0, spacing) if closer else None
        if window is None:
            return whole
    part = tuple(slice(*side) for side in window)
    near = looks.model.answer(looks.of(axis, index, window), shown[part], spacing)
    mask = np.zeros(drawn.shape, bool)
    mask[part] = near.mask
    return near._replace(mask=mask)


def ask_whole_plane(looks: Embeddings, axis: int, index: int, drawn: np.ndarray) -> Answer:
    """Do the same without a closer look; from plane to plane that carries objects on better."""
    return looks.model.answer(looks.of(axis, index), drawn, plane_spacing(looks.volume, axis))


def clicked(looks: Embeddings, axis: int, index: int, target: np.ndarray, clicks: int) -> list[np.ndarray]:
    """Return what a model makes of each click of somebody who knows a plane's (H, W) bool target: the first in its
    middle, each further one in the middle of the largest error. It ends where there is none.
    """
    drawn, masks = np.zeros(target.shape, np.uint8), [np.zeros(target.shape, bool)]
    while len(masks) <= clicks and (wrong := masks[-1] != target).any():
        _, row, column = middle_of(wrong[None])
        drawn[row, column] |= INSIDE if target[row, column] else OUTSIDE
        masks.append(ask_plane(looks, axis, index, drawn | masks[-1] * np.uint8(MASK)).mask)
    return masks[1:]


def window_about(shown: np.ndarray, spacing: Sequence[float]) -> Window | None:
    """Return the square, in mm, about what is True in a (H, W) plane; None where the whole plane shows it as well."""
    places = [np.flatnonzero(shown.any(1 - side)) for side in (0, 1)]
    if not len(places[0]):
        return None
    first, last = (np.array([place[end] for place in places]) for end in (0, -1))
    step, shape = np.array(spacing, float), np.array(shown.shape)
    longest = float((shape * step).max())
    least = max(AROUND * float(((last + 1 - first) * step).max()), FEWEST * float(step.min()))
    level = math.floor(LEVELS_A_HALF * math.log2(longest / least))
    if level < 1:
        return None
    side = longest / 2 ** (level / LEVELS_A_HALF)
    middle = np.round((first + last + 1) / 2 * step / side * SHIFTS) * side / SHIFTS
    length = np.minimum(np.ceil(side / step), shape)
    start = np.clip(np.round(middle / step - length / 2), 0, shape - length).astype(int)
    stop = start + length.astype(int)
    return (int(start[0]), int(stop[0])), (int(start[1]), int(stop[1]))
