"""Count how a predicted segmentation overlaps a reference."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from samunet.errors import ShapeError


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Voxel counts of one class or region in one case."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def n_pred(self) -> int:
        """Predicted voxels."""
        return self.tp + self.fp

    @property
    def n_ref(self) -> int:
        """Reference voxels."""
        return self.tp + self.fn

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN when the class is absent from both."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else math.nan

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN); NaN when the class is absent from both."""
        total = self.tp + self.fp + self.fn
        return self.tp / total if total else math.nan


def overlap(
    reference: np.ndarray, prediction: np.ndarray, values: tuple[int, ...], ignore: int | None = None
) -> Overlap:
    """Count true and false voxels of a class or region; raises ShapeError where the two differ in shape.

    Args:
        reference: (D, H, W) integers.
        prediction: (D, H, W) integers.
        values: label values that belong to it.
        ignore: reference value of voxels that do not count.
    """
    if reference.shape != prediction.shape:
        raise ShapeError(
            f"The reference has shape {reference.shape}, the prediction {prediction.shape}; both must be on the grid "
            "of the original image."
        )
    in_reference, in_prediction = _members(reference, values), _members(prediction, values)
    counted = reference.size
    if ignore is not None:
        valid = reference != ignore
        counted = int(np.count_nonzero(valid))
        in_reference &= valid
        in_prediction &= valid
    tp = int(np.count_nonzero(in_reference & in_prediction))
    fp = int(np.count_nonzero(in_prediction)) - tp
    fn = int(np.count_nonzero(in_reference)) - tp
    return Overlap(tp=tp, fp=fp, fn=fn, tn=counted - tp - fp - fn)


def _members(array: np.ndarray, values: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(array.shape, dtype=bool)
    for value in values:
        mask |= array == value
    return mask
