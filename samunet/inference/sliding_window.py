"""Predict a volume tile by tile: overlap in plane and depth, Gaussian weights.

Source: nnU-Net's sliding window (Isensee et al., 2021); sums are kept in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from samunet.core.geometry import Shape, Triple, shape3
from samunet.ops.tiling import gaussian_importance, tile_origins


@torch.no_grad()
def sliding_window(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    total: Tensor,
    *,
    tile: Shape,
    steps: Triple,
    tile_batch: int,
    device: torch.device,
    uniform: bool = False,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Tensor:
    """Fill `total` with the weighted mean of what the network gives for all tiles; raises ShapeError where the image is
    smaller than the tile.

    Args:
        network: (B, C, *tile) on `device` to (B, K, *tile) scores.
        image: (C, D, H, W) float32 on the CPU, at least as large as the tile on every axis.
        total: (K, D, H, W) float32 zeros, on any device.
        tile: (D, H, W) voxels.
        steps: distance between tiles on each axis as a share of the tile, in (0, 1].
        tile_batch: tiles at a time.
        uniform: all voxels of a tile count alike, instead of by a Gaussian around its center.
        progress: wraps the loop over batches of tiles.

    Returns:
        `total`.
    """
    shape = shape3(image.shape[1:])
    origins = tile_origins(shape, tile, steps)
    importance = (torch.ones(tile) if uniform else torch.from_numpy(gaussian_importance(tile))).to(total.device)
    weight = torch.zeros(shape, device=total.device)
    for first in progress(range(0, len(origins), tile_batch)):
        places = [
            tuple(slice(start, start + size) for start, size in zip(origin, tile, strict=True))
            for origin in origins[first : first + tile_batch]
        ]
        tiles = torch.stack([image[:, depth, height, width] for depth, height, width in places]).to(device)
        scores = network(tiles).float().to(total.device)
        for (depth, height, width), of_tile in zip(places, scores, strict=True):
            total[:, depth, height, width].addcmul_(of_tile, importance)
            weight[depth, height, width] += importance
        del tiles, scores, of_tile  # else they are in memory beside those of the next tiles
    return total.div_(weight)
