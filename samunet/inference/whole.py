"""Score a network on whole preprocessed cases, on its own grid, while it trains."""

from __future__ import annotations

import math
from typing import cast

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor

from samunet.core.geometry import Shape
from samunet.core.labels import Labels
from samunet.core.preprocessed import OUTSIDE_NONZERO
from samunet.core.values import known_mean
from samunet.data.dataset import PreprocessedDataset
from samunet.inference.sliding_window import sliding_window
from samunet.machine.hardware import autocast
from samunet.models.segmenter import SlabSegmenter
from samunet.ops.overlap import overlap
from samunet.preprocessing.backward import label_values

STEP = 0.5  # of tiles, as in prediction


def mean_dice(
    network: SlabSegmenter,
    cases: PreprocessedDataset,
    labels: Labels,
    patch_size: Shape,
    device: torch.device,
    precision: torch.dtype | None,
) -> float:
    """Return the mean Dice over foreground classes or regions of the mean over cases, without flips; in [0, 1].

    Where a class is neither in the reference nor predicted, the case does not count for it; 0 where nothing counts.
    """

    def run(tiles: Tensor) -> Tensor:
        with autocast(device, precision):
            return cast(Tensor, network(tiles))

    network.eval()
    scores: list[list[float]] = [[] for _ in labels.foreground]
    for name in cases.identifiers:
        image, label = cases.cut(name, (0, 0, 0), cases.shape(name))
        padded, inside = pad_nd_image(image, patch_size, return_slicer=True)
        logits = sliding_window(
            run,
            torch.from_numpy(padded),
            torch.zeros(labels.outputs, *padded.shape[1:]),
            tile=patch_size,
            steps=(STEP, STEP, STEP),
            tile_batch=1,
            device=device,
        )
        segmentation = label_values(logits.numpy(), labels, above=0)[inside[1:]]
        reference = np.where(label == OUTSIDE_NONZERO, 0, label)
        for (_, values), of_class in zip(labels.foreground, scores, strict=True):
            of_class.append(overlap(reference, segmentation, values, labels.ignore).dice)
    mean = known_mean(known_mean(of_class) for of_class in scores)
    return 0.0 if math.isnan(mean) else mean
