"""Validation after an epoch: loss and Dice of patches, and what the Dice decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from samunet.core.batch import Batch
from samunet.core.labels import Labels
from samunet.machine.hardware import autocast
from samunet.models.losses import region_targets
from samunet.models.segmenter import SlabSegmenter
from samunet.training.processes import Processes

SMOOTHING = 0.9  # nnU-Net's, of the Dice that chooses checkpoint_best


@torch.no_grad()
def validate_patches(
    model: SlabSegmenter,
    batches: Iterable[Batch],
    labels: Labels,
    *,
    device: torch.device,
    precision: torch.dtype | None,
    processes: Processes,
) -> tuple[float, list[float]]:
    """Return the mean loss and the Dice of each foreground class or region over all patches together.

    Args:
        batches: this process's share of the patches, anywhere.
        precision: the autocast type; None for fp32.
    """
    model.eval()
    losses, counts = torch.zeros(2), torch.zeros(3, len(labels.foreground))
    for batch in (to_device(batch, device) for batch in batches):
        with autocast(device, precision):
            loss = torch.stack(list(model.loss(batch).values())).sum()
            logits = model.answer(batch)
        losses += torch.tensor([float(loss), 1.0]) * len(batch.image)
        counts += count_voxels(logits.float(), batch.label, labels).cpu()
    summed = processes.sum({"losses": losses.to(device), "counts": counts.to(device)})
    both, predicted, reference = summed["counts"].cpu()
    return float(summed["losses"][0] / summed["losses"][1]), (2 * both / (predicted + reference)).tolist()


def count_voxels(logits: Tensor, label: Tensor, labels: Labels) -> Tensor:
    """Count the voxels in both, in the prediction and in the reference, for each foreground class or region.

    Args:
        logits: (B, K, D, H, W).
        label: (B, D, H, W).

    Returns:
        (3, R).
    """
    reference = region_targets(label, labels)
    counted = 1.0 if labels.ignore is None else (label != labels.ignore).unsqueeze(1)
    predicted = (logits > 0).float() if labels.has_regions else region_targets(logits.argmax(1), labels)
    axes = (0, 2, 3, 4)
    return torch.stack([(part * counted).sum(axes) for part in (predicted * reference, predicted, reference)])


def mean_of_present(dice: Sequence[float]) -> float:
    """Return the mean Dice of the classes that occur; a class that is nowhere has none (NaN). 0 where none occurs."""
    present = [value for value in dice if not math.isnan(value)]
    return sum(present) / len(present) if present else 0.0


def smoothed(mean: float, earlier: Sequence[float]) -> float:
    """Return the moving average of the Dice with this epoch's; `earlier` holds that of the epochs before."""
    return SMOOTHING * earlier[-1] + (1 - SMOOTHING) * mean if earlier else mean


def epochs_without_better(values: Mapping[str, Sequence[float]], since: int) -> int:
    """Return how many epochs lie behind the best Dice, or behind epoch `since` where that is later."""
    dice = values.get("whole_dice") or values.get("ema_fg_dice", [])
    return len(dice) - max(dice.index(max(dice)) + 1, since) if dice else 0


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return a batch on the device; pinned memory is copied while the device works."""
    return Batch(image=batch.image.to(device, non_blocking=True), label=batch.label.to(device, non_blocking=True))
