"""The set criterion: each target mask finds the query that fits it best, and the losses follow that assignment.

Source: Carion et al., DETR, ECCV 2020; Cheng et al., Mask2Former, CVPR 2022 (costs on points); Xie et al., MaskSAM,
ICCV 2025 (auxiliary masks and boxes, weights). Axes: B batch, D slices, N = B*D, Q queries, K targets (classes with
background, or regions), P points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from samunet.models.point_loss import mask_loss
from samunet.models.prompt_tokens import extent

NO_OBJECT = 0.1  # weight of a query without a target in the cross-entropy
WORST = 1e4  # stands for a cost that is no number, so that the step ends where losses are checked
CANDIDATES = 2  # points drawn for each that is kept


@dataclass(frozen=True, kw_only=True)
class SetWeights:
    """Weights of the terms, the same in costs and losses; the defaults are MaskSAM's."""

    classes: float = 0.2
    masks: float = 1.5
    auxiliary: float = 0.5
    box: float = 0.5
    giou: float = 0.2
    points: int = 32768
    """Pixels of a slice at which masks are compared; all of them where it has no more."""
    match: str = "slice"
    """"slice": every slice has an assignment of its own; "volume": a slab has one."""


class Said(NamedTuple):
    """What a network says, on the patch's grid."""

    masks: Tensor
    """(B, Q, D, H, W) logits."""
    auxiliary: Tensor
    """(B, Q, D, H, W) logits."""
    boxes: Tensor
    """(B, D, Q, 4) shares of the patch's plane."""
    classes: Tensor
    """(B, D, Q, K + 1) logits."""


def set_sums(said: Said, targets: Tensor, known: Tensor, weights: SetWeights) -> dict[str, Tensor]:
    """Match and return the sums from which `set_terms` computes the loss; those of several batches add up.

    Args:
        targets: (B, K, D, H, W) masks, 0 or 1.
        known: (B, D, H, W) 1 where a voxel counts.
    """
    with torch.autocast(said.masks.device.type, enabled=False):  # sums over so many points overflow in 16 bits
        return _sums(Said(*(part.float() for part in said)), targets, known, weights)


def _sums(said: Said, targets: Tensor, known: Tensor, weights: SetWeights) -> dict[str, Tensor]:
    size, queries, depth = said.masks.shape[:3]
    flat = _flat(said.masks), _flat(said.auxiliary), _flat(targets), known.flatten(0, 1).flatten(1).float()
    present, seen = (flat[2] * flat[3].unsqueeze(1)).sum(-1) > 0, flat[3].any(-1)
    boxes, classes = said.boxes.flatten(0, 1), said.classes.flatten(0, 1)
    target_boxes = tight_boxes((targets * known.unsqueeze(1) > 0).movedim(1, 2).flatten(0, 1))
    with torch.no_grad():
        places = _points(flat[3], weights.points)
        masks, auxiliary, target_values = (
            part.gather(-1, places.unsqueeze(1).expand(-1, part.shape[1], -1)) for part in flat[:3]
        )
        counted = flat[3].gather(-1, places)
        of_masks = weights.masks * _pairwise(masks, target_values, counted)
        of_masks = of_masks + weights.auxiliary * _pairwise(auxiliary, target_values, counted)
        costs = _costs(of_masks, boxes, target_boxes, classes, weights)
        slices, query, target = _assign(costs, present, depth if weights.match == "volume" else 1)
    true_class = torch.full((size * depth, queries), classes.shape[-1] - 1, device=classes.device)
    true_class[slices, query] = target
    share = torch.where(true_class == classes.shape[-1] - 1, NO_OBJECT, 1.0) * seen.unsqueeze(1)
    entropy = F.cross_entropy(classes.flatten(0, 1), true_class.flatten(), reduction="none").view_as(share)
    mask, auxiliary = (
        mask_loss(part[slices, query], flat[2][slices, target], flat[3][slices], weights.points, CANDIDATES)
        for part in flat[:2]
    )
    box, wanted_box = boxes[slices, query], target_boxes[slices, target]
    return {
        "class": (entropy * share).sum(),
        "share": share.sum(),
        "mask": mask.sum(),
        "auxiliary": auxiliary.sum(),
        "box": (box - wanted_box).abs().sum(),
        "giou": (1 - generalized_iou(box, wanted_box)).sum(),
        "targets": share.new_tensor(float(len(slices))),
    }


def set_terms(sums: dict[str, Tensor], weights: SetWeights) -> dict[str, Tensor]:
    """Return the named terms: cross-entropy over all queries, and the rest a target."""
    count = sums["targets"].clamp_min(1)
    return {
        "class": weights.classes * sums["class"] / sums["share"].clamp_min(NO_OBJECT),
        "mask": weights.masks * sums["mask"] / count,
        "auxiliary": weights.auxiliary * sums["auxiliary"] / count,
        "box": weights.box * sums["box"] / count,
        "giou": weights.giou * sums["giou"] / count,
    }


def generalized_iou(first: Tensor, second: Tensor) -> Tensor:
    """Return the generalized IoU (Rezatofighi et al., CVPR 2019) of (..., 4) boxes x1, y1, x2, y2, in [-1, 1].

    That of two empty boxes at one place is 0.
    """
    starts, ends = (first[..., :2], second[..., :2]), (first[..., 2:], second[..., 2:])
    overlap = (torch.minimum(*ends) - torch.maximum(*starts)).clamp_min(0).prod(-1)
    hull = (torch.maximum(*ends) - torch.minimum(*starts)).clamp_min(0).prod(-1)
    one, other = ((end - start).clamp_min(0).prod(-1) for start, end in zip(starts, ends, strict=True))
    union, tiny = one + other - overlap, torch.finfo(first.dtype).tiny
    return overlap / union.clamp_min(tiny) - (hull - union) / hull.clamp_min(tiny)


def tight_boxes(masks: Tensor) -> Tensor:
    """Return the boxes of (..., H, W) boolean masks as (..., 4) shares x1, y1, x2, y2 of the plane; empty: zeros."""
    sides = [torch.stack(extent(masks.any(axis)), dim=-1) / masks.shape[other] for axis, other in ((-2, -1), (-1, -2))]
    return torch.stack(sides, dim=-1).flatten(-2) * masks.flatten(-2).any(-1).unsqueeze(-1)


def _flat(volumes: Tensor) -> Tensor:
    """(B, Q, D, H, W) to (N, Q, H*W)."""
    return volumes.movedim(1, 2).flatten(0, 1).flatten(2)


def _points(known: Tensor, count: int) -> Tensor:
    """Draw the same random pixels for all masks of a slice, (N, P); all pixels where there are no more."""
    pixels = known.shape[-1]
    if pixels <= count:
        return torch.arange(pixels, device=known.device).expand(len(known), -1)
    return torch.randint(pixels, (len(known), count), device=known.device)


def _costs(masks: Tensor, boxes: Tensor, target_boxes: Tensor, classes: Tensor, weights: SetWeights) -> Tensor:
    """Return what it costs to give a target to a query, (N, Q, K); `masks` is what their masks cost."""
    apart = (boxes.unsqueeze(2) - target_boxes.unsqueeze(1)).abs().sum(-1)
    alike = generalized_iou(boxes.unsqueeze(2), target_boxes.unsqueeze(1))
    likely = classes.softmax(-1)[..., :-1]
    return masks + weights.box * apart - weights.giou * alike - weights.classes * likely


def _pairwise(logits: Tensor, targets: Tensor, known: Tensor) -> Tensor:
    """Return cross-entropy and Dice loss of every query with every target, (N, Q, P) and (N, K, P) to (N, Q, K)."""
    known = known.unsqueeze(1)
    count, chances = known.sum(-1, keepdim=True).clamp_min(1), logits.sigmoid() * known
    wanted = (targets * known).transpose(1, 2)
    entropy = ((F.softplus(logits) * known).sum(-1, keepdim=True) - logits @ wanted) / count
    dice = 1 - (2 * chances @ wanted + 1) / (chances.sum(-1, keepdim=True) + wanted.sum(1).unsqueeze(1) + 1)
    return entropy + dice


def _assign(costs: Tensor, present: Tensor, depth: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return slice, query and target of every match; a target counts where it is present.

    Args:
        depth: slices that are matched together.
        costs: (N, Q, K).
        present: (N, K).
    """
    grouped, there = costs.unflatten(0, (-1, depth)).cpu(), present.unflatten(0, (-1, depth)).cpu()
    summed = (grouped * there.unsqueeze(2)).sum(1).nan_to_num(WORST, WORST, -WORST).numpy()
    matches = []
    for slab, table in enumerate(summed):
        columns = there[slab].any(0).nonzero().flatten().numpy()
        rows, assigned = linear_sum_assignment(table[:, columns])
        for query, target in zip(rows.tolist(), columns[assigned].tolist(), strict=True):
            places = there[slab, :, target].nonzero().flatten().tolist()
            matches += [(slab * depth + place, query, target) for place in places]
    slices, queries, targets = torch.tensor(sorted(matches), dtype=torch.long, device=costs.device).reshape(-1, 3).T
    return slices, queries, targets
