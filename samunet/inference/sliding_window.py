"""Predict a volume tile by tile: overlap in plane and depth, Gaussian weights, flips.

Source: nnU-Net's sliding window (Isensee et al., 2021); sums are kept in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, combinations

import torch
from torch import Tensor

from samunet.core.geometry import Shape, shape3
from samunet.ops.tiling import gaussian_importance, tile_origins


@torch.no_grad()
def sliding_window(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    outputs: int,
    tile: Shape,
    step: float,
    mirror_axes: tuple[int, ...],
    tile_batch: int,
    device: torch.device,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Tensor:
    """Return the weighted mean of the logits of all tiles and flips.

    Args:
        network: (B, C, *tile) on `device` to (B, K, *tile) logits.
        image: (C, D, H, W) float32 on the CPU, at least as large as the tile on every axis.
        outputs: K.
        tile: (D, H, W) voxels.
        step: distance between tiles as a share of the tile, in (0, 1].
        mirror_axes: axes (0 = D) whose flips and their combinations are averaged in; empty for none.
        tile_batch: tiles in one forward pass.
        progress: wraps the loop over batches of tiles.

    Returns:
        (K, D, H, W) float32 logits on the CPU.

    Raises:
        ShapeError: the image is smaller than the tile.
    """
    shape = shape3(image.shape[1:])
    origins = tile_origins(shape, tile, step)
    importance = torch.from_numpy(gaussian_importance(tile))
    total, weight = torch.zeros(outputs, *shape), torch.zeros(shape)
    for first in progress(range(0, len(origins), tile_batch)):
        places = [tuple(slice(a, a + n) for a, n in zip(origin, tile, strict=True)) for origin in origins[first : first + tile_batch]]
        tiles = torch.stack([image[(slice(None), *place)] for place in places]).to(device)
        logits = mean_over_flips(network, tiles, mirror_axes).float().cpu()
        for place, tile_logits in zip(places, logits, strict=True):
            total[(slice(None), *place)] += tile_logits * importance
            weight[place] += importance
    return total.div_(weight)


def mean_over_flips(network: Callable[[Tensor], Tensor], tiles: Tensor, mirror_axes: tuple[int, ...]) -> Tensor:
    """Average the logits of (B, C, D, H, W) tiles over every combination of flips, the unflipped one included."""
    flips = list(chain.from_iterable(combinations(mirror_axes, count) for count in range(len(mirror_axes) + 1)))
    total: Tensor | None = None
    for flip in flips:
        axes = [axis + 2 for axis in flip]
        logits = network(tiles.flip(axes)).float().flip(axes)
        total = logits if total is None else total + logits
    return total / len(flips)
