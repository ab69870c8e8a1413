"""Which slices of a volume are shown, and how they are hung: one rule for every picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from samunet.core.geometry import NO_FLIPS, PATIENT_SIDES, Flips, Geometry, turn_between

# As radiologists hang them: toward which sides of the patient slices are counted, rows run down and columns run right.
PLANES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
OPPOSITE = {letter: other for pair in PATIENT_SIDES for letter, other in (pair, pair[::-1])}
NEARLY_AS_THICK = 1.1  # ours: rounded headers of cubic voxels do not take the axial plane away
OBLIQUE_DEGREES = 10.0  # ours: further from every side of the patient than this is worth a word


@dataclass(frozen=True, kw_only=True)
class Plane:
    """How a volume becomes a stack of slices."""

    name: str
    """axial, coronal or sagittal; empty where the file tells no direction, and for 2D images."""
    order: tuple[int, int, int]
    """The volume's axes that slices, rows and columns run along."""
    flips: Flips = NO_FLIPS
    """Whether slices, rows and columns run backward along them."""
    oblique: bool = False
    """True where the slices lie far from the patient's sides; letters then name the nearest."""

    @property
    def letters(self) -> tuple[str, str, str, str] | None:
        """Sides of the patient at the left, right, top and bottom of a slice; None where they are not known."""
        if not self.name:
            return None
        bottom, right = PLANES[self.name][1], PLANES[self.name][2]
        return OPPOSITE[right], right, OPPOSITE[bottom], bottom

    def stack(self, array: np.ndarray) -> np.ndarray:
        """Return a volume (D, H, W) as slices as they are shown, (slices, rows, columns); a view, no copy."""
        turned = np.transpose(array, self.order)
        return turned[tuple(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def describe(self, index: int, slices: int) -> str:
        """Say which slice is shown, and which side is where; empty for the one slice of a file without direction.

        Args:
            index: of the slice, from 0.
            slices: of the stack.
        """
        if self.letters is None:
            return f"Slice {index + 1} of {slices} across the {'DHW'[self.order[0]]} axis" if slices > 1 else ""
        left, _, top, _ = self.letters
        toward = PLANES[self.name][0]
        number = f"slice {index + 1} of {slices} from {OPPOSITE[toward]} to {toward}" if slices > 1 else "slice"
        oblique = ", oblique, so that letters name the nearest sides" if self.oblique else ""
        return f"{self.name.capitalize()} {number}, {left} on the left and {top} at the top{oblique}"


def plane_of(geometry: Geometry) -> Plane:
    """Return how a volume is shown: across its thickest voxels, where pixels are finest, axial where all are alike.

    Volumes of one patient that files store in other orders and directions are shown as one picture. 2D images and
    files that tell no direction are shown as they are stored.
    """
    thickness = [
        math.inf if size == 1 else length for size, length in zip(geometry.shape, geometry.spacing, strict=True)
    ]
    if geometry.planar or not geometry.directed:
        axis = 0 if geometry.planar else thickness.index(max(thickness))
        first, second = (other for other in range(3) if other != axis)
        return Plane(name="", order=(axis, first, second))
    turns = {name: turn_between(geometry.orientation, letters) for name, letters in PLANES.items()}
    across = {name: thickness[order[0]] for name, (order, _) in turns.items()}
    name = max(PLANES, key=lambda plane: across[plane])
    name = "axial" if across[name] <= NEARLY_AS_THICK * across["axial"] else name
    order, flips = turns[name]
    nearest = np.abs(geometry.direction).max(axis=1).min()
    return Plane(name=name, order=order, flips=flips, oblique=bool(nearest < math.cos(math.radians(OBLIQUE_DEGREES))))
