"""What promptable models of planes have in common: how a seed and a SAM are loaded, and how a plane is shown to them.

A plane is brought to square pixels, the longer side `side` of them, in the upper left of a square that is else zero.
Axes: C channels, H W pixels of a plane of the file, h w pixels that it takes of the square.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from samunet.checkpoints.seeds import load_seed
from samunet.checkpoints.transfer import transfer
from samunet.core.labels import parse_labels
from samunet.errors import CheckpointError
from samunet.pipeline.pretraining import plan_of
from samunet.pretraining.recipe import Recipe
from samunet.sam.backbones import BACKBONES, PIXEL_MEAN, PIXEL_STD
from samunet.sam.build import build_sam
from samunet.sam.high_quality import in_high_quality
from samunet.sam.weights import load_weights, read_tensors
from samunet.variants.network import build_network
from samunet.variants.sam_unet_prompted.network import PromptedSAMUNet

SEED_SIDE = 128  # pixels; of 64, 128 and 256 it is best at clicks on real images (documentation/results/seed.md)
SAM_SIDE = 1024  # pixels that SAM was trained on
DARKEST, BRIGHTEST = 0.5, 99.5  # percentiles of a plane that become black and white for SAM


def seed_network(path: Path) -> tuple[PromptedSAMUNet, tuple[int, ...]]:
    """Load the promptable U-Net of a seed, and the widths of its stages; raises CheckpointError for other seeds."""
    seed = load_seed(path)
    recipe = Recipe(**seed.card["recipe"])
    if recipe.dimensions != 2 or not recipe.maps or recipe.backbone:
        raise CheckpointError(f'Seed {path} is no U-Net for slices that takes maps; name one that is, or "seed".')
    plan = plan_of(recipe)
    configuration = next(iter(plan.configurations.values()))
    network = build_network(plan, configuration, parse_labels({"background": 0, "object": 1}))
    transfer(network, seed.weights)
    return cast(PromptedSAMUNet, network.eval()), configuration.topology.widths


def sam_network(path: Path, side: int) -> Sam:
    """Load a checkpoint in SAM's layout for squares of `side` pixels, HQ-SAM's with its decoder; raises CheckpointError
    for other files.
    """
    table = read_tensors(path).get("image_encoder.pos_embed")
    backbone = next((one for one in BACKBONES if table is not None and one.width == table.shape[-1]), None)
    if backbone is None:
        raise CheckpointError(f"{path} is no seed of samunet and no checkpoint of SAM; name another file.")
    sam = build_sam(backbone, (side, side))
    load_weights(sam, backbone, path)
    return in_high_quality(sam).eval()


def seed_pixels(plane: np.ndarray, side: int, spacing: Sequence[float]) -> Tensor:
    """Return the (1, 1, side, side) of a (C, H, W) float32 plane with a spacing in mm: z-scored grey values."""
    shown = resized(torch.from_numpy(plane.mean(0))[None, None], size_within(side, plane.shape[1:], spacing))
    return padded((shown - shown.mean()) / (shown.std() + 1e-6), side)


def sam_pixels(plane: np.ndarray, side: int, spacing: Sequence[float]) -> Tensor:
    """Return the (1, 3, side, side) of a (C, H, W) float32 plane with a spacing in mm: SAM's statistics; three channels
    are colors, others grey.
    """
    low, high = np.percentile(plane, (DARKEST, BRIGHTEST))
    shown = torch.from_numpy(np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * 255)[None].float()
    shown = shown if len(plane) == 3 else shown.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(values)[:, None, None] for values in (PIXEL_MEAN, PIXEL_STD))
    return padded((resized(shown, size_within(side, plane.shape[1:], spacing)) - mean) / std, side)


def size_within(side: int, shape: Sequence[int], spacing: Sequence[float]) -> tuple[int, int]:
    """Return the (h, w) of a (H, W) plane with a spacing in mm."""
    height, width = (length * step for length, step in zip(shape, spacing, strict=True))
    longest = max(height, width)
    return max(1, round(height / longest * side)), max(1, round(width / longest * side))


def resized(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (1, C, H, W) numbers to (1, C, h, w)."""
    smaller = size[0] < plane.shape[2] or size[1] < plane.shape[3]
    return F.interpolate(plane, size=size, mode="bilinear", antialias=smaller, align_corners=False)


def padded(plane: Tensor, side: int) -> Tensor:
    """Fill (..., h, w) up to a square with zeros below and on the right."""
    return F.pad(plane, (0, side - plane.shape[-1], 0, side - plane.shape[-2]))
