"""Score a network on whole preprocessed cases, on its own grid, while it trains."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from samunet.core.geometry import Shape
from samunet.core.labels import Labels
from samunet.core.preprocessed import OUTSIDE
from samunet.data.dataset import PreprocessedDataset
from samunet.hardware import autocast
from samunet.inference.sliding_window import sliding_window
from samunet.models.segmenter import SlabSegmenter
from samunet.ops.crop import crop
from samunet.ops.tiling import pad_to

STEP = 0.5  # of tiles, as in prediction


def mean_dice(
    network: SlabSegmenter, cases: PreprocessedDataset, labels: Labels, patch_size: Shape, device: torch.device, precision: torch.dtype | None
) -> float:
    """Return the mean Dice over foreground classes or regions of the mean over cases, without flips; in [0, 1].

    Where a class is neither in the reference nor predicted, the case does not count for it; 0 where nothing counts.
    """

    def run(tiles: Tensor) -> Tensor:
        with autocast(device, precision):
            return network(tiles)

    network.eval()
    scores: list[list[float]] = [[] for _ in labels.foreground]
    for name in cases.identifiers:
        image, label = cases.cut(name, (0, 0, 0), cases.shape(name))
        padded, inside = pad_to(image, patch_size)
        logits = sliding_window(
            run,
            torch.from_numpy(padded),
            outputs=labels.outputs,
            tile=patch_size,
            step=STEP,
            mirror_axes=(),
            tile_batch=1,
            device=device,
        )
        found = crop(logits.numpy(), inside)
        predicted = found > 0 if labels.has_regions else found.argmax(0)
        known = np.ones(label.shape, bool) if labels.ignore is None else label != labels.ignore
        reference = np.where(label == OUTSIDE, 0, label)
        for index, (_, values) in enumerate(labels.foreground):
            mask = (predicted[index] if labels.has_regions else np.isin(predicted, values)) & known
            wanted = np.isin(reference, values) & known
            if mask.any() or wanted.any():
                scores[index].append(2 * int((mask & wanted).sum()) / int(mask.sum() + wanted.sum()))
    means = [float(np.mean(values)) for values in scores if values]
    return math.fsum(means) / len(means) if means else 0.0
