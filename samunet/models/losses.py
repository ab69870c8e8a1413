"""Segmentation losses on (B, K, D, H, W) logits.

Source: Dice with cross-entropy, deep supervision weights and the ignore label follow nnU-Net (Isensee et al., 2021);
the batch-wise loss follows SAMed (Zhang and Liu, 2023) and MA-SAM (Chen et al., 2024).
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
    return deep_supervision_terms(deep_supervision_sums([logits], label, labels, batch_dice=batch_dice), labels)


def deep_supervision_sums(
    outputs: Sequence[Tensor], label: Tensor, labels: Labels, *, batch_dice: bool
) -> dict[str, Tensor]:
    """Return the sums over voxels and batch that `deep_supervision_terms` needs; sums of several batches add up.

    Args:
        outputs: (B, K, D, H, W) logits of falling resolution; labels are brought to each by nearest neighbour.
        label, labels, batch_dice: as for `segmentation_terms`.

    Returns:
        For every level l "entropy.l" and "voxels.l", scalars; with `batch_dice` "overlap.l", "predicted.l" and
        "reference.l" of each foreground class, else "dice.l" and "dices.l": sum and number of the Dice values of
        samples and classes.
    """
    sums = {}
    for level, logits in enumerate(outputs):
        target = label if logits.shape[2:] == label.shape[1:] else nearest(label, logits.shape[2:])
        for name, value in _level_sums(logits, target, labels, batch_dice).items():
            sums[f"{name}.{level}"] = value
    return sums


def deep_supervision_terms(sums: dict[str, Tensor], labels: Labels) -> dict[str, Tensor]:
    """Return the named terms of `deep_supervision_sums`, levels weighted 1, 1/2, 1/4, ... of what adds up to one."""
    levels = sum(name.startswith("entropy.") for name in sums)
    entropy, dice = [], []
    for level in range(levels):
        part = {name.rsplit(".", 1)[0]: value for name, value in sums.items() if name.endswith(f".{level}")}
        share = 0.5**level / sum(0.5**other for other in range(levels))
        entropy.append(share * part["entropy"] / part["voxels"].clamp_min(1))
        pooled = "overlap" in part
        mean = (
            _dice(part["overlap"], part["predicted"], part["reference"]).mean()
            if pooled
            else part["dice"] / part["dices"]
        )
        dice.append(share * (1 - mean))
    return {"bce" if labels.has_regions else "ce": torch.stack(entropy).sum(), "dice": torch.stack(dice).sum()}


def _level_sums(logits: Tensor, label: Tensor, labels: Labels, batch_dice: bool) -> dict[str, Tensor]:
    entropy, probabilities, target, voxels = _compare(logits, label, labels)
    if not labels.has_regions:  # background has no Dice of its own
        probabilities, target = probabilities[:, 1:], target[:, 1:]
    axes = (2, 3, 4)
    overlap, predicted, reference = (probabilities * target).sum(axes), probabilities.sum(axes), target.sum(axes)
    sums = {"entropy": entropy.sum(), "voxels": voxels}
    if batch_dice:
        return sums | {"overlap": overlap.sum(0), "predicted": predicted.sum(0), "reference": reference.sum(0)}
    dice = _dice(overlap, predicted, reference)
    return sums | {"dice": dice.sum(), "dices": torch.full_like(voxels, dice.numel())}


def _compare(logits: Tensor, label: Tensor, labels: Labels) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the cross-entropy (B, D, H, W), probabilities and targets (B, K, D, H, W), and the number of voxels.

    The first three are zero where the label has the ignore value, and such voxels are not counted.
    """
    logits = logits if logits.dtype is torch.float64 else logits.float()
    target = output_targets(label, labels).to(logits.dtype)
    if labels.has_regions:
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(1)
        probabilities = logits.sigmoid()
    else:
        entropy = F.cross_entropy(logits, class_indices(label, labels), reduction="none")
        probabilities = logits.softmax(1)
    if labels.ignore is None:
        return entropy, probabilities, target, logits.new_tensor(float(entropy.numel()))
    known = known_voxels(label, labels)
    return entropy * known, probabilities * known.unsqueeze(1), target, known.sum().to(logits.dtype)


def known_voxels(label: Tensor, labels: Labels) -> Tensor:
    """Return where (B, D, H, W) labels do not have the ignore value."""
    return torch.ones_like(label, dtype=torch.bool) if labels.ignore is None else label != labels.ignore


def class_indices(label: Tensor, labels: Labels) -> Tensor:
    """Return (B, D, H, W) labels as int64, with background in the place of the ignore value."""
    index = label.long()
    return index if labels.ignore is None else index.masked_fill(label == labels.ignore, 0)


def output_targets(label: Tensor, labels: Labels) -> Tensor:
    """Turn (B, D, H, W) labels into (B, K, D, H, W) masks, 0 or 1, of classes or regions; zero where ignored."""
    if labels.has_regions:
        return region_targets(label, labels)
    masks = F.one_hot(class_indices(label, labels), labels.outputs).movedim(-1, 1)
    return masks if labels.ignore is None else masks * known_voxels(label, labels).unsqueeze(1)


def region_targets(label: Tensor, labels: Labels) -> Tensor:
    """Turn (B, D, H, W) label values into (B, R, D, H, W) float region masks."""
    regions = [torch.stack([label == value for value in values]).any(0) for _, values in labels.foreground]
    return torch.stack(regions, dim=1).float()


def nearest(label: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring (B, D, H, W) integer labels to another (D, H, W) by nearest neighbour."""
    return F.interpolate(label.unsqueeze(1).float(), size=tuple(shape), mode="nearest-exact").squeeze(1).to(label.dtype)


def slab_sums(logits: Tensor, label: Tensor, labels: Labels) -> dict[str, Tensor]:
    """Return the sums over voxels and batch that `slab_terms` needs; sums of several batches add up to those of all.

    Args:
        logits: (B, K, D, H, W), any float type.
        label: (B, D, H, W) integers.
        labels: what the integers mean; voxels with the ignore value count for nothing.

    Returns:
        "entropy" and "voxels", scalars; "overlap", "predicted" and "reference", (K,): sums of p*y, p*p and y*y.
    """
    entropy, probabilities, target, voxels = _compare(logits, label, labels)
    axes = (0, 2, 3, 4)
    return {
        "entropy": entropy.sum(),
        "voxels": voxels,
        "overlap": (probabilities * target).sum(axes),
        "predicted": (probabilities * probabilities).sum(axes),
        "reference": target.sum(axes),
    }


def slab_terms(sums: dict[str, Tensor], *, entropy_share: float = ENTROPY_SHARE) -> dict[str, Tensor]:
    """Return 0.2 cross-entropy and 0.8 Dice loss from the sums of a whole batch, the objective of SAMed and MA-SAM.

    `entropy_share` gives another share than 0.2.

    Dice is taken over the batch with squared denominators, and averaged over all K channels, background included. A
    class that is absent from the batch pushes its probability down, so small batches train another objective.
    """
    dice = (2 * sums["overlap"] + SMOOTH) / (sums["predicted"] + sums["reference"] + SMOOTH)
    return {
        "ce": entropy_share * sums["entropy"] / sums["voxels"].clamp_min(1),
        "dice": (1 - entropy_share) * (1 - dice.mean()),
    }


def _dice(overlap: Tensor, predicted: Tensor, reference: Tensor) -> Tensor:
    return (2 * overlap + SMOOTH) / (predicted + reference + SMOOTH).clamp_min(1e-8)
