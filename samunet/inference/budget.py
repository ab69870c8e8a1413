"""How much memory cases take while they are predicted, and how many fit at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from samunet.core.plan import Configuration, Plan
from samunet.core.units import counted, readable
from samunet.imageio.case import CaseSize
from samunet.imageio.reader import FLOAT_BYTES
from samunet.preprocessing.memory import network_shape, preprocessing_bytes

SEGMENTATION = 8  # bytes per voxel of up to 16 bits: itself, as the library's image, compressed
MEASURED = 14  # bytes per voxel for statistics: a structure's mask, places and intensities
TIGHT = 0.25  # of the limit
FIXED = 40 << 20  # whatever the case: what libraries load on first use, buffers; benchmarks/prediction_memory.py
PICTURES = 80 << 20  # matplotlib; a view's texts take 16 beside MEASURED


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
    size: CaseSize,
    plan: Plan,
    configuration: Configuration,
    *,
    score_channels: int,
    keep_image: bool = False,
    pictures: bool = False,
    probabilities: bool = False,
    uncertainty: bool = False,
    extra_slices: int = 0,
    map_planes: int = 0,
) -> Need:
    """Return what a case of this size needs, from above: nothing is cropped away.

    Args:
        size: what its headers tell.
        score_channels: see `samunet.inference.predictor.Predictor`.
        keep_image: the image is needed until the end, for pictures or statistics.
        pictures: some are drawn, or views written.
        probabilities: they are written too.
        uncertainty: its map is written too.
        extra_slices: added on the network's grid, for slab votes.
        map_planes: behind the image's channels while it is predicted; see `Predictor.map_planes`.
    """
    channels, voxels = len(plan.channels), math.prod(size.geometry.shape)
    depth, *plane = network_shape(size.geometry, plan, configuration)
    padded = math.prod(
        max(side, tile) for side, tile in zip((depth + extra_slices, *plane), configuration.patch_size, strict=True)
    )
    image, network_image = channels * voxels * FLOAT_BYTES, channels * padded * FLOAT_BYTES
    kept = image if keep_image else 0
    preprocessing = preprocessing_bytes(size, plan, configuration)
    predicting = kept + (3 if extra_slices else 2) * network_image + padded * FLOAT_BYTES  # padded too; weights
    predicting += 2 * (channels + map_planes) * padded * FLOAT_BYTES if map_planes else 0  # joined, and padded
    writing = kept + SEGMENTATION * voxels
    writing += (MEASURED * voxels if keep_image else 0) + (3 * voxels * FLOAT_BYTES if uncertainty else 0)
    writing = max(writing, kept + 3 * voxels * FLOAT_BYTES if probabilities else 0)
    fixed = size.beside + FIXED + (PICTURES if pictures else 0)
    return Need(volumes=max(preprocessing, predicting, writing) + fixed, scores=score_channels * padded * FLOAT_BYTES)


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

    def end(self, identifier: str) -> bool:
        """Count a case out; tells whether it was so large that the next may not fit between what is left of it."""
        return self._held.pop(identifier) > TIGHT * (math.inf if self.limit is None else self.limit)


def describe(needs: Sequence[Need], budget: Budget, at_a_time: int) -> str:
    """Say where memory slows down what is to come; empty where it does not.

    Args:
        at_a_time: cases in work when memory allows.
    """
    if budget.limit is None or not needs:
        return ""
    largest, on_disk = max(budget.bytes_of(need) for need in needs), sum(not budget.scores_fit(need) for need in needs)
    fitting = max(1, budget.limit // largest) if largest else at_a_time
    lines = []
    if fitting < min(at_a_time, len(needs)):
        lines.append(
            f"The largest case takes {readable(largest)} of memory, {readable(budget.limit)} may be used: "
            "fewer cases are in work at a time."
        )
    if on_disk:
        lines.append(
            f"The networks' scores of {counted(on_disk, 'case')} do not fit into memory; a file holds them meanwhile, "
            "which is slower."
        )
    return " ".join(lines)
