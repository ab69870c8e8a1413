"""What preprocessing did to a case's grid, so that export can undo it."""

from __future__ import annotations

from dataclasses import dataclass

from samunet.core.geometry import Geometry
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
    """Half-open (start, stop) per axis, after the transpose."""
    shape_after_crop: Voxels
    spacing_after_transpose: Spacing
    """mm, before resampling."""
    shape_after_resample: Voxels
    spacing_after_resample: Spacing
    """mm."""

    def __post_init__(self) -> None:
        check_transpose(self.transpose)

    @property
    def transposed_shape(self) -> Voxels:
        """Shape of the whole image after the transpose, before the crop."""
        shape = self.geometry.shape
        return (shape[self.transpose[0]], shape[self.transpose[1]], shape[self.transpose[2]])

    @property
    def transpose_back(self) -> Axes:
        """Permutation that undoes `transpose`."""
        inverse = [self.transpose.index(axis) for axis in range(3)]
        return (inverse[0], inverse[1], inverse[2])
