"""Connected components of segmentations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import cc3d
import numpy as np

CORNERS: Final = 26  # neighbors of a voxel: those that share a face, an edge or a corner with it


def largest_component(mask: np.ndarray) -> np.ndarray:
    """Return a bool (D, H, W) mask's largest connected component, or all of that size (nnU-Net's rule).

    Voxels that share a corner are connected.
    """
    components, count = cc3d.connected_components(mask, connectivity=CORNERS, return_N=True)
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


def detection_f1(reference: np.ndarray, prediction: np.ndarray) -> float:
    """Return the F1 score of finding components such as lesions: those that share a voxel with the other mask's.

    2 TP / (2 TP + FP + FN) with TP the reference's components that are touched, FN those that are not, and FP the
    prediction's that touch none. Voxels that share a corner are connected.

    Args:
        reference: (D, H, W) bool.
        prediction: likewise.

    Returns:
        0 to 1; NaN where both are empty.
    """
    (of_reference, reference_count), (of_prediction, prediction_count) = (
        cc3d.connected_components(mask, connectivity=CORNERS, return_N=True) for mask in (reference, prediction)
    )
    both = reference & prediction
    hits = len(np.unique(of_reference[both]))
    false_alarms = prediction_count - len(np.unique(of_prediction[both]))
    total = hits + reference_count + false_alarms  # 2 TP + FN + FP
    return 2 * hits / total if total else math.nan
