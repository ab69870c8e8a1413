"""What operations make of labels; nothing here keeps anything, and nothing that is given is changed.

Axes: D H W voxels. `planes` are those across an axis by their indices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import ndimage

from samunet.core.prompts import BOX, INSIDE, MASK, SHOWS
from samunet.errors import ConfigError
from samunet.interaction.shapes import between
from samunet.interaction.slices import Answer
from samunet.interaction.state import Box, box_at, extent, slices
from samunet.pipeline.simulated_prompts import middle_of

LEAST_AREA, MOST_AREA, LEAST_QUALITY, FARTHEST = 0.5, 2.0, 0.5, 1.0
"""From plane to plane an object's area changes by less; an answer of which the model expects a lower IoU is none; and
mean intensities stay so near to the first plane's, in standard deviations there. Of the seed's answers on eight
prostates and eight hippocampi these gave the best volumes, and so did a box with a click in it: the mean Dice was 0.65
from the largest plane alone, with a box and the earlier mask 0.61 at best, with the mask alone 0.43. All are answers to
whole planes; closer looks were worse."""
Planes = dict[int, np.ndarray]


def answered(
    ours: np.ndarray, drawn: np.ndarray, before: np.ndarray | None, ask: Callable[[np.ndarray], Answer]
) -> Answer:
    """Ask a model about an object that is partly there.

    Pieces that a prompt touches are made anew, with them as an earlier mask; the others stay.

    Args:
        ours: (D, H, W) bool, what is accepted of the object, in a plane or volume.
        drawn: (D, H, W) uint8 map of prompts.
        before: what the model answered to fewer prompts; None before its first answer.
        ask: gives the answer to a map of prompts.
    """
    pieces, _ = ndimage.label(ours)
    redone = np.isin(pieces, np.unique(pieces[drawn > 0])) & ours
    kept = ours & ~redone
    earlier = redone if before is None else before & ~kept
    shown = drawn | earlier * np.uint8(MASK)
    answer = ask(shown) if (shown & SHOWS).any() else Answer(np.zeros_like(ours), None)
    return answer._replace(mask=answer.mask.reshape(ours.shape) | kept)


def replaced(labels: np.ndarray, mask: np.ndarray, value: int) -> np.ndarray:
    """Return labels in which a mask is the object, in place of what it was."""
    new = np.where(labels == value, 0, labels)
    new[mask] = value
    return new.astype(labels.dtype)


def changed(labels: np.ndarray, axis: int, planes: Planes) -> tuple[Box, np.ndarray]:
    """Return the box in which some planes differ from the labels, and what it holds once they are in them."""
    first, last = min(planes), max(planes)
    span = np.moveaxis(labels, axis, 0)[first : last + 1].copy()
    for index, plane in planes.items():
        span[index - first] = plane
    new = np.moveaxis(span, 0, axis)
    corner = [first if side == axis else 0 for side in range(3)]
    box = extent(new != labels[slices(box_at(corner, new.shape))])
    part = new[slices(box)]
    return box_at([start + at for (start, _), at in zip(box, corner, strict=True)], part.shape), part


def interpolated(labels: np.ndarray, value: int, axis: int, spacing: Sequence[float], *, over: bool = False) -> Planes:
    """Return the planes that are empty of an object between two that show it, filled by signed distances in mm.

    Args:
        spacing: within planes, in mm.
        over: take voxels of other objects too.

    Raises:
        ConfigError: there are none.
    """
    planes, new = np.moveaxis(labels, axis, 0), {}
    there = np.flatnonzero((planes == value).any((1, 2))).tolist()
    for first, last in zip(there[:-1], there[1:], strict=True):
        if last > first + 1:
            shares = [(index - first) / (last - first) for index in range(first + 1, last)]
            for index, mask in enumerate(
                between(planes[first] == value, planes[last] == value, shares, spacing), first + 1
            ):
                new[index] = np.where(mask & ((planes[index] == 0) | over), value, planes[index])
    if not new:
        raise ConfigError(f"Object {value} leaves no plane empty between two others across axis {axis}.")
    return new


def propagated(
    labels: np.ndarray,
    image: np.ndarray,
    value: int,
    axis: int,
    index: int,
    step: int,
    most: int,
    ask: Callable[[int, np.ndarray], Answer],
    *,
    over: bool = False,
) -> tuple[Planes, str]:
    """Carry an object from plane to plane, until what the model makes of it collapses.

    Each plane is asked about with the box around the mask of the one before, and a click in its middle.

    Args:
        image: (D, H, W) intensities.
        index: of the plane that shows the object.
        step: 1 or -1.
        most: planes.
        ask: gives the answer for a plane to a (H, W) map of prompts.
        over: take voxels of other objects too.

    Returns:
        The new planes, and why there are no more of them.

    Raises:
        ConfigError: the plane does not show the object.
    """
    planes, intensities = np.moveaxis(labels, axis, 0), np.moveaxis(image, axis, 0)
    new: Planes = {}
    mask = planes[index] == value if 0 <= index < len(planes) else np.zeros((1, 1), bool)
    if not mask.any() or step not in (1, -1):
        raise ConfigError(
            f"An object is carried by steps of 1 or -1 from a plane that shows it; got a step of {step} from plane "
            f"{index}, which shows {mask.sum()} pixels of it."
        )
    mean, deviation = float(intensities[index][mask].mean()), float(intensities[index][mask].std())
    while len(new) < most:
        index, area = index + step, int(mask.sum())
        if not 0 <= index < len(planes):
            return new, "the image ends"
        if (planes[index] == value).any():
            return new, f"plane {index} shows it already"
        answer = ask(index, _carried(mask))
        mask = answer.mask & ((planes[index] == 0) | over)
        if not LEAST_AREA <= mask.sum() / area <= MOST_AREA:
            return new, f"in plane {index} the area goes from {area} to {mask.sum()} pixels"
        if answer.quality is not None and answer.quality < LEAST_QUALITY:
            return new, f"in plane {index} the model expects an IoU of {answer.quality:.2f}"
        if abs(intensities[index][mask].mean() - mean) > FARTHEST * deviation:
            return new, f"in plane {index} it is not as bright as where it came from"
        new[index] = np.where(mask, value, planes[index])
    return new, "it was asked for no more"


def _carried(mask: np.ndarray) -> np.ndarray:
    """Return the (H, W) map of prompts with which the next plane is asked about."""
    drawn = np.zeros(mask.shape, np.uint8)
    drawn[ndimage.find_objects(mask.view(np.uint8))[0]] = BOX
    drawn[middle_of(mask[None])[1:]] |= INSIDE
    return drawn
