"""Connected components of segmentations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected component of a bool (D, H, W) mask; components of the same size are all kept (nnU-Net's rule).

    Voxels that share a corner are connected.
    """
    components, count = ndimage.label(mask, np.ones((3,) * mask.ndim, bool))
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())[1:]
    return np.concatenate(([False], sizes == sizes.max()))[components]


def keep_largest(segmentation: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Set the voxels of some labels to 0 that lie outside the largest component of these labels together.

    Args:
        segmentation: (D, H, W) integers.
        values: labels; several make one region.

    Returns:
        (D, H, W) of the same type; the input itself when nothing is removed.
    """
    mask = np.isin(segmentation, values)
    removed = mask & ~largest_component(mask)
    return np.where(removed, 0, segmentation).astype(segmentation.dtype) if removed.any() else segmentation
