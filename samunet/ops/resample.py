"""Change the number of voxels of images and labels, numerically as nnU-Net does.

Slices much thicker than the pixels are wide are resized in the plane first and then taken from the nearest slice, so
that no structure is invented between slices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from samunet.core.geometry import Shape, Triple, shape3
from samunet.core.values import distinct
from samunet.errors import ShapeError

ANISOTROPY = 3.0  # nnU-Net's threshold of largest over smallest spacing
NEW_AT_A_TIME = (
    64  # new voxels at a time; splines reach about a dozen voxels, so the matrix of a long line is mostly zeros
)
NEGLIGIBLE = 1e-8  # weights; their sum stays below the rounding of float32
VOXELS_AT_A_TIME = 1 << 18  # voxels weighed at a time
TIE = 1e-5  # shares of a voxel that differ by less are equal but for rounding


def target_shape(shape: Shape, spacing: Triple, new_spacing: Triple) -> Shape:
    """Return the number of voxels at another spacing in mm: round(old / new * shape), at least 1 on each axis."""
    depth, height, width = (
        max(1, int(round(old / new * size))) for size, old, new in zip(shape, spacing, new_spacing, strict=True)
    )
    return (depth, height, width)


def thick_axis(spacing: Triple, new_spacing: Triple) -> int | None:
    """Return the axis whose slices are treated apart, or None.

    The present spacing decides when its largest entry is more than three times its smallest, else the new one by the
    same rule. Two axes that share the largest spacing are no slices.
    """
    for candidate in (spacing, new_spacing):
        if max(candidate) / min(candidate) > ANISOTROPY:
            largest = [axis for axis in range(3) if candidate[axis] == max(candidate)]
            return largest[0] if len(largest) == 1 else None
    return None


def resample_image(array: np.ndarray, new_shape: Shape, *, axis: int | None, order: int = 3) -> np.ndarray:
    """Resize an image; raises ShapeError where the array does not have four axes.

    Args:
        array: (C, D, H, W) float32.
        new_shape: (D', H', W').
        axis: axis of thick slices (see `thick_axis`), or None to interpolate in all directions.
        order: spline order.

    Returns:
        (C, D', H', W') float32; the input itself when it has that shape already.
    """
    if array.ndim != 4:
        raise ShapeError(f"An image is (C, D, H, W); got shape {array.shape}.")
    if array.shape[1:] == tuple(new_shape):
        return array
    result = np.empty((len(array), *new_shape), dtype=np.float32)
    if axis is None:
        for source, target in zip(array, result, strict=True):
            target[...] = _spline(source.astype(np.float32, copy=False), new_shape, order, sliced=False)
        return result
    origins = nearest_indices(array.shape[1 + axis], new_shape[axis])
    used, places = np.unique(origins, return_inverse=True)
    plane = tuple(size for other, size in enumerate(new_shape) if other != axis)
    for source, target in zip(array, result, strict=True):
        slices = np.moveaxis(source, axis, 0)[used].astype(np.float32, copy=False)
        np.moveaxis(target, axis, 0)[...] = _spline(slices, shape3((len(used), *plane)), order, sliced=True)[places]
    return result


def resample_label(array: np.ndarray, new_shape: Shape, *, axis: int | None) -> np.ndarray:
    """Resize a label so that no value appears that was not there; raises ShapeError where the array does not have three
    axes.

    Each label's mask is resized linearly and the largest share wins; a tie goes to the nearest voxel's label.

    Args:
        array: (D, H, W) integer.
        new_shape: (D', H', W').
        axis: axis of thick slices (see `thick_axis`), or None to interpolate in all directions.

    Returns:
        (D', H', W'), same dtype; the input itself when it has that shape already.
    """
    if array.ndim != 3:
        raise ShapeError(f"A label is (D, H, W); got shape {array.shape}.")
    if array.shape == tuple(new_shape):
        return array
    if axis is None:
        return _resize_label(array, new_shape)
    origins = nearest_indices(array.shape[axis], new_shape[axis])
    used, places = np.unique(origins, return_inverse=True)
    plane = tuple(size for other, size in enumerate(new_shape) if other != axis)
    resized = _resize_label(np.moveaxis(array, axis, 0)[used], shape3((len(used), *plane)))
    return np.ascontiguousarray(np.moveaxis(resized[places], 0, axis))


def nearest_indices(size: int, new_size: int) -> np.ndarray:
    """Return for each of `new_size` voxels the index of the nearest of `size` voxels on the same line; ties go up."""
    centers = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    return np.clip(np.floor(centers + 0.5).astype(int), 0, size - 1)


def _spline(array: np.ndarray, shape: Shape, order: int, *, sliced: bool) -> np.ndarray:
    """Resize (D, H, W) by spline interpolation, as `skimage.transform.resize` does without anti-aliasing.

    Interpolation is linear in the voxels and separable, so it is a product with one small matrix per axis. Results are
    cut to the range of the input, of each slice where slices are apart.

    Args:
        sliced: D is an axis of slices, which keep their number.
    """
    axes = (1, 2) if sliced else (0, 1, 2)
    lowest, highest = (extreme(array, axis=axes, keepdims=True) for extreme in (np.min, np.max))
    for axis in sorted(axes, key=lambda axis: shape[axis] / array.shape[axis]):  # shrink first
        if array.shape[axis] != shape[axis]:
            array = _along(_spline_blocks(array.shape[axis], shape[axis], order), array, axis, shape[axis])
    return np.clip(array, lowest, highest)


class _Block(NamedTuple):
    """Some new voxels of a line, and the old ones they are made of."""

    new: slice
    old: slice
    weights: np.ndarray
    """(new, old) float32."""


def _along(blocks: Sequence[_Block], array: np.ndarray, axis: int, new_size: int) -> np.ndarray:
    """Resize one axis of (D, H, W)."""
    shape = list(array.shape)
    shape[axis] = new_size
    result = np.empty(shape, dtype=np.float32)
    for block in blocks:
        part = array[(slice(None),) * axis + (block.old,)]
        target = result[(slice(None),) * axis + (block.new,)]
        if axis == 2:
            np.matmul(part, block.weights.T, out=target)
        elif axis == 1:
            np.matmul(block.weights, part, out=target)
        else:
            np.matmul(block.weights, part.reshape(len(part), -1), out=target.reshape(len(target), -1))
    return result


@lru_cache(maxsize=64)
def _spline_blocks(size: int, new_size: int, order: int) -> tuple[_Block, ...]:
    """Return the matrix that resizes a line of voxels, in blocks without the columns that are zero but for rounding."""
    matrix = spline_matrix(size, new_size, order)
    blocks = []
    for first in range(0, new_size, NEW_AT_A_TIME):
        rows = matrix[first : first + NEW_AT_A_TIME]
        used = np.flatnonzero(np.abs(rows).max(axis=0) > NEGLIGIBLE)
        old = slice(int(used[0]), int(used[-1]) + 1)
        blocks.append(
            _Block(slice(first, first + len(rows)), old, np.ascontiguousarray(rows[:, old], dtype=np.float32))
        )
    return tuple(blocks)


def spline_matrix(size: int, new_size: int, order: int) -> np.ndarray:
    """Return the (new_size, size) matrix that resizes a line of voxels: scipy's own answer to each unit vector."""
    units = np.eye(size)
    return np.stack(
        [ndimage.zoom(unit, new_size / size, order=order, mode="nearest", grid_mode=True) for unit in units], axis=1
    )


class Line(NamedTuple):
    """Linear interpolation along one axis: value = (1 - weight) * first + weight * second."""

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray

    @classmethod
    def between(cls, size: int, new_size: int) -> Line:
        if size == new_size:
            return cls(np.arange(size), np.arange(size), np.zeros(size, np.float32))
        centers = np.clip((np.arange(new_size) + 0.5) * (size / new_size) - 0.5, 0, size - 1)
        first = np.minimum(centers.astype(int), max(size - 2, 0))
        return cls(first, np.minimum(first + 1, size - 1), (centers - first).astype(np.float32))

    @property
    def moves(self) -> bool:
        return bool(self.weight.any())

    def extreme(self, array: np.ndarray, axis: int, of: np.ufunc) -> np.ndarray:
        """Return the smaller or larger (np.minimum, np.maximum) of the two old voxels on both sides of each new one."""
        near = array.take(self.first, axis)
        return of(near, array.take(self.second, axis), out=near) if self.moves else near


def _resize_label(array: np.ndarray, shape: Shape) -> np.ndarray:
    """Resize (D, H, W) labels; only where old voxels of several labels meet is anything to be weighed."""
    values = distinct(array)
    if len(values) == 1 or array.shape == shape:
        return np.full(shape, values[0], dtype=array.dtype) if len(values) == 1 else array
    lines = [Line.between(old, new) for old, new in zip(array.shape, shape, strict=True)]
    small = array.astype(np.uint8) if values[0] >= 0 and values[-1] <= 255 else array
    lowest = highest = small
    for axis in sorted(range(3), key=lambda axis: shape[axis] / array.shape[axis]):  # shrink first
        lowest = lines[axis].extreme(lowest, axis, np.minimum)
        highest = lines[axis].extreme(highest, axis, np.maximum)
    result = lowest.astype(array.dtype)
    mixed = np.flatnonzero(lowest != highest)
    for first in range(0, len(mixed), VOXELS_AT_A_TIME):
        part = mixed[first : first + VOXELS_AT_A_TIME]
        result.ravel()[part] = _elect(small, lines, np.unravel_index(part, shape))
    return result


def _elect(array: np.ndarray, lines: Sequence[Line], place: Sequence[np.ndarray]) -> np.ndarray:
    """Return the label with the largest share of the old voxels around each of n new ones, on a tie the nearest's.

    Args:
        place: indices of the new voxels, (n,) an axis.
    """
    weights = [line.weight[at] for line, at in zip(lines, place, strict=True)]
    sides = [
        (line.first[at], line.second[at]) if line.moves else (line.first[at],)
        for line, at in zip(lines, place, strict=True)
    ]
    labels, shares = [], []
    for corner in itertools.product(*(range(len(side)) for side in sides)):
        labels.append(array[tuple(side[which] for side, which in zip(sides, corner, strict=True))])
        shares.append(
            math.prod(
                (weight if which else 1 - weight for weight, which in zip(weights, corner, strict=True)),
                start=np.float32(1),
            )
        )

    def share_of(label: np.ndarray) -> np.ndarray:
        total = np.zeros(len(label), np.float32)
        for other, share in zip(labels, shares, strict=True):
            total += share * (other == label)
        return total

    totals = [share_of(label) for label in labels]
    enough = np.max(totals, axis=0) - TIE  # the order of a sum decides nothing
    beyond = np.iinfo(array.dtype).max
    winner = np.min(
        [np.where(total >= enough, label, beyond) for total, label in zip(totals, labels, strict=True)], axis=0
    )
    nearest = array[
        tuple(
            np.where(line.weight[at] < 0.5, line.first[at], line.second[at])
            for line, at in zip(lines, place, strict=True)
        )
    ]
    return np.where(share_of(nearest) >= enough, nearest, winner)
