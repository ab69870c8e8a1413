"""Cut an image down to the region that is not zero, and put results back."""

from __future__ import annotations

from types import EllipsisType

import numpy as np
from scipy.ndimage import binary_fill_holes

from samunet.core.geometry import Shape
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
    """Return a view of (..., D, H, W) inside a box.

    Raises:
        ShapeError: the box is empty or reaches outside the array.
    """
    _check_box(box, array.shape[-3:])
    return array[_slices(box)]


def uncrop(array: np.ndarray, box: Box, shape: Shape, fill: float = 0) -> np.ndarray:
    """Put a cropped array back into a grid; the inverse of `crop`.

    Args:
        array: (..., D', H', W') of the box's size.
        box: where the array lies.
        shape: (D, H, W) of the grid.
        fill: value outside the box.

    Returns:
        (..., D, H, W), same dtype.

    Raises:
        ShapeError: the box reaches outside the grid, or the array does not have its size.
    """
    _check_box(box, shape)
    if array.shape[-3:] != tuple(stop - start for start, stop in box):
        raise ShapeError(f"An array of shape {array.shape} does not fill the box {box}; give the array that was cropped to it.")
    result = np.full((*array.shape[:-3], *shape), fill, dtype=array.dtype)
    result[_slices(box)] = array
    return result


def _slices(box: Box) -> tuple[EllipsisType | slice, ...]:
    return (..., *(slice(start, stop) for start, stop in box))


def _check_box(box: Box, shape: tuple[int, ...]) -> None:
    if len(shape) != 3 or not all(0 <= start < stop <= size for (start, stop), size in zip(box, shape, strict=True)):
        raise ShapeError(f"Box {box} must lie inside a grid of three axes and hold at least one voxel; the grid is {tuple(shape)}.")
