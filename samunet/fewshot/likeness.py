"""Prototypes of structures from labeled cases, and where a plane is like them.

Axes: F features, h w tokens that show some of a plane, D slices of a case along the references' axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import Tensor

from samunet.core.volume import Volume
from samunet.errors import ConfigError
from samunet.fewshot.examples import Example
from samunet.fewshot.models import Frame, Look, PlaneModel

MOST_PROTOTYPES = 8
WINDOW = 0.15  # of a case's depth, by which a prototype is sought beyond the slices that it is from
PERCENTILE, MARGIN = 10, 0.05  # of the similarities within the references' structures, and what is taken off


class Prototype(NamedTuple):
    """What a structure looks like in some slices of the references."""

    features: Tensor
    """(F,)."""
    first: float
    last: float
    """Where the slices are, as shares of the depth."""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """What a structure looks like, and how alike its slices are to that."""

    prototypes: tuple[Prototype, ...]
    threshold: float
    """A slice without a token as alike as this one has nothing of the structure."""
    one_piece: bool = True
    """Whether the structure is in one piece, as organs are and cells are not."""

    def at(self, tokens: Tensor, depth: float) -> tuple[Tensor, Prototype] | None:
        """Compare a plane with the prototypes that are sought at its depth.

        Args:
            tokens: (F, h, w).
            depth: of the plane, as a share.

        Returns:
            (h, w) cosine with the most alike prototype of each token, and that of the most alike token; None where none
            is sought.
        """
        near = [one for one in self.prototypes if one.first - WINDOW <= depth <= one.last + WINDOW]
        if not near:
            return None
        maps = torch.stack([F.cosine_similarity(tokens, one.features[:, None, None], dim=0) for one in near])
        return maps.amax(0), near[int(maps.flatten(1).amax(1).argmax())]


@dataclass(frozen=True, kw_only=True)
class ReferenceSlice:
    """A slice of a reference that shows a structure."""

    tokens: Tensor
    """(n, F) inside the structure."""
    depth: float
    case: str


def planes_of(volume: Volume, axis: int) -> list[np.ndarray]:
    """Return the (C, H, W) planes of a volume that follow each other along an axis."""
    return list(np.moveaxis(volume.array, axis + 1, 0))


def plane_spacing(volume: Volume, axis: int) -> tuple[float, float]:
    """Return the spacing within the planes across an axis, in mm."""
    first, second = (step for side, step in enumerate(volume.geometry.spacing) if side != axis)
    return first, second


def depth_of(index: int, count: int) -> float:
    """Return where a slice is, from 0 to 1."""
    return index / (count - 1) if count > 1 else 0.5


def inside(frame: Frame, tokens: Tensor, mask: np.ndarray) -> Tensor:
    """(F, h, w) tokens of a plane to the (n, F) of those that a (H, W) mask touches, more than half where any is."""
    share = F.interpolate(torch.from_numpy(mask.astype(np.float32))[None, None], size=frame.size, mode="area")
    step = frame.side / tokens.shape[-1]  # tokens of the square, of which `frame.cells` is a part
    padded = F.pad(share, (0, frame.side - frame.size[1], 0, frame.side - frame.size[0]))
    cells = frame.cells(F.avg_pool2d(padded, int(step))[0])[0]
    chosen = cells >= min(0.5, float(cells.max()))
    return frame.cells(tokens)[:, chosen & (cells > 0)].T


def reference_slices(
    model: PlaneModel, example: Example, axis: int, values: Sequence[int]
) -> dict[int, list[ReferenceSlice]]:
    """Return what a model sees inside each structure, by label value."""
    found: dict[int, list[ReferenceSlice]] = {value: [] for value in values}
    planes, labels = planes_of(example.volume, axis), np.moveaxis(example.known(), axis, 0)
    spacing = plane_spacing(example.volume, axis)
    for index, (plane, label) in enumerate(zip(planes, labels, strict=True)):
        there = [value for value in values if (label == value).any()]
        if not there:
            continue
        look = model.encode(plane, spacing)
        for value in there:
            tokens = inside(look.frame, model.tokens(look), label == value)
            depth = depth_of(index, len(planes))
            found[value].append(ReferenceSlice(tokens=tokens, depth=depth, case=example.identifier))
    return found


def likeness_of(slices: Sequence[ReferenceSlice], *, peak: bool = False) -> Likeness:
    """Make prototypes, at most `MOST_PROTOTYPES`, and the threshold, by the references' own similarities.

    Args:
        slices: of all references that show the structure; one at least.
        peak: add the largest value of each feature inside to the mean, and halve, as PerSAM-F does.
    """
    means = torch.stack([part.tokens.mean(0) for part in slices])
    vectors = (means + torch.stack([part.tokens.amax(0) for part in slices])) / 2 if peak else means
    depths = np.array([part.depth for part in slices])
    count = min(MOST_PROTOTYPES, len(slices))
    groups = np.arange(len(slices))
    if count < len(slices):
        described = np.column_stack([F.normalize(means, dim=1).numpy(), 2 * depths])
        groups = KMeans(count, n_init=4, random_state=0).fit_predict(described)
    prototypes = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        features = vectors[members].mean(0)
        prototypes.append(Prototype(features, float(depths[members].min()), float(depths[members].max())))
    likeness = Likeness(prototypes=tuple(prototypes), threshold=-1.0)
    alike: list[float] = []
    for part in slices:
        seen = likeness.at(part.tokens.T[:, :, None], part.depth)
        alike += [] if seen is None else seen[0].flatten().tolist()
    return Likeness(prototypes=tuple(prototypes), threshold=float(np.percentile(alike, PERCENTILE)) - MARGIN)


def refuse_small(model: PlaneModel, examples: Sequence[Example], axis: int, classes: dict[int, str]) -> None:
    """Raise ConfigError for a structure that nowhere in the references takes as much as one token's area."""
    looks: dict[int, Look] = {}
    for value, name in classes.items():
        largest = 0.0
        for number, example in enumerate(examples):
            areas = (np.moveaxis(example.known(), axis, 0) == value).sum((1, 2))
            if number not in looks:
                looks[number] = model.encode(planes_of(example.volume, axis)[0], plane_spacing(example.volume, axis))
            frame, tokens = looks[number].frame, model.tokens(looks[number])
            pixels = frame.size[0] * frame.size[1] / (frame.shape[0] * frame.shape[1])
            largest = max(largest, float(areas.max()) * pixels * (tokens.shape[-1] / frame.side) ** 2)
        if largest < 1:
            raise ConfigError(
                f"Class '{name}' takes {largest:.2g} of a token of {model.name} where it is largest; expected 1 at "
                "least. Give references that show more of it, crop the images, or use --method registration."
            )
