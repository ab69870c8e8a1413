"""Change the number of voxels of images and labels, numerically as nnU-Net does.

Slices much thicker than the pixels are wide are resized in the plane first and then taken from the nearest slice, so that no
structure is invented between slices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from skimage.transform import resize

from samunet.core.geometry import Shape, Triple
from samunet.errors import ShapeError

ANISOTROPY = 3.0  # nnU-Net's threshold of largest over smallest spacing


def target_shape(shape: Shape, spacing: Triple, new_spacing: Triple) -> Shape:
    """Return the number of voxels at another spacing in mm: round(old / new * shape), at least 1 on each axis."""
    depth, height, width = (max(1, int(round(old / new * size))) for size, old, new in zip(shape, spacing, new_spacing, strict=True))
    return (depth, height, width)


def thick_axis(spacing: Triple, new_spacing: Triple) -> int | None:
    """Return the axis whose slices are treated apart, or None.

    The present spacing decides when its largest entry is more than three times its smallest, else the new one by the same
    rule. Two axes that share the largest spacing are no slices.
    """
    for candidate in (spacing, new_spacing):
        if max(candidate) / min(candidate) > ANISOTROPY:
            largest = [axis for axis in range(3) if candidate[axis] == max(candidate)]
            return largest[0] if len(largest) == 1 else None
    return None


def resample_image(array: np.ndarray, new_shape: Shape, *, axis: int | None, order: int = 3) -> np.ndarray:
    """Resize an image.

    Args:
        array: (C, D, H, W) float32.
        new_shape: (D', H', W').
        axis: axis of thick slices (see `thick_axis`), or None to interpolate in all directions.
        order: spline order.

    Returns:
        (C, D', H', W') float32; the input itself when it has that shape already.

    Raises:
        ShapeError: the array does not have four axes.
    """
    if array.ndim != 4:
        raise ShapeError(f"An image is (C, D, H, W); got shape {array.shape}.")
    if array.shape[1:] == tuple(new_shape):
        return array
    result = np.empty((len(array), *new_shape), dtype=np.float32)
    for source, target in zip(array, result, strict=True):
        _resample(source, target, axis, lambda part, shape: _resize(part.astype(np.float32, copy=False), shape, order))
    return result


def resample_label(array: np.ndarray, new_shape: Shape, *, axis: int | None) -> np.ndarray:
    """Resize a label so that no value appears that was not there.

    Each label's mask is resized linearly and the largest share wins; a tie goes to the nearest voxel's label.

    Args:
        array: (D, H, W) integer.
        new_shape: (D', H', W').
        axis: axis of thick slices (see `thick_axis`), or None to interpolate in all directions.

    Returns:
        (D', H', W'), same dtype; the input itself when it has that shape already.

    Raises:
        ShapeError: the array does not have three axes.
    """
    if array.ndim != 3:
        raise ShapeError(f"A label is (D, H, W); got shape {array.shape}.")
    if array.shape == tuple(new_shape):
        return array
    result = np.empty(new_shape, dtype=array.dtype)
    _resample(array, result, axis, _resize_label)
    return result


def nearest_indices(size: int, new_size: int) -> np.ndarray:
    """Return for each of `new_size` voxels the index of the nearest of `size` voxels on the same line; ties go up."""
    centers = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    return np.clip(np.floor(centers + 0.5).astype(int), 0, size - 1)


def _resample(source: np.ndarray, target: np.ndarray, axis: int | None, resized: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]) -> None:
    """Fill `target` (D', H', W') from `source` (D, H, W), slice by slice when there is a thick axis."""
    if axis is None:
        target[...] = resized(source, target.shape)
        return
    source, target = np.moveaxis(source, axis, 0), np.moveaxis(target, axis, 0)
    origins = nearest_indices(len(source), len(target))
    for index in np.unique(origins):
        target[origins == index] = resized(source[index], target.shape[1:])


def _resize(array: np.ndarray, shape: tuple[int, ...], order: int) -> np.ndarray:
    if array.shape == shape:
        return array
    return resize(array, shape, order, mode="edge", anti_aliasing=False)


def _resize_label(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    values = np.unique(array)
    if len(values) == 1 or array.shape == shape:
        return np.full(shape, values[0], dtype=array.dtype) if len(values) == 1 else array
    nearest = array[np.ix_(*(nearest_indices(old, new) for old, new in zip(array.shape, shape, strict=True)))]
    winner = np.full(shape, values[0], dtype=array.dtype)
    best = np.zeros(shape)
    nearest_leads = np.zeros(shape, dtype=bool)  # the nearest voxel's label has the largest share so far
    for value in values:
        share = _resize((array == value).astype(np.float64), shape, order=1)
        here = nearest == value
        wins = share > best
        nearest_leads = np.where(wins, here, nearest_leads | (here & (share == best) & (share > 0)))
        winner[wins] = value
        np.maximum(best, share, out=best)
    winner[nearest_leads] = nearest[nearest_leads]
    return winner
