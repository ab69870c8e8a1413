"""Where voxels lie in the world.

Axes are (D, H, W) everywhere: for NIfTI and DICOM files these are (z, y, x) of the stored array.
World coordinates are LPS millimetres, as ITK and DICOM use.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from samunet.errors import ShapeError

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
Vector3 = tuple[float, float, float]
GRID_TOLERANCE_MM = 1e-2  # ours: a NIfTI header keeps single precision, so equal grids differ by about 1e-4 mm
MM3_A_ML = 1000.0
SIDES = (("R", "L"), ("A", "P"), ("I", "S"))  # where the world axes x, y, z come from, and where they grow to
IDENTITY_DIRECTION: tuple[Vector3, Vector3, Vector3] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The grid of a volume.

    World position of index (d, h, w) = origin + d*spacing[0]*direction[0] + h*spacing[1]*direction[1] + w*spacing[2]*direction[2].
    """

    shape: Shape
    """(D, H, W) in voxels."""
    spacing: Triple
    """(D, H, W) in mm."""
    origin: Vector3 = (0.0, 0.0, 0.0)
    """LPS position of voxel (0, 0, 0) in mm."""
    direction: tuple[Vector3, Vector3, Vector3] = IDENTITY_DIRECTION
    """Unit LPS vector of each array axis, in the order D, H, W."""
    planar: bool = False
    """True for a 2D image, whose only D index has no thickness; spacing[0] is then 1 and means nothing."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or len(self.spacing) != 3:
            raise ShapeError(f"A geometry has three axes (D, H, W); got shape {self.shape} and spacing {self.spacing}.")
        if not min(self.spacing) > 0:
            raise ShapeError(f"Spacing must be positive on every axis; got {self.spacing} mm.")

    def same_grid(self, other: Geometry, tolerance_mm: float = GRID_TOLERANCE_MM) -> bool:
        """Tell whether two grids put every voxel at the same place, to `tolerance_mm` at the far corner."""
        if self.shape != other.shape or self.planar != other.planar:
            return False
        return self.corner_distance_mm(other) <= tolerance_mm

    def corner_distance_mm(self, other: Geometry) -> float:
        """Return the largest distance in mm between equal corners of two grids of one shape."""
        return float(max(np.linalg.norm(a - b) for a, b in zip(self._corners(), other._corners(), strict=True)))

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel in ml; None for a 2D image, whose pixels have no thickness."""
        return None if self.planar else math.prod(self.spacing) / MM3_A_ML

    @property
    def orientation(self) -> str:
        """Letter of the side of the patient toward which each array axis (D, H, W) grows, e.g. "SPL"; of the nearest side where oblique."""
        cosines = np.array(self.direction)
        nearest = max(permutations(range(3)), key=lambda order: sum(abs(cosines[axis, world]) for axis, world in enumerate(order)))
        return "".join(SIDES[world][int(cosines[axis, world] > 0)] for axis, world in enumerate(nearest))

    def _corners(self) -> list[np.ndarray]:
        steps = np.array(self.direction) * np.array(self.spacing)[:, None]
        ends = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(self.shape) - 1)
        return [np.array(self.origin) + end @ steps for end in ends]


def triple(values: Sequence[float]) -> Triple:
    """Return three floats as a tuple; raises ShapeError for another number of values."""
    if len(values) != 3:
        raise ShapeError(f"Expected three values (D, H, W); got {list(values)}.")
    return (float(values[0]), float(values[1]), float(values[2]))


def shape3(values: Sequence[int]) -> Shape:
    """Return three integers as a tuple; raises ShapeError for another number of values."""
    if len(values) != 3:
        raise ShapeError(f"Expected three values (D, H, W); got {list(values)}.")
    return (int(values[0]), int(values[1]), int(values[2]))
