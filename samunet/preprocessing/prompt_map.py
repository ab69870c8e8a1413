"""Prompts on the network's grid: a map for each class or region, whose voxels tell of clicks and boxes."""

from __future__ import annotations

import math

import numpy as np

from samunet.core.geometry import Triple
from samunet.core.history import SpatialHistory
from samunet.core.labels import Labels
from samunet.core.prompts import BOX, INSIDE, OUTSIDE, CasePrompts


def prompt_map(prompts: CasePrompts, labels: Labels, history: SpatialHistory) -> np.ndarray:
    """Draw a case's prompts; raises ConfigError where a point lies outside the image.

    A click marks one voxel of each slice of the network's grid that lies in the click's slice of the file, a box all
    voxels whose centers lie in it, one at least. What lies in the part that was cropped away moves to the nearest
    voxel.

    Args:
        prompts: of structures that `labels` names.
        history: of the case.

    Returns:
        (R, D, H, W) uint8 of INSIDE, OUTSIDE and BOX, a plane for each of `labels.channels`.
    """
    drawn = np.zeros((len(labels.channels), *history.shape_after_resample), dtype=np.uint8)
    for plane, (name, _) in zip(drawn, labels.channels, strict=True):
        if name not in prompts.structures:
            continue
        given = prompts.structures[name]
        for points, bit in ((given.points, INSIDE), (given.background_points, OUTSIDE)):
            for index in prompts.indices(name, points, history.geometry):
                voxel = _cropped(index, history)
                plane[_voxels(voxel, voxel, history, axes=(0,))] |= bit
        if given.box is not None:
            first, last = (_cropped(index, history) for index in prompts.indices(name, given.box, history.geometry))
            plane[_voxels(first, last, history, axes=(0, 1, 2))] |= BOX
    return drawn


def _cropped(index: Triple, history: SpatialHistory) -> list[float]:
    """Bring an index of the file to the turned and cropped grid."""
    placed = [
        size - 1 - index[axis] if flip else index[axis]
        for axis, size, flip in zip(history.transpose, history.transposed_shape, history.flips, strict=True)
    ]
    moved = [place - start for place, (start, _) in zip(placed, history.crop, strict=True)]
    return [min(max(place, 0.0), size - 1.0) for place, size in zip(moved, history.shape_after_crop, strict=True)]


def _voxels(one: list[float], other: list[float], history: SpatialHistory, axes: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the new voxels between two places: on `axes` all that lie in the old ones, else the one it is in."""
    ranges = []
    for axis, (a, b) in enumerate(zip(one, other, strict=True)):
        before, now = history.shape_after_crop[axis], history.shape_after_resample[axis]
        ratio = now / before
        nearest = min(now - 1, math.floor((a + b + 1) / 2 * ratio))
        start, stop = nearest, nearest + 1
        if axis in axes:
            low, high = math.floor(min(a, b) + 0.5), math.floor(max(a, b) + 0.5) + 1
            # Voxels whose centers lie in [low, high).
            inside = (math.ceil(low * ratio - 0.5), math.ceil(high * ratio - 0.5))
            start, stop = inside if inside[0] < inside[1] else (start, stop)
        ranges.append(slice(start, stop))
    return tuple(ranges)
