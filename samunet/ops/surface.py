"""How far the surfaces of two masks lie apart.

The surface of a mask is its voxels that touch, with a face, a voxel outside it or the rim of the image; along an axis
of one voxel nothing touches, so that a 2D image has outlines. Nobody knows what an ignored voxel is, so touching one
makes no surface. Distances run between centers of surface voxels, in mm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import edt
import numpy as np

from samunet.core.geometry import Triple
from samunet.errors import ShapeError
from samunet.ops.crop import bounding_box, crop

DISTANCE_ROUNDING = 1e-5  # distances are float32: one that equals the tolerance may lie above it


@dataclass(frozen=True, kw_only=True)
class SurfaceScores:
    """Distances in mm, and shares, of one class or region in one case. All are NaN where both masks are empty, or equal
    and without a surface.
    """

    hd: float
    """Hausdorff distance: the largest distance of a surface voxel to the other surface."""
    hd95: float
    """The larger one of the 95th percentiles of both directions."""
    assd: float
    """Mean distance over the surface voxels of both."""
    nsd: float
    """Normalized surface Dice: share of both surfaces' voxels within the tolerance of the other surface."""


def surface_scores(
    reference: np.ndarray,
    prediction: np.ndarray,
    spacing: Triple,
    tolerance: float,
    ignored: np.ndarray | None = None,
) -> SurfaceScores:
    """Compare the surfaces of two masks; raises ShapeError where the two differ in shape.

    Where the masks differ and one has no surface, NSD is 0 and every distance is the diagonal of the image, the largest
    possible one. An empty mask has none, nor has one around which everything is ignored.

    Args:
        reference: (D, H, W) bool.
        prediction: likewise.
        spacing: of D, H, W in mm.
        tolerance: mm, for NSD.
        ignored: (D, H, W) bool, voxels that count nowhere; both masks are False there. None where all count.

    Source: definitions of Maier-Hein et al. (2024), "Metrics reloaded"; NSD after Nikolov et al. (2018), on voxels
    instead of surface elements.
    """
    if reference.shape != prediction.shape:
        raise ShapeError(
            f"The reference has shape {reference.shape}, the prediction {prediction.shape}; both must be on one grid."
        )
    one, other = (
        surface(mask) if ignored is None else surface(mask | ignored) & mask for mask in (reference, prediction)
    )
    if not (one.any() and other.any()):
        if np.array_equal(reference, prediction):
            return SurfaceScores(hd=math.nan, hd95=math.nan, assd=math.nan, nsd=math.nan)
        diagonal = math.dist(
            [0] * 3, [(size - 1) * width for size, width in zip(reference.shape, spacing, strict=True)]
        )
        return SurfaceScores(hd=diagonal, hd95=diagonal, assd=diagonal, nsd=0.0)
    to_prediction, to_reference = _distances(one, other, spacing)
    both = np.concatenate([to_prediction, to_reference])
    return SurfaceScores(
        hd=float(both.max()),
        hd95=float(max(np.percentile(to_prediction, 95), np.percentile(to_reference, 95))),
        assd=float(both.mean(dtype=np.float64)),
        nsd=float(np.mean(both <= tolerance * (1 + DISTANCE_ROUNDING))),
    )


def surface(mask: np.ndarray) -> np.ndarray:
    """Return the surface voxels of a bool (D, H, W) mask."""
    inside = mask.copy()
    for axis in range(mask.ndim):
        if mask.shape[axis] == 1:
            continue
        first, last = [slice(None)] * mask.ndim, [slice(None)] * mask.ndim
        first[axis], last[axis] = slice(None, -1), slice(1, None)
        inside[tuple(first)] &= mask[tuple(last)]
        inside[tuple(last)] &= mask[tuple(first)]
        for rim in (0, -1):
            inside[(slice(None),) * axis + (rim,)] = False
    return mask & ~inside


def _distances(one: np.ndarray, other: np.ndarray, spacing: Triple) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances of the voxels of each surface to the other, in the box that holds both."""
    box = bounding_box(one | other)
    first, second = (np.ascontiguousarray(crop(voxels, box)) for voxels in (one, other))
    return tuple(
        np.sqrt(edt.edtsq(~target, anisotropy=spacing)[source]) for source, target in ((first, second), (second, first))
    )
