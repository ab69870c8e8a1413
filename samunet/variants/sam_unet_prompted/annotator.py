"""A simulated annotator: first prompts for structures, and corrections where a network's answer is wrong.

Places are random, as people's are: anywhere within a structure, or far from its border. Everything is drawn from
torch's global generator, on the device of the masks. Axes: N structures, D H W voxels; D = 1 in 2D.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samunet.core.prompts import INSIDE, MASK, OUTSIDE
from samunet.models.prompt_tokens import clicks_in, simulated_boxes

SCRIBBLES = 0.2  # share of corrections that are scribbles, the others are clicks
THICKEST = 6  # voxels from the border beyond which all are equally far
BOX_OVERLAP = 0.75  # least IoU of a box with the tight one, in the plane
CURVES = 4  # cells of smooth noise along a plane, whose level lines are scribbles
LONGEST_SCRIBBLE = 0.25  # share of the plane's sides on either side of where it begins


def first_prompts(target: Tensor) -> Tensor:
    """Draw one prompt of a random kind for each structure: (N, D, H, W) bool, none of them empty, to a uint8 map."""
    shares = {clicks: 0.45, scribbles: 0.2, boxes: 0.2, parts: 0.15}  # a part is what a neighboring tile would show
    kinds = torch.multinomial(torch.tensor(list(shares.values())), len(target), replacement=True).to(target.device)
    drawn = torch.zeros_like(target, dtype=torch.uint8)
    for kind, make in enumerate(shares):
        asked = (kinds == kind).nonzero()[:, 0]
        if len(asked):
            drawn[asked] = make(target[asked])
    return drawn


def corrected(drawn: Tensor, answer: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Add a click or a scribble in the thickest error of each answer, and the answer itself as the previous mask.

    Args:
        drawn: (N, D, H, W) uint8 prompt map.
        answer, target: (N, D, H, W) bool.
        known: (N, D, H, W) bool; false where there is no annotation.
    """
    wrong = (answer != target) & known
    place = chosen_voxel(_thick(wrong))
    missed = (place & target).flatten(1).any(1)[:, None, None, None]
    drawn = (drawn & ~MASK) | answer.to(torch.uint8) * MASK
    shown = place | (
        _curve(place, wrong & (target == missed)) & (torch.rand(len(drawn), 1, 1, 1, device=drawn.device) < SCRIBBLES)
    )
    return drawn | shown.to(torch.uint8) * torch.where(missed, INSIDE, OUTSIDE).to(torch.uint8)


def clicks(target: Tensor) -> Tensor:
    """Click at one voxel of each structure, anywhere or, in half of the cases, far from its border."""
    anywhere = torch.rand(len(target), 1, 1, 1, device=target.device) < 0.5
    return chosen_voxel(torch.where(anywhere, target, _thick(target))) * torch.tensor(INSIDE, dtype=torch.uint8)


def scribbles(target: Tensor) -> Tensor:
    """Draw one curve within a slice of each structure."""
    place = chosen_voxel(target)
    return (place | _curve(place, target)) * torch.tensor(INSIDE, dtype=torch.uint8)


def boxes(target: Tensor) -> Tensor:
    """Draw a box around each structure, not quite tight; in half of the cases around what one slice shows of it."""
    in_slice = target & chosen_voxel(target).flatten(2).any(2)[..., None, None]
    one = torch.rand(len(target), 1, 1, 1, device=target.device) < 0.5
    return simulated_boxes(torch.where(one, in_slice, target)[:, None], overlap=BOX_OVERLAP, relaxation=1)[:, 0]


def parts(target: Tensor) -> Tensor:
    """Show what lies on one side of a plane through each structure."""
    axes = [axis for axis in (1, 2, 3) if target.shape[axis] > 1]
    place = chosen_voxel(target).nonzero()
    shown = torch.zeros_like(target)
    for index, (voxel, axis, below) in enumerate(
        zip(place[:, 1:], torch.randint(len(axes), (len(target),)), torch.rand(len(target)) < 0.5, strict=True)
    ):
        side = axes[int(axis)] - 1
        count, at = target.shape[side + 1], int(voxel[side])
        first, stop = (0, at + 1) if below else (at, count)
        shown[index].narrow(side, first, stop - first).fill_(True)
    return (target & shown) * torch.tensor(MASK, dtype=torch.uint8)


def chosen_voxel(mask: Tensor) -> Tensor:
    """Return masks of one random voxel of each (N, D, H, W) mask; none where it is empty."""
    return clicks_in(mask.flatten(1, 2), 1).view(mask.shape).bool()


def layers(mask: Tensor, most: int) -> Tensor:
    """Count how many steps to any of eight neighbors lead out of (N, D, H, W) bool masks within the plane.

    Returns:
        (N, D, H, W) float32: 0 outside, 1 at the border, `most` far from it; what lies beyond the plane is no border.
    """
    left = counted = mask.float().flatten(0, 1)[:, None]
    for _ in range(most - 1):
        left = -F.max_pool2d(-left, 3, 1, 1)
        counted = counted + left
    return counted[:, 0].unflatten(0, mask.shape[:2])


def _thick(mask: Tensor) -> Tensor:
    """Keep of each mask what is at least half as far from its border in the plane as anything of it."""
    steps = layers(mask, THICKEST)
    return mask & (2 * steps >= steps.flatten(1).amax(1)[:, None, None, None])


def _curve(place: Tensor, within: Tensor) -> Tensor:
    """Return the level lines of smooth noise through one voxel of each mask, in its slice and near it."""
    count, depth, height, width = place.shape
    noise = torch.randn(count, 1, CURVES, CURVES, device=place.device)
    field = F.interpolate(noise, size=(height, width), mode="bicubic", align_corners=True).expand(-1, depth, -1, -1)
    above = field > (field * place).flatten(1).sum(1)[:, None, None, None]
    edge = torch.zeros_like(place)
    edge[..., 1:] |= above[..., 1:] != above[..., :-1]
    edge[..., 1:, :] |= above[..., 1:, :] != above[..., :-1, :]
    for axis in (2, 3):
        size = place.shape[axis]
        at = place.transpose(axis, 3).flatten(1, 2).any(1).float().argmax(1)
        near = (torch.arange(size, device=place.device) - at[:, None]).abs() <= LONGEST_SCRIBBLE * size
        edge &= near.view(count, 1, size, 1) if axis == 2 else near.view(count, 1, 1, size)
    return edge & within & place.flatten(2).any(2)[..., None, None]
