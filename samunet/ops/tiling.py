"""Cover a volume with overlapping tiles and weigh them (nnU-Net's rules)."""

from __future__ import annotations

import itertools
import math

import numpy as np
from scipy.ndimage import gaussian_filter1d

from samunet.core.geometry import Shape, Triple
from samunet.errors import ShapeError


def tile_starts(size: int, tile: int, step: float) -> tuple[int, ...]:
    """Return where tiles start along one axis: evenly spread, first at 0, last at the end, none twice; raises
    ShapeError where the tile is longer than the axis, or the step is outside (0, 1].

    Size 110, tile 64, step 0.5 gives 0, 23, 46.

    Args:
        size: length of the axis in voxels.
        tile: length of a tile in voxels.
        step: largest distance of neighboring tiles as a share of the tile, in (0, 1].
    """
    if not 0 < tile <= size:
        raise ShapeError(f"A tile of {tile} voxels does not fit an axis of {size}; pad the volume to the tile first.")
    if not 0 < step <= 1:
        raise ShapeError(f"The tile step must be above 0 and at most 1, a share of the tile; got {step}.")
    count = math.ceil((size - tile) / (tile * step)) + 1
    if count == 1:
        return (0,)
    distance = (size - tile) / (count - 1)
    # Each once, also where the step is below one voxel.
    return tuple(dict.fromkeys(round(distance * i) for i in range(count)))


def tile_origins(shape: Shape, tile: Shape, steps: Triple) -> tuple[Shape, ...]:
    """Return every tile's first voxel (d, h, w), W fastest; `steps` are shares of the tile; raises as `tile_starts`."""
    starts = [tile_starts(size, length, step) for size, length, step in zip(shape, tile, steps, strict=True)]
    return tuple((d, h, w) for d, h, w in itertools.product(*starts))


def gaussian_importance(tile: Shape, sigma_scale: float = 1 / 8) -> np.ndarray:
    """Return the weight of each voxel of a tile: a Gaussian around its center, 1 at most and nowhere 0.

    Args:
        tile: (D, H, W).
        sigma_scale: standard deviation as a share of the tile's length on each axis.

    Returns:
        (D, H, W) float32.
    """
    depth, height, width = (_gaussian_line(length, sigma_scale) for length in tile)
    weights = depth[:, None, None] * height[:, None] * width
    importance = (weights / weights.max()).astype(np.float32)
    importance[importance == 0] = importance[importance > 0].min()
    return importance


def _gaussian_line(length: int, sigma_scale: float) -> np.ndarray:
    impulse = np.zeros(length)
    impulse[length // 2] = 1
    return gaussian_filter1d(impulse, length * sigma_scale, mode="constant")
