"""What preprocessing did to a case's grid, so that export can undo it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from samunet.core.geometry import NO_FLIPS, Flips, Geometry
from samunet.core.ranges import Axis, Count, Spacing, Voxels
from samunet.errors import ConfigError

Box = tuple[tuple[Count, Count], tuple[Count, Count], tuple[Count, Count]]
Axes = tuple[Axis, Axis, Axis]


def check_transpose(transpose: Axes) -> None:
    """Raise ConfigError unless the file's three axes are in it, each once."""
    if sorted(transpose) != [0, 1, 2]:
        raise ConfigError(f"transpose must hold the axes 0, 1 and 2, each once; got {list(transpose)}.")


@dataclass(frozen=True, kw_only=True)
class SpatialHistory:
    """The steps from the file's grid to the network's grid, in order: transpose, crop, resample."""

    geometry: Geometry
    """Grid of the input file."""
    transpose: Axes
    """Array axis of the file that became axis 0, 1, 2."""
    crop: Box
    """Half-open (start, stop) per axis, after the transpose and the flips."""
    shape_after_crop: Voxels
    spacing_after_transpose: Spacing
    """mm, before resampling."""
    shape_after_resample: Voxels
    spacing_after_resample: Spacing
    """mm."""
    flips: Flips = NO_FLIPS
    """Whether each axis runs backward, after the transpose."""

    def __post_init__(self) -> None:
        check_transpose(self.transpose)

    @property
    def transposed_shape(self) -> Voxels:
        """Shape of the whole image after the transpose, before the crop."""
        shape = self.geometry.shape
        return (shape[self.transpose[0]], shape[self.transpose[1]], shape[self.transpose[2]])


def turned(array: np.ndarray, axes: Axes, flips: Flips) -> np.ndarray:
    """Return a view of (..., D, H, W) in which file axis `axes[i]` is axis i, running backward where `flips[i]`."""
    leading = array.ndim - 3
    steps = (slice(None),) * leading + tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    return array.transpose(*range(leading), *(leading + axis for axis in axes))[steps]
