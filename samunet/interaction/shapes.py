"""Lines, areas and strokes within a plane, and planes between others."""

from __future__ import annotations

from collections.abc import Sequence

import edt
import numpy as np
from scipy import ndimage
from skimage.draw import line as pixels_between
from skimage.draw import polygon2mask

from samunet.errors import ConfigError

Pixel = tuple[int, int]


def check_voxels(points: Sequence[Sequence[int]], shape: Sequence[int]) -> None:
    """Refuse (d, h, w) points outside an image of a (D, H, W) shape, in the words of people: x y z."""
    for point in points:
        if len(point) != 3 or not all(0 <= place < size for place, size in zip(point, shape, strict=True)):
            raise ConfigError(
                f"A voxel [x, y, z] lies in the image of {' x '.join(map(str, shape[::-1]))} voxels; got "
                f"{list(point)[::-1]}."
            )


def in_plane(points: Sequence[tuple[int, int, int]], axis: int | None = None) -> tuple[int, int, list[Pixel]]:
    """Return axis and index of the plane in which (d, h, w) points lie, and their places there.

    Args:
        axis: of the plane; None takes the first on which all points agree.

    Raises:
        ConfigError: they lie in no such plane.
    """
    same = [side for side in range(3) if len({point[side] for point in points}) == 1]
    if not points or (axis is None and not same) or (axis is not None and axis not in same):
        raise ConfigError("The points of a line must lie in one plane of the image; give equal indices along one axis.")
    chosen = same[0] if axis is None else axis
    first, second = (side for side in range(3) if side != chosen)
    return chosen, points[0][chosen], [(point[first], point[second]) for point in points]


def line(shape: tuple[int, ...], path: Sequence[Pixel]) -> np.ndarray:
    """Return the (H, W) mask of a line through pixels."""
    mask = np.zeros(shape, bool)
    for start, end in zip(path, [*path[1:], path[-1]], strict=True):
        mask[pixels_between(*start, *end)] = True  # type: ignore[no-untyped-call]
    return mask


def filled(shape: tuple[int, ...], path: Sequence[Pixel]) -> np.ndarray:
    """Return the (H, W) mask of what a closed line holds, itself included."""
    mask = line(shape, [*path, path[0]])
    mask |= polygon2mask(shape, path)  # type: ignore[no-untyped-call]
    return mask


def stroke(shape: tuple[int, ...], path: Sequence[Pixel], radius: float, spacing: Sequence[float]) -> np.ndarray:
    """Return the (H, W) mask of a brush's stroke: all pixels whose centers are within `radius` mm of a line.

    Args:
        spacing: (H, W) in mm.
    """
    outside = ~line(shape, path)
    return edt.edt(outside, anisotropy=tuple(spacing)) <= radius if radius > 0 else ~outside


def signed_distance(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Return the distance in mm from the border of an (H, W) mask, positive inside; the plane's rim is no border."""
    longest = float(np.hypot(*(size * step for size, step in zip(mask.shape, spacing, strict=True))))
    inside, outside = (
        np.minimum(edt.edt(np.ascontiguousarray(part), anisotropy=tuple(spacing)), longest) for part in (mask, ~mask)
    )
    return inside - outside


def between(first: np.ndarray, last: np.ndarray, shares: Sequence[float], spacing: Sequence[float]) -> list[np.ndarray]:
    """Return the masks between two (H, W) masks, neither of them empty, by their signed distances.

    The masks are laid on each other by their centers of mass first, so that what runs obliquely keeps its size.

    Args:
        shares: of the way from the first to the last.
        spacing: (H, W) in mm.
    """
    centers = [np.array(ndimage.center_of_mass(mask)) for mask in (first, last)]
    distances = [signed_distance(mask, spacing) for mask in (first, last)]
    masks = []
    for share in shares:
        center = (1 - share) * centers[0] + share * centers[1]
        one, other = (
            ndimage.shift(distance, center - own, order=1, mode="nearest")
            for distance, own in zip(distances, centers, strict=True)
        )
        masks.append((1 - share) * one + share * other > 0)
    return masks
