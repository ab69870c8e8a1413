"""Segmentation losses on (B, K, D, H, W) logits.

Source: Dice with cross-entropy, deep supervision weights and the ignore label follow nnU-Net (Isensee et al., 2021); the
batch-wise loss follows SAMed (Zhang and Liu, 2023) and MA-SAM (Chen et al., 2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.core.labels import Labels

SMOOTH = 1e-5  # nnU-Net's, and SAMed's
ENTROPY_SHARE = 0.2  # SAMed's and MA-SAM's


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


def slab_sums(logits: Tensor, label: Tensor, labels: Labels) -> dict[str, Tensor]:
    """Return the sums over voxels and batch that `slab_terms` needs; sums of several batches add up to those of all of them.

    Args:
        logits: (B, K, D, H, W), any float type.
        label: (B, D, H, W) integers.
        labels: what the integers mean; voxels with the ignore value count for nothing.

    Returns:
        "entropy" and "voxels", scalars; "overlap", "predicted" and "reference", (K,): sums of p*y, p*p and y*y.
    """
    logits = logits if logits.dtype is torch.float64 else logits.float()
    known = torch.ones_like(label, dtype=torch.bool) if labels.ignore is None else (label != labels.ignore)
    if labels.has_regions:
        target = region_targets(label, labels)
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
        probabilities = logits.sigmoid()
    else:
        index = label.long().masked_fill(~known, 0)
        entropy = F.cross_entropy(logits, index, reduction="none")
        target, probabilities = F.one_hot(index, logits.shape[1]).movedim(-1, 1).to(logits.dtype), logits.softmax(1)
    probabilities, target = probabilities * known.unsqueeze(1), target * known.unsqueeze(1)
    axes = (0, 2, 3, 4)
    return {
        "entropy": (entropy * known).sum(),
        "voxels": known.sum().to(logits.dtype),
        "overlap": (probabilities * target).sum(axes),
        "predicted": (probabilities * probabilities).sum(axes),
        "reference": target.sum(axes),
    }


def slab_terms(sums: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return 0.2 cross-entropy and 0.8 Dice loss from the sums of a whole batch, the objective of SAMed and MA-SAM.

    Dice is taken over the batch with squared denominators, and averaged over all K channels, background included. A class
    that is absent from the batch pushes its probability down, so small batches train another objective.
    """
    dice = (2 * sums["overlap"] + SMOOTH) / (sums["predicted"] + sums["reference"] + SMOOTH)
    return {"ce": ENTROPY_SHARE * sums["entropy"] / sums["voxels"].clamp_min(1), "dice": (1 - ENTROPY_SHARE) * (1 - dice.mean())}


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
