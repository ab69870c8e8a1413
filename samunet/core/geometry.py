"""Grids: the place of voxels in the world.

Axes are (D, H, W) everywhere: for NIfTI and DICOM files these are (z, y, x) of the stored array.
World coordinates are LPS millimetres, as ITK and DICOM use.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Annotated

import numpy as np

from samunet.core.ranges import Form
from samunet.errors import ShapeError

Triple = tuple[float, float, float]
Shape = tuple[int, int, int]
Vector3 = tuple[float, float, float]
# Ours: how far equal corners of two grids may lie apart; headers hold rounded numbers.
WARN_VOXELS, REFUSE_VOXELS = (0.05, 0.5)
HEADER = Form("([A-Za-z0-9+/]{464}|[A-Za-z0-9+/]{720})", "a NIfTI header of 348 or 540 bytes in Base64")
MM3_A_ML = 1000.0
Flips = tuple[bool, bool, bool]
NO_FLIPS: Flips = (False, False, False)
PATIENT_SIDES = (("R", "L"), ("A", "P"), ("I", "S"))  # where the world axes x, y, z come from, and where they grow to
IDENTITY_DIRECTION: tuple[Vector3, Vector3, Vector3] = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """The grid of a volume.

    World position of index (d, h, w) = origin + d*spacing[0]*direction[0] + h*spacing[1]*direction[1] +
    w*spacing[2]*direction[2].
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
    directed: bool = field(default=True, compare=False)
    """False where the source tells no direction (arrays, pictures, TIFF stacks); `direction` is then the identity."""
    measured: bool = field(default=True, compare=False)
    """False where the source tells no size of voxels (pictures, most TIFFs); `spacing` is then 1 and counts voxels."""
    nifti_header: Annotated[str, HEADER] | None = field(default=None, compare=False, repr=False)
    """Base64 of the NIfTI header that the grid is from, kept by files on this grid; None for other sources."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or len(self.spacing) != 3:
            raise ShapeError(f"A geometry has three axes (D, H, W); got shape {self.shape} and spacing {self.spacing}.")
        if not min(self.spacing) > 0:
            raise ShapeError(f"Spacing must be positive on every axis; got {self.spacing} mm.")

    def corner_distance_mm(self, other: Geometry) -> float:
        """Return the largest distance in mm between equal corners of two grids of one shape."""
        return float(max(np.linalg.norm(a - b) for a, b in zip(self._corners(), other._corners(), strict=True)))

    def voxels_apart(self, other: Geometry) -> float:
        """Return `corner_distance_mm` as a share of both grids' smallest spacing, see WARN_VOXELS and REFUSE_VOXELS.

        A grid whose voxels have no known size lies where the other does.
        """
        if not (self.measured and other.measured):
            return 0.0
        finest = min(min(grid.spacing[1:] if grid.planar else grid.spacing) for grid in (self, other))
        return self.corner_distance_mm(other) / finest

    def apart(self, other: Geometry) -> str:
        """Say how far two grids of one shape lie apart, e.g. "0.035 mm (0.06 voxels)"."""
        return f"{self.corner_distance_mm(other):.3g} mm ({self.voxels_apart(other):.2g} voxels)"

    @property
    def unit(self) -> str:
        """What the numbers of `spacing` count: mm, or where there is no size, pixels or voxels."""
        return unit_of(self.measured, self.planar)

    @property
    def voxel_ml(self) -> float | None:
        """Volume of a voxel in ml; None where it is not known, and for a 2D image, whose pixels have no thickness."""
        return None if self.planar or not self.measured else math.prod(self.spacing) / MM3_A_ML

    @property
    def orientation(self) -> str:
        """Letters of the patient's sides toward which axes (D, H, W) grow, the nearest where oblique, e.g. "SPL"."""
        return _letters(self.direction)

    def turned(self, axes: tuple[int, int, int], flips: Flips) -> Geometry:
        """Return the grid of an array of this grid whose axis `axes[i]` became axis i, running backward where
        `flips[i]`.
        """
        ends = [(self.shape[axis] - 1) * flip for axis, flip in zip(axes, flips, strict=True)]
        along = [np.array(self.direction[axis]) for axis in axes]
        spacing = triple([self.spacing[axis] for axis in axes])
        origin = np.array(self.origin) + sum(n * step * way for n, step, way in zip(ends, spacing, along, strict=True))
        signed = [triple((-way if flip else way).tolist()) for way, flip in zip(along, flips, strict=True)]
        return replace(
            self,
            shape=shape3([self.shape[axis] for axis in axes]),
            spacing=spacing,
            origin=triple(origin.tolist()),
            direction=(signed[0], signed[1], signed[2]),
            nifti_header=None,
        )

    def _corners(self) -> list[np.ndarray]:
        steps = np.array(self.direction) * np.array(self.spacing)[:, None]
        ends = np.indices((2, 2, 2)).reshape(3, -1).T * (np.array(self.shape) - 1)
        return [np.array(self.origin) + end @ steps for end in ends]


@functools.lru_cache(256)  # most cases of a dataset have one direction, and each is asked several times
def _letters(cosines: tuple[Vector3, Vector3, Vector3]) -> str:
    nearest = max(
        permutations(range(3)), key=lambda order: sum(abs(cosines[axis][world]) for axis, world in enumerate(order))
    )
    return "".join(PATIENT_SIDES[world][int(cosines[axis][world] > 0)] for axis, world in enumerate(nearest))


def unit_of(measured: bool, planar: bool) -> str:
    """Return what lengths are told in: mm where files give a size, else pixels (2D) or voxels."""
    if measured:
        return "mm"
    return "pixels" if planar else "voxels"


def turn_between(here: str, there: str) -> tuple[tuple[int, int, int], Flips]:
    """Return how an array of orientation `here` is brought to `there` (see Geometry.orientation).

    Returns:
        For each axis of the result: the axis of the array that becomes it, and whether it is reversed then.
    """
    worlds = [next(world for world, pair in enumerate(PATIENT_SIDES) if letter in pair) for letter in (*here, *there)]
    first, second, third = order = [worlds[:3].index(world) for world in worlds[3:]]
    flips = tuple(here[axis] != letter for axis, letter in zip(order, there, strict=True))
    return (first, second, third), (flips[0], flips[1], flips[2])


def triple(values: Sequence[float]) -> Triple:
    """Return three floats as a tuple; raises ShapeError for another number of values."""
    if len(values) != 3:
        raise ShapeError(f"Expected three values (D, H, W); got {list(values)}.")
    return (float(values[0]), float(values[1]), float(values[2]))


def shape3(values: Sequence[int]) -> Shape:
    """Return three integers as a tuple; raises ShapeError for another number of values."""
    depth, height, width = triple(values)
    return (int(depth), int(height), int(width))
