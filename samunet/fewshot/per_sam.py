"""PerSAM and PerSAM-F on slices: a reference's likeness gives clicks and guidance, and answers become prompts again.

Axes: H W pixels of a plane, h w its tokens, r pixels along a side of a model's masks, N slices.

Source: Zhang et al., Personalize Segment Anything Model with One Shot (ICLR 2024). Prototypes by the position of
slices, the test for presence and the competition of classes are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.fewshot.examples import Example
from samunet.fewshot.likeness import Likeness, depth_of, plane_spacing, planes_of
from samunet.fewshot.models import Answer, Guidance, Look, PlaneModel, PlanePrompts

# Of fitting the weights: a quarter of the released steps at four times their rate, so that weights move as far.
STEPS, RATE, LEAST_STEP, DECAY = 250, 4e-3, 1e-4, 0.01
ALPHA, GAMMA = 0.25, 2.0  # of the focal loss
MOST_SLICES, FINEST = (
    8,
    64,
)  # that weights are fitted to, and pixels along a side of them; the release has one, full size


@dataclass(frozen=True, kw_only=True)
class Found:
    """One structure in one slice."""

    logits: np.ndarray
    """(H, W)."""
    score: float
    """Expected IoU times similarity, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class Clues:
    """What a plane's likeness to a structure gives."""

    prompts: PlanePrompts
    guidance: Guidance
    similarity: float
    """The highest."""


def clues(model: PlaneModel, look: Look, likeness: Likeness, depth: float, form: str) -> Clues | None:
    """Compare a plane with a structure's prototypes; None where it seems to have nothing of it."""
    tokens = model.tokens(look)
    seen = likeness.at(look.frame.cells(tokens), depth)
    if seen is None or float(seen[0].max()) < likeness.threshold:
        return None
    alike, prototype = seen
    finer = F.interpolate(alike[None, None], scale_factor=4, mode="bilinear")
    fine = F.interpolate(finer, size=look.frame.shape, mode="bilinear")[0, 0].numpy()
    best, worst = (np.unravel_index(int(index), fine.shape) for index in (fine.argmax(), fine.argmin()))
    # PerSAM squeezes the map of the unpadded image into the padded square, which misplaces it; here padding follows.
    attention = ((alike - alike.mean()) / alike.std().clamp_min(1e-6)).sigmoid()
    padding = [tokens.shape[axis] - alike.shape[axis - 1] for axis in (1, 2)]
    attention = F.pad(attention, (0, padding[1], 0, padding[0]), value=float(attention.min()))
    return Clues(
        prompts=PlanePrompts(inside=np.array([best]), outside=np.array([worst])),
        guidance=Guidance(prototype.features, attention, form),
        similarity=min(max(float(alike.max()), 0.0), 1.0),
    )


def cascade(model: PlaneModel, look: Look, prompts: PlanePrompts, first: Tensor) -> tuple[np.ndarray, float] | None:
    """Refine a first (r, r) mask twice: as a mask prompt, then with its box too; None where nothing is left."""
    raw, _ = model.decode(look, prompts._replace(mask=first), several=True).best()
    box = box_of(look.frame.enlarge(raw) > 0)
    if box is None:
        return None
    raw, quality = model.decode(look, prompts._replace(mask=raw, box=box), several=True).best()
    return look.frame.enlarge(raw), quality


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the first and last row and column of a (H, W) mask, as `PlanePrompts.box`; None for an empty one."""
    rows, columns = np.nonzero(mask)
    return (rows.min(), columns.min(), rows.max(), columns.max()) if len(rows) else None


def find(
    model: PlaneModel,
    look: Look,
    likeness: Likeness,
    depth: float,
    *,
    form: str,
    weights: Tensor | None = None,
) -> Found | None:
    """Segment one structure in one plane.

    Args:
        weights: (3,) of the candidates for PerSAM-F; None is PerSAM.
    """
    shown = clues(model, look, likeness, depth, form)
    if shown is None:
        return None
    prompts = shown.prompts
    if weights is None:
        first, quality = model.guided(look, prompts, shown.guidance).best()
    else:
        prompts = PlanePrompts(inside=prompts.inside)
        answer = model.candidates(look, prompts, shown.guidance)
        first, quality = torch.einsum("m,mhw->hw", weights, answer.raw), answer.best()[1]
    plane = look.frame.enlarge(first)
    box = box_of(plane > 0)
    if not likeness.one_piece:  # a click leads the cascade to one of the pieces
        refined = None if box is None else (plane, quality)
    elif weights is None:
        refined = cascade(model, look, prompts, first)
    else:
        refined = None if box is None else cascade(model, look, prompts._replace(box=box), first)
    if refined is None:
        return None
    return Found(logits=refined[0], score=refined[1] * shown.similarity)


def find_all(
    model: PlaneModel,
    image: Example,
    axis: int,
    likenesses: Mapping[int, Likeness],
    *,
    form: str,
    weights: Mapping[int, Tensor] | None = None,
) -> tuple[np.ndarray, dict[int, float]]:
    """Segment an image; where structures overlap, the higher score counts.

    Args:
        likenesses: by label value.
        weights: by label value, for PerSAM-F.

    Returns:
        (D, H, W) labels, and the mean score of each structure over its slices, 0 where it is not found.
    """
    planes, spacing = planes_of(image.volume, axis), plane_spacing(image.volume, axis)
    label, scores = np.zeros((len(planes), *planes[0].shape[1:]), np.int32), {value: [0.0] for value in likenesses}
    for index, plane in enumerate(planes):
        look, best = model.encode(plane, spacing), np.zeros(plane.shape[1:], np.float32)
        for value, likeness in likenesses.items():
            chosen = None if weights is None else weights[value]
            depth = depth_of(index, len(planes))
            found = find(model, look, likeness, depth, form=form, weights=chosen)
            if found is not None:
                wins = (found.logits > 0) & (found.score > best)
                label[index][wins], best[wins] = value, found.score
                scores[value].append(found.score)
    means = {value: float(np.mean(parts[1:] or parts)) for value, parts in scores.items()}
    return np.moveaxis(label, 0, axis), means


def fit_weights(
    model: PlaneModel, examples: Sequence[Example], axis: int, likenesses: Mapping[int, Likeness], *, form: str
) -> dict[int, Tensor]:
    """Fit PerSAM-F's weights of the three candidates, by label value, to slices of all references."""
    weights = {}
    for value, likeness in likenesses.items():
        shown, targets = [], []
        for example, index in _largest(examples, axis, value):
            planes, labels = planes_of(example.volume, axis), np.moveaxis(example.known(), axis, 0)
            look = model.encode(planes[index], plane_spacing(example.volume, axis))
            # The structure is there, whatever the test for presence says.
            certain = Likeness(prototypes=likeness.prototypes, threshold=-1.0)
            given = clues(model, look, certain, depth_of(index, len(planes)), form)
            if given is not None:
                answer: Answer = model.candidates(look, PlanePrompts(inside=given.prompts.inside), given.guidance)
                side, mask = min(FINEST, model.mask_side), (labels[index] == value).astype(np.float32)
                shown.append(F.adaptive_avg_pool2d(answer.raw, side))
                targets.append((look.frame.reduce(mask, side, 0.0) > 0.5).float())
        weights[value] = fitted(torch.stack(shown), torch.stack(targets)) if shown else torch.full((3,), 1 / 3)
    return weights


def _largest(examples: Sequence[Example], axis: int, value: int) -> list[tuple[Example, int]]:
    """Return slices that show much of a structure, of every reference in turn."""
    each = []
    for example in examples:
        areas = (np.moveaxis(example.known(), axis, 0) == value).sum((1, 2))
        order = [int(index) for index in np.argsort(-areas) if areas[index]]
        each.append([(example, index) for index in order])
    ranked = [part[rank] for rank in range(MOST_SLICES) for part in each if rank < len(part)]
    return ranked[:MOST_SLICES]


def fitted(logits: Tensor, target: Tensor) -> Tensor:
    """Return the (3,) weights, which sum to 1, of (N, 3, r, r) logits that fit (N, r, r) masks best."""
    free = torch.nn.Parameter(torch.full((2,), 1 / 3))
    optimizer = torch.optim.AdamW([free], lr=RATE, eps=LEAST_STEP, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    logits, flat = logits.flatten(2), target.flatten(1)
    for _ in range(STEPS):
        mixed = torch.einsum("m,nmp->np", torch.cat([1 - free.sum()[None], free]), logits)
        chance = mixed.sigmoid()
        dice = 1 - (2 * (chance * flat).sum(1) + 1) / (chance.sum(1) + flat.sum(1) + 1)
        entropy = F.binary_cross_entropy_with_logits(mixed, flat, reduction="none")
        right = chance * flat + (1 - chance) * (1 - flat)
        focal = (ALPHA * flat + (1 - ALPHA) * (1 - flat)) * (1 - right) ** GAMMA * entropy
        optimizer.zero_grad()
        (dice.mean() + focal.mean()).backward()
        optimizer.step()
        schedule.step()
    return torch.cat([1 - free.sum()[None], free]).detach()
