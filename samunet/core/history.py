"""What preprocessing did to a case's grid, so that export can undo it."""

from __future__ import annotations

from dataclasses import dataclass

from samunet.core.geometry import Geometry, Shape, Triple

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
Axes = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class SpatialHistory:
    """The steps from the file's grid to the network's grid, in order: transpose, crop, resample."""

    geometry: Geometry
    """Grid of the input file."""
    transpose: Axes
    """Array axis of the file that became axis 0, 1, 2."""
    crop: Box
    """Half-open (start, stop) per axis, after the transpose."""
    shape_after_crop: Shape
    spacing_after_transpose: Triple
    """mm, before resampling."""
    shape_after_resample: Shape
    spacing_after_resample: Triple
    """mm."""

    @property
    def transposed_shape(self) -> Shape:
        """Shape of the whole image after the transpose, before the crop."""
        shape = self.geometry.shape
        return (shape[self.transpose[0]], shape[self.transpose[1]], shape[self.transpose[2]])

    @property
    def transpose_back(self) -> Axes:
        """Permutation that undoes `transpose`."""
        inverse = [self.transpose.index(axis) for axis in range(3)]
        return (inverse[0], inverse[1], inverse[2])
