"""SAM-MPA: labels that registration brings onto an image become prompts, and a model's answers are held against them.

Axes: K classes, D H W voxels, H W pixels of a plane.

Source: the paper's abstract (arXiv 2411.17363) fixes the steps; the numbers here are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import edt
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from samunet.core.geometry import Shape
from samunet.fewshot.examples import Example
from samunet.fewshot.likeness import plane_spacing, planes_of
from samunet.fewshot.models import Look, PlaneModel, PlanePrompts
from samunet.fewshot.per_sam import box_of
from samunet.fewshot.registration import Warped
from samunet.ops.overlap import overlap

SHARPNESS = 10.0  # of the weights by likeness
PIXELS_A_POINT, MOST_POINTS = 400, 5
NEGATIVES = 4
NEAR, FAR = 3, 7  # pixels beyond a structure's border between which it is certain that it has ended
UNLIKELY = 0.1
BOX_PIXELS, BOX_SHARE = 2, 0.05
STRONGEST = 8.0  # logit of the mask prompt
ACCEPTED = 0.5  # IoU with the registered label below which that is kept
REACH_MM = 10.0


@dataclass(frozen=True)
class Chances:
    """The chance of each class on an image, kept on a reduced grid: of a hundred classes it would not fit a memory."""

    soft: np.ndarray
    """(K, d, h, w) float32, 0 to 1, on the whole extent of the image."""
    shape: Shape
    """(D, H, W) of the image."""

    def of(self, number: int) -> np.ndarray:
        """Return the (D, H, W) chance of one class, enlarged linearly."""
        soft = torch.from_numpy(self.soft[number])[None, None]
        return F.interpolate(soft, size=self.shape, mode="trilinear")[0, 0].numpy()

    def plane(self, axis: int, index: int) -> np.ndarray:
        """Return the (K, H, W) chances on one plane across an axis, as `of` enlarges them."""
        soft = np.moveaxis(self.soft, axis + 1, 0)
        place = max((index + 0.5) * len(soft) / self.shape[axis] - 0.5, 0.0)
        before, share = int(place), np.float32(place % 1)
        between = soft[before] * (1 - share) + soft[min(before + 1, len(soft) - 1)] * share
        size = [side for number, side in enumerate(self.shape) if number != axis]
        return F.interpolate(torch.from_numpy(between)[None], size=size, mode="bilinear")[0].numpy()


def combined(warped: Sequence[Warped], shape: Shape) -> Chances:
    """Return the chances of all classes on an image of that (D, H, W) shape, by several warped labels."""
    weights = np.exp(SHARPNESS * np.array([one.likeness for one in warped]))
    weights /= weights.sum()
    soft = sum(np.float32(weight) * one.soft for weight, one in zip(weights, warped, strict=True))
    return Chances(soft=np.asarray(soft, np.float32), shape=shape)


def most_likely(chances: Chances, values: Sequence[int]) -> tuple[np.ndarray, dict[int, float]]:
    """Find the likeliest class, where background is less likely than all classes together.

    Returns:
        (D, H, W) labels; and for each value its mean chance where that is above a half, 0 where it nowhere is.
    """
    label, best, total = (np.zeros(chances.shape, kind) for kind in (np.int32, np.float32, np.float32))
    sure = {}
    for number, value in enumerate(values):
        chance = chances.of(number)
        total += chance
        wins, likely = chance > best, chance > 0.5
        label[wins], best[wins] = value, chance[wins]
        sure[value] = float(chance[likely].mean()) if likely.any() else 0.0
    label[total <= 0.5] = 0
    return label, sure


def prompts_from(chance: np.ndarray) -> PlanePrompts | None:
    """Make points, box and mask of a (H, W) chance; None where it is nowhere above a half. The mask is left out."""
    region = chance > 0.5
    box = box_of(region)
    if box is None:
        return None
    positive = _peaks(region, int(np.clip(round(region.sum() / PIXELS_A_POINT), 1, MOST_POINTS)))
    away = ndimage.distance_transform_edt(~region)
    ring = np.argwhere((away > NEAR) & (away <= FAR) & (chance < UNLIKELY))
    grown = [BOX_PIXELS + BOX_SHARE * (box[side + 2] - box[side] + 1) for side in (0, 1)]
    top, left, bottom, right = box
    wider = (
        max(0, round(top - grown[0])),
        max(0, round(left - grown[1])),
        min(chance.shape[0] - 1, round(bottom + grown[0])),
        min(chance.shape[1] - 1, round(right + grown[1])),
    )
    return PlanePrompts(inside=positive, outside=_spread(ring, NEGATIVES), box=wider)


def _peaks(region: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` places deep inside a region and apart from each other by half the greatest depth."""
    depth = edt.edt(np.ascontiguousarray(region), black_border=True)
    apart, rows = 0.5 * depth.max(), np.indices(region.shape)
    places: list[tuple[np.intp, ...]] = []
    while len(places) < count and depth.max() > 0:
        place = np.unravel_index(int(depth.argmax()), depth.shape)
        places.append(place)
        depth[np.hypot(rows[0] - place[0], rows[1] - place[1]) <= max(apart, 1)] = 0
    return np.array(places)


def _spread(places: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` of (n, 2) places, each the farthest from those before."""
    if not len(places):
        return np.empty((0, 2))
    chosen = [places[0]]
    while len(chosen) < min(count, len(places)):
        distances = np.min([np.hypot(*(places - one).T) for one in chosen], axis=0)
        chosen.append(places[int(distances.argmax())])
    return np.array(chosen)


def decoded(model: PlaneModel, look: Look, chance: np.ndarray) -> tuple[np.ndarray, float] | None:
    """Segment a plane by the (H, W) chance of one structure, in two passes; None where it is absent.

    Returns:
        (H, W) bool, and the expected IoU.
    """
    prompts = prompts_from(chance)
    if prompts is None:
        return None
    clipped = np.clip(chance, 1e-4, 1 - 1e-4)
    logits = np.clip(np.log(clipped / (1 - clipped)), -STRONGEST, STRONGEST)
    mask = look.frame.reduce(logits, model.mask_side, -STRONGEST)
    first = model.decode(look, prompts._replace(mask=mask)).raw[0]
    raw, quality = model.decode(look, prompts._replace(mask=first)).best()
    region = chance > 0.5
    answer = _refined(look.frame.enlarge(raw) > 0, region)
    counts = overlap(region, answer, (1,), None)
    return (answer, quality) if counts.iou >= ACCEPTED else (region, 0.0)


def _refined(answer: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Keep the pieces of an answer that touch where the structure is expected, and fill their holes."""
    pieces, _ = ndimage.label(answer)
    touched = np.unique(pieces[region & answer])
    return ndimage.binary_fill_holes(np.isin(pieces, touched[touched > 0]))


def segment(
    model: PlaneModel, image: Example, axis: int, chances: Chances, values: Sequence[int]
) -> tuple[np.ndarray, dict[int, float]]:
    """Segment an image by the chances that registration gives.

    Returns:
        (D, H, W) labels; and for each value the mean expected IoU of its slices.
    """
    planes, spacing = planes_of(image.volume, axis), plane_spacing(image.volume, axis)
    masks: dict[int, dict[int, np.ndarray]] = {number: {} for number in range(len(values))}  # of planes, packed
    scores: dict[int, list[float]] = {value: [] for value in values}
    for index, plane in enumerate(planes):
        on_plane = chances.plane(axis, index)
        there = [int(number) for number in np.flatnonzero((on_plane > 0.5).any((1, 2)))]
        if not there:
            continue
        look = model.encode(plane, spacing)
        for number in there:
            found = decoded(model, look, on_plane[number])
            if found is not None:
                masks[number][index] = np.packbits(found[0])
                scores[values[number]].append(found[1])
    label, best = np.zeros(chances.shape, np.int32), np.zeros(chances.shape, np.float32)
    for number, value in enumerate(values):
        if masks[number]:
            sliced = np.zeros((len(planes), *planes[0].shape[1:]), bool)
            for index, packed in masks[number].items():
                sliced[index] = np.unpackbits(packed, count=sliced[index].size).reshape(sliced[index].shape)
            mask, own = np.moveaxis(sliced, 0, axis), chances.of(number)
            if len(planes) > 2 and mask.any():
                mask = _settled(mask, own > 0.5, axis, image.volume.geometry.spacing)
            won = mask & (own + 1e-6 > best)
            label[won], best[won] = value, own[won] + 1e-6
    return label, {value: float(np.mean(scores[value])) if (label == value).any() else 0.0 for value in values}


def _settled(mask: np.ndarray, region: np.ndarray, axis: int, spacing: Sequence[float]) -> np.ndarray:
    """Smooth a (D, H, W) mask across slices, by the median of three signed distances, within reach of a region; what
    has no neighbor stays.
    """
    planes = np.moveaxis(mask, axis, 0)
    distances = np.stack(
        [edt.edt(np.ascontiguousarray(plane)) - edt.edt(np.ascontiguousarray(~plane)) for plane in planes]
    )
    settled = ndimage.median_filter(distances, (3, 1, 1), mode="nearest") > 0
    beside = np.pad(planes.any((1, 2)), 1)
    alone = ~(beside[:-2] | beside[2:])
    settled[alone] = planes[alone]
    smooth = np.moveaxis(settled, 0, axis)
    if not region.any():
        return smooth
    return smooth & (edt.edt(np.ascontiguousarray(~region), anisotropy=tuple(spacing)) <= REACH_MM)
