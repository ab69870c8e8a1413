"""Segmentation losses on (B, K, D, H, W) logits.

Source: Dice with cross-entropy, deep supervision weights and the ignore label follow nnU-Net (Isensee et al., 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.core.labels import Labels

SMOOTH = 1e-5  # nnU-Net's


def segmentation_terms(logits: Tensor, label: Tensor, labels: Labels, *, batch_dice: bool) -> dict[str, Tensor]:
    """Return the named loss terms {"ce" or "bce", "dice"} for classes or regions.

    Args:
        logits: (B, K, D, H, W), any float type.
        label: (B, D, H, W) integers.
        labels: what the integers mean; voxels with the ignore value count for nothing.
        batch_dice: pool the Dice sums over the batch instead of taking Dice per sample.

    Returns:
        Scalars; ce or bce in [0, inf), dice in [0, 1] (1 - mean Dice).
    """
    logits = logits.float()
    known = None if labels.ignore is None else (label != labels.ignore)
    if labels.has_regions:
        target = region_targets(label, labels)
        return {
            "bce": _masked_mean(F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1), known),
            "dice": _dice_loss(logits.sigmoid(), target, known, batch_dice),
        }
    index = label.long() if known is None else label.long().masked_fill(~known, 0)
    cross_entropy = F.cross_entropy(logits, index, reduction="none")
    target = F.one_hot(index, logits.shape[1]).movedim(-1, 1)[:, 1:].to(logits.dtype)
    return {"ce": _masked_mean(cross_entropy, known), "dice": _dice_loss(logits.softmax(1)[:, 1:], target, known, batch_dice)}


def region_targets(label: Tensor, labels: Labels) -> Tensor:
    """Turn (B, D, H, W) label values into (B, R, D, H, W) float region masks."""
    return torch.stack([sum((label == value) for value in values) > 0 for _, values in labels.foreground], dim=1).float()


def deep_supervision_terms(outputs: Sequence[Tensor], label: Tensor, labels: Labels, *, batch_dice: bool) -> dict[str, Tensor]:
    """Sum loss terms over outputs of falling resolution with weights 1, 1/2, 1/4, ... scaled to add up to one.

    Labels are brought to each resolution by nearest neighbour.
    """
    weights = [0.5**level for level in range(len(outputs))]
    total: dict[str, Tensor] = {}
    for weight, logits in zip(weights, outputs, strict=True):
        target = label if logits.shape[2:] == label.shape[1:] else nearest(label, logits.shape[2:])
        for name, term in segmentation_terms(logits, target, labels, batch_dice=batch_dice).items():
            share = term * (weight / sum(weights))
            total[name] = total[name] + share if name in total else share
    return total


def nearest(label: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring (B, D, H, W) integer labels to another (D, H, W) by nearest neighbour."""
    return F.interpolate(label.unsqueeze(1).float(), size=tuple(shape), mode="nearest-exact").squeeze(1).to(label.dtype)


def _dice_loss(probabilities: Tensor, target: Tensor, known: Tensor | None, batch_dice: bool) -> Tensor:
    if known is not None:
        probabilities, target = probabilities * known.unsqueeze(1), target * known.unsqueeze(1)
    axes = (2, 3, 4)
    overlap, predicted, reference = (probabilities * target).sum(axes), probabilities.sum(axes), target.sum(axes)
    if batch_dice:
        overlap, predicted, reference = overlap.sum(0), predicted.sum(0), reference.sum(0)
    return 1 - ((2 * overlap + SMOOTH) / (predicted + reference + SMOOTH).clamp_min(1e-8)).mean()


def _masked_mean(values: Tensor, known: Tensor | None) -> Tensor:
    return values.mean() if known is None else (values * known).sum() / known.sum().clamp_min(1)
