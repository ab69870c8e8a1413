"""How much memory cases take while they are predicted, and how many fit at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from samunet.core.geometry import Geometry, triple
from samunet.core.plan import Configuration, Plan
from samunet.core.units import readable
from samunet.ops.resample import target_shape
from samunet.preprocessing.forward import network_spacing

FLOAT = 4  # bytes


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes that a case holds at most between its reading and its writing."""

    volumes: int
    """Images and segmentation, with the copies that are made of them."""
    scores: int
    """The networks' scores on their grid, which may lie in a file instead."""

    @property
    def total(self) -> int:
        return self.volumes + self.scores


def estimate(
    geometry: Geometry,
    plan: Plan,
    configuration: Configuration,
    *,
    score_channels: int,
    keep_image: bool = False,
    probabilities: bool = False,
    uncertainty: bool = False,
    extra_slices: int = 0,
    prompt_planes: int = 0,
) -> Need:
    """Return what a case on this grid needs, from above: nothing is cropped away.

    Args:
        score_channels: see `samunet.inference.predictor.Predictor`.
        keep_image: the image is needed until the end, for pictures or statistics.
        probabilities: they are written too.
        uncertainty: its map is written too.
        extra_slices: added on the network's grid, for slab votes.
        prompt_planes: of the prompt map, which lie behind the image's channels while it is predicted.
    """
    channels = len(plan.channels)
    shape = [geometry.shape[axis] for axis in plan.transpose]
    spacing = triple([geometry.spacing[axis] for axis in plan.transpose])
    depth, height, width = shape
    wanted = target_shape((depth, height, width), spacing, network_spacing(configuration, spacing))
    voxels = math.prod(shape)
    padded = (wanted[0] + extra_slices, *wanted[1:])
    network_voxels = math.prod(max(size, tile) for size, tile in zip(padded, configuration.patch_size, strict=True))
    image = channels * voxels * FLOAT
    network_image = channels * network_voxels * FLOAT
    reading = 3 * image + voxels + 2 * network_image  # as stored, as numbers, normalized; nonzero mask; half resampled, resampled
    # padded too; weights; segmentation, as an image, compressed
    writing = (3 if extra_slices else 2) * network_image + network_voxels * FLOAT + 3 * voxels * 2
    writing += 2 * (channels + prompt_planes) * network_voxels * FLOAT if prompt_planes else 0  # joined, and padded
    writing += (image if keep_image else 0) + (4 * voxels * FLOAT if probabilities else 0) + (3 * voxels * FLOAT if uncertainty else 0)
    return Need(volumes=max(reading, writing), scores=score_channels * network_voxels * FLOAT)


@dataclass(kw_only=True)
class Budget:
    """What the cases in work hold together."""

    limit: int | None
    """Bytes; None for no limit."""
    _held: dict[str, int] = field(default_factory=dict)

    def scores_fit(self, need: Need) -> bool:
        """Tell whether a case alone can keep its scores in memory."""
        return self.limit is None or need.total <= self.limit

    def bytes_of(self, need: Need) -> int:
        """Return what a case takes, its scores in memory if they fit."""
        return need.total if self.scores_fit(need) else need.volumes

    def fits(self, need: Need) -> bool:
        """Tell whether a case may begin beside those in work; alone it always may."""
        return self.limit is None or not self._held or sum(self._held.values()) + self.bytes_of(need) <= self.limit

    def begin(self, identifier: str, need: Need) -> None:
        """Count a case in."""
        self._held[identifier] = self.bytes_of(need)

    def end(self, identifier: str) -> None:
        """Count a case out."""
        del self._held[identifier]


def describe(needs: Sequence[Need], budget: Budget) -> str:
    """Say in one line what is to come."""
    largest = max(needs, key=lambda need: need.total)
    line = f"Memory beside the network: up to {readable(largest.total)} a case"
    if budget.limit is None:
        return line
    on_disk = sum(not budget.scores_fit(need) for need in needs)
    return f"{line}, {readable(budget.limit)} for all at a time" + (f"; the scores of {on_disk} case(s) go to disk" if on_disk else "")
