"""Losses at the points that are least decided, where borders are.

Source: Kirillov et al., PointRend, CVPR 2020; in Mask2Former (Cheng et al., CVPR 2022) and HQ-SAM (Ke et al., NeurIPS
2023) too. A point is a voxel: its label needs no interpolation. Axes: M masks, B batch, K outputs, D H W voxels, P
points.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.core.labels import Labels
from samunet.models.losses import known_voxels

FOCUS = 0.75  # share of the points where a network is least decided
CANDIDATES = 3  # points drawn for each that is kept, HQ-SAM's
OF_A_SLICE, OF_A_SLAB = 12_544, 32_768  # points; the first is HQ-SAM's


def undecided(margin: Tensor, known: Tensor, count: int, candidates: int = CANDIDATES) -> Tensor:
    """Choose points of every row: three quarters are the least decided of those drawn at random, the rest are random.

    Args:
        margin: (M, V) how far a network is from deciding otherwise.
        known: (M, V) whether a voxel counts; points are drawn among those that do, in a row without one anywhere.
        count: points of a row.
        candidates: points drawn for each that is kept.

    Returns:
        (M, count) indices, or all (M, V) where a row has no more.
    """
    rows, voxels = margin.shape
    if voxels <= count:
        return torch.arange(voxels, device=margin.device).expand(rows, -1)
    with torch.no_grad():
        focused = round(FOCUS * count)
        drawn = _at_random(known, candidates * count + count - focused)
        some, rest = drawn.split((candidates * count, count - focused), dim=1)
        first = margin.gather(1, some).topk(focused, dim=1, largest=False).indices
        return torch.cat((some.gather(1, first), rest), dim=1)


def _at_random(known: Tensor, count: int) -> Tensor:
    """Draw (M, count) indices of voxels that count, each row by itself."""
    rows, voxels = known.shape
    if known.all():
        return torch.randint(voxels, (rows, count), device=known.device)
    before = known.cumsum(1, dtype=torch.int32)
    numbers = (torch.rand(rows, count, device=known.device) * before[:, -1:]).int() + 1
    return torch.searchsorted(before, numbers).clamp_max(voxels - 1)


def mask_loss(logits: Tensor, targets: Tensor, known: Tensor, count: int, candidates: int = CANDIDATES) -> Tensor:
    """Return cross-entropy and Dice loss of masks at their points.

    Args:
        logits, targets, known: (M, V) of the masks; known is 1 where a voxel counts.
        count, candidates: of `undecided`.

    Returns:
        (M,) losses.
    """
    places = undecided(logits.detach().abs(), known > 0, count, candidates)
    logits, targets, known = (part.gather(1, places) for part in (logits, targets, known))
    entropy = (F.binary_cross_entropy_with_logits(logits, targets, reduction="none") * known).sum(1)
    entropy = entropy / known.sum(1).clamp_min(1)
    chances, targets = logits.sigmoid() * known, targets * known
    dice = 1 - (2 * (chances * targets).sum(1) + 1) / (chances.sum(1) + targets.sum(1) + 1)
    return entropy + dice


def at_points(logits: Tensor, label: Tensor, labels: Labels) -> tuple[Tensor, Tensor]:
    """Take a loss's logits and labels at the points of each patch where the two best classes, or any region, are close.

    Args:
        logits: (B, K, D, H, W).
        label: (B, D, H, W).
        labels: what the integers mean; ignored voxels are no points.

    Returns:
        (B, K, P, 1, 1) logits and (B, P, 1, 1) labels.
    """
    flat, values = logits.flatten(2), label.flatten(1)
    with torch.no_grad():
        if labels.has_regions:
            margin = flat.abs().amin(1)
        else:
            best, second = flat.topk(2, dim=1).values.unbind(1)
            margin = best - second
    points = OF_A_SLICE if logits.shape[2] == 1 else OF_A_SLAB
    places = undecided(margin, known_voxels(values, labels), points)
    chosen = flat.gather(2, places.unsqueeze(1).expand(-1, flat.shape[1], -1))
    return chosen[..., None, None], values.gather(1, places)[..., None, None]
