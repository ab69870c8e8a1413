"""Cut an image down to the region that is not zero."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_fill_holes

from samunet.core.history import Box
from samunet.errors import ShapeError


def nonzero_mask(array: np.ndarray) -> np.ndarray:
    """Mark the voxels where any channel is not zero, with enclosed holes filled.

    Holes are filled in 3D, as nnU-Net does; a single slice is open on both sides, so its holes stay.

    Args:
        array: (C, D, H, W).

    Returns:
        (D, H, W) bool.
    """
    mask = array[0] != 0
    for channel in array[1:]:
        mask |= channel != 0
    if len(mask) == 1 or mask.all():  # nothing to fill, and filling is slow
        return mask
    return binary_fill_holes(mask)


def bounding_box(mask: np.ndarray) -> Box:
    """Return the smallest box that holds all True voxels of (D, H, W); the whole grid when there is none."""
    starts_and_stops = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        present = np.flatnonzero(mask.any(axis=others))
        starts_and_stops.append((int(present[0]), int(present[-1]) + 1) if len(present) else (0, mask.shape[axis]))
    depth, height, width = starts_and_stops
    return (depth, height, width)


def crop(array: np.ndarray, box: Box) -> np.ndarray:
    """Return a view of (..., D, H, W) inside a box; raises ShapeError where the box is empty or reaches outside the
    array.
    """
    _check_box(box, array.shape[-3:])
    depth, height, width = (slice(start, stop) for start, stop in box)
    return array[..., depth, height, width]


def _check_box(box: Box, shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or not all(0 <= start < stop <= size for (start, stop), size in zip(box, shape, strict=True)):
        raise ShapeError(
            f"Box {box} must lie inside a grid of three axes and hold at least one voxel; the grid is {tuple(shape)}."
        )
