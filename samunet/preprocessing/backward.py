"""From logits on the network's grid to a segmentation on the input file's grid.

Classes are resampled one at a time under a running maximum, so memory stays at two volumes whatever their number.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.core.geometry import Shape
from samunet.core.history import SpatialHistory
from samunet.core.labels import Labels
from samunet.ops.crop import uncrop
from samunet.preprocessing.forward import slice_axis


def segmentation_from_logits(logits: Tensor, history: SpatialHistory, labels: Labels) -> np.ndarray:
    """Turn logits into label values on the input's grid.

    Args:
        logits: (K, D, H, W) on the network's grid, CPU.
        history: what preprocessing did to this case.
        labels: classes (largest logit wins) or regions (painted in order where the logit is positive).

    Returns:
        (D, H, W) uint8 or uint16 on the grid of the input file.
    """
    axis = slice_axis(history.geometry, history.spacing_after_resample, history.spacing_after_transpose)
    segmentation = torch.zeros(history.shape_after_crop, dtype=torch.int32)
    best: Tensor | None = None
    for channel, plane in enumerate(logits):
        resampled = resample_logits(plane.float(), history.shape_after_crop, axis=axis)
        if labels.has_regions:
            segmentation[resampled > 0] = labels.regions_order[channel]
        elif best is None:
            best = resampled
        else:
            segmentation[resampled > best] = labels.all_values[channel]
            best = torch.maximum(best, resampled)
    return to_input_grid(segmentation.numpy().astype(labels.segmentation_dtype()), history)


def label_values(scores: np.ndarray, labels: Labels, *, above: float) -> np.ndarray:
    """Turn scores into label values on their own grid.

    Args:
        scores: (K, D, H, W) logits or probabilities.
        labels: classes (largest score wins) or regions (painted in order).
        above: what the score of a region must exceed: 0 for logits, 0.5 for probabilities.

    Returns:
        (D, H, W) uint8 or uint16.
    """
    if not labels.has_regions:
        return np.array(labels.all_values, labels.segmentation_dtype())[scores.argmax(0)]
    segmentation = np.zeros(scores.shape[1:], labels.segmentation_dtype())
    for channel, value in zip(scores, labels.regions_order, strict=True):
        segmentation[channel > above] = value
    return segmentation


def probabilities_from_logits(logits: Tensor, history: SpatialHistory, labels: Labels) -> np.ndarray:
    """Turn logits into (K, D, H, W) float32 probabilities on the input's grid; outside the crop all is background."""
    axis = slice_axis(history.geometry, history.spacing_after_resample, history.spacing_after_transpose)
    resampled = torch.stack([resample_logits(plane.float(), history.shape_after_crop, axis=axis) for plane in logits])
    probabilities = resampled.sigmoid() if labels.has_regions else resampled.softmax(0)
    outside = [0.0] * len(logits) if labels.has_regions else [1.0] + [0.0] * (len(logits) - 1)
    return np.stack([to_input_grid(plane.numpy(), history, fill) for plane, fill in zip(probabilities, outside, strict=True)])


def resample_logits(logits: Tensor, shape: Shape, *, axis: int | None) -> Tensor:
    """Resample (D, H, W) logits linearly to another shape; along `axis` (thick slices) to the nearest slice."""
    if tuple(logits.shape) == tuple(shape):
        return logits
    if axis is None:
        return F.interpolate(logits[None, None], size=tuple(shape), mode="trilinear", align_corners=False)[0, 0]
    slices = logits.movedim(axis, 0).unsqueeze(1)
    plane = [size for other, size in enumerate(shape) if other != axis]
    slices = F.interpolate(slices, size=plane, mode="bilinear", align_corners=False).squeeze(1)
    if len(slices) != shape[axis]:
        slices = F.interpolate(slices.movedim(0, -1), size=shape[axis], mode="nearest-exact").movedim(-1, 0)
    return slices.movedim(0, axis)


def to_input_grid(array: np.ndarray, history: SpatialHistory, fill: float = 0) -> np.ndarray:
    """Undo crop and transpose of a (D, H, W) array on the cropped grid."""
    return np.ascontiguousarray(uncrop(array, history.crop, history.transposed_shape, fill).transpose(history.transpose_back))
