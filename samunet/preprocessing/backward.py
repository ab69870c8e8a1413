"""Turn logits on the network's grid into a segmentation on the input file's grid.

Logits are resampled block by block and decided at once, so beside them and the segmentation next to nothing is in
memory, however many classes there are. Interpolated logits lie between those around them: in a block only classes are
computed whose largest logit reaches the smallest one of every other class, for no others can win there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from torch import Tensor

from samunet.core.history import SpatialHistory, turned
from samunet.core.labels import Labels
from samunet.ops.crop import crop
from samunet.ops.interpolate import Block, blocks
from samunet.preprocessing.forward import slice_axis


def segmentation_from_logits(logits: Tensor, history: SpatialHistory, labels: Labels) -> np.ndarray:
    """Turn logits into label values on the input's grid.

    Args:
        logits: (K, D, H, W) on the network's grid, CPU, any floating type.
        history: what preprocessing did to this case.
        labels: classes (largest logit wins, of equal ones the first) or regions (painted in order where the logit is
            positive).

    Returns:
        (D, H, W) uint8 or uint16 on the grid of the input file.
    """
    segmentation = np.zeros(history.geometry.shape, labels.segmentation_dtype())
    inside = _inside_crop(segmentation, history)
    decide = _paint_regions if labels.has_regions else _elect_classes
    values = np.array(labels.regions_order or labels.all_values, segmentation.dtype)
    for block in _blocks(history):
        decide(_old(logits, block), block, values, inside[block.new])
    return segmentation


def label_values(scores: Iterable[np.ndarray], labels: Labels, *, above: float) -> np.ndarray:
    """Turn scores into label values on their own grid.

    Args:
        scores: K arrays (D, H, W) of logits or probabilities, of which one at a time is looked at.
        labels: classes (largest score wins, of equal ones the first) or regions (painted in order).
        above: what the score of a region must exceed: 0 for logits, 0.5 for probabilities.

    Returns:
        (D, H, W) uint8 or uint16.
    """
    values = labels.regions_order or labels.all_values
    segmentation = best = np.empty(0)
    for channel, (plane, value) in enumerate(zip(scores, values, strict=True)):
        if channel == 0:
            segmentation = np.zeros(plane.shape, labels.segmentation_dtype())
            best = np.full(plane.shape, above if labels.has_regions else -np.inf, np.float32)
        np.copyto(segmentation, value, where=plane > best, casting="unsafe")
        if not labels.has_regions:
            np.maximum(best, plane, out=best)
    return segmentation


def probabilities_from_logits(logits: Tensor, history: SpatialHistory, labels: Labels) -> np.ndarray:
    """Turn logits into (K, D, H, W) float32 probabilities on the input's grid; outside the crop all is background."""
    return np.stack(list(probability_planes(logits, history, labels)))


def probability_planes(logits: Tensor, history: SpatialHistory, labels: Labels) -> Iterator[np.ndarray]:
    """Yield the (D, H, W) float32 probabilities of one class or region after the other, on the input's grid.

    In memory is what is yielded and, for classes, one volume more: the logarithm of the sum of their exponentials.
    """
    normalizer = None
    if not labels.has_regions:
        normalizer = np.empty(history.shape_after_crop, np.float32)
        for block in _blocks(history):
            scores = block.resize(_old(logits, block))
            highest = scores.max(axis=0)
            # Np.logaddexp takes ten times as long.
            normalizer[block.new] = highest + np.log(np.exp(scores - highest).sum(axis=0))
    for channel in range(len(logits)):
        plane = np.zeros(history.geometry.shape, np.float32)
        if channel == 0 and normalizer is not None:
            plane[...] = 1
        inside = _inside_crop(plane, history)
        for block in _blocks(history):
            resized = block.resize(_old(logits[channel : channel + 1], block))[0]
            inside[block.new] = _sigmoid(resized) if normalizer is None else np.exp(resized - normalizer[block.new])
        yield plane


def resize_to_input_grid(array: Tensor, history: SpatialHistory) -> np.ndarray:
    """Bring a (D, H, W) map on the network's grid to the input's, float32; outside the crop it is 0."""
    result = np.zeros(history.geometry.shape, np.float32)
    inside = _inside_crop(result, history)
    for block in _blocks(history):
        inside[block.new] = block.resize(_old(array[None], block))[0]
    return result


def _blocks(history: SpatialHistory) -> Iterator[Block]:
    axis = slice_axis(history.geometry, history.spacing_after_resample, history.spacing_after_transpose)
    return blocks(history.shape_after_resample, history.shape_after_crop, axis=axis)


def _inside_crop(array: np.ndarray, history: SpatialHistory) -> np.ndarray:
    """Return a view of an array on the input's (D, H, W) grid: its part inside the crop, on turned axes."""
    return crop(turned(array, history.transpose, history.flips), history.crop)


def _old(logits: Tensor, block: Block) -> np.ndarray:
    depth, height, width = block.old
    return logits[:, depth, height, width].float().numpy()


def _elect_classes(scores: np.ndarray, block: Block, values: np.ndarray, target: np.ndarray) -> None:
    """Write the value of the largest score into every new voxel of a block."""
    candidates = np.flatnonzero(scores.max(axis=(1, 2, 3)) >= scores.min(axis=(1, 2, 3)).max())
    if len(candidates) == 1:
        target[...] = values[candidates[0]]
        return
    resized = block.resize(scores[candidates])
    best = resized[0].copy()
    winner = np.full(best.shape, values[candidates[0]])
    for candidate, score in zip(candidates[1:], resized[1:], strict=True):
        np.copyto(winner, values[candidate], where=score > best)
        np.maximum(best, score, out=best)
    target[...] = winner


def _paint_regions(scores: np.ndarray, block: Block, values: np.ndarray, target: np.ndarray) -> None:
    """Write each region's value where its score is positive, later regions over earlier ones."""
    for score, value in zip(scores, values, strict=True):
        if score.min() > 0:
            target[...] = value
        elif score.max() > 0:
            target[block.resize(score[None])[0] > 0] = value


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits))
