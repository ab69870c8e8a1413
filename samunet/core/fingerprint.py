"""What a dataset looks like: the measurements that planning reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from samunet.core.geometry import Triple, shape3, triple, turn_between
from samunet.core.ranges import Count, LabelValue, Orientation, Real, Sha256, Share, Spacing, Voxels, Within
from samunet.errors import ConfigError

STATISTICS_ROUNDING = 1e-3  # relative, of statistics against each other


@dataclass(frozen=True, kw_only=True)
class IntensityStatistics:
    """Foreground intensities of one channel, pooled over cases (nnU-Net's figures)."""

    mean: Real
    median: Real
    std: Annotated[float, Within(0, 3e38)]
    minimum: Real
    maximum: Real
    percentile_00_5: Real
    percentile_99_5: Real

    def __post_init__(self) -> None:
        rounding = STATISTICS_ROUNDING * max(abs(self.minimum), abs(self.maximum))
        for name in ("mean", "median", "percentile_00_5", "percentile_99_5"):
            if not self.minimum - rounding <= (value := getattr(self, name)) <= self.maximum + rounding:
                bounds = f"minimum {self.minimum} and maximum {self.maximum}"
                raise ConfigError(f"{name} must lie between {bounds}; got {value}.")
        low, high = self.percentile_00_5, self.percentile_99_5
        if low > high + rounding:
            raise ConfigError(f"percentile_00_5 must not be above percentile_99_5; got {low} and {high}.")
        # A hundredth of the values lie at or beyond these two, so std is a twentieth of their distance at least.
        if self.std < STATISTICS_ROUNDING * (high - low):
            raise ConfigError(f"std must fit the percentiles, which lie {high - low} apart; got {self.std}.")
        whole = self.maximum - self.minimum
        if self.std > whole + rounding:
            raise ConfigError(f"std must not exceed the distance from minimum to maximum, {whole}; got {self.std}.")


@dataclass(frozen=True, kw_only=True)
class CaseFingerprint:
    """One case."""

    spacing: Spacing
    """mm, (D, H, W) of the file; 1 where the fingerprint is not measured."""
    shape: Voxels
    """Voxels of the file."""
    shape_after_crop: Voxels
    """Voxels after cropping to nonzero."""
    orientation: Orientation
    """See Geometry.orientation; of the file's axes."""
    foreground_slices: Count
    """Slices across the axis of largest spacing that hold foreground."""
    intensity_ranges: tuple[tuple[Real, Real], ...]
    """Typical range of each channel, see `samunet.core.values.typical_range`."""
    labels_present: tuple[LabelValue, ...]
    """Foreground label values found, sorted."""
    sha256: dict[str, Sha256]
    """Folder and file name to SHA-256 of every image and label file."""

    def turned(self, orientation: str) -> CaseFingerprint:
        """Return the same case with its axes in the order of `orientation`."""
        axes, _ = turn_between(self.orientation, orientation)
        return replace(
            self,
            spacing=triple([self.spacing[axis] for axis in axes]),
            shape=shape3([self.shape[axis] for axis in axes]),
            shape_after_crop=shape3([self.shape_after_crop[axis] for axis in axes]),
            orientation=orientation,
        )


@dataclass(frozen=True, kw_only=True)
class ClassSize:
    """How large one foreground class or region is, over the cases that hold it."""

    name: str
    values: tuple[LabelValue, ...]
    """Label values that make it up."""
    cases: Count
    """Number of cases that hold the class."""
    in_plane_mm: Triple
    """Diameter of a disk with the area of a connected component within a slice: 10, 50 and 90 % of the class's area lie
    in smaller ones; mm. The plane is perpendicular to the axis of largest spacing."""
    width_mm: Triple
    """Local width within the slice at the class's voxels, e.g. across a vessel: 10th, 50th and 90th percentile; mm."""
    extent_mm: Triple
    """10th, 50th and 90th percentile over cases of the extent along the slicing axis; mm."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """One dataset."""

    dataset: str
    """DatasetXXX_Name."""
    planar: bool
    """True when every case is a 2D image."""
    measured: bool = True
    """False when a file tells no size of its voxels: all lengths then count pixels or voxels, not mm."""
    cases: dict[str, CaseFingerprint]
    """Case identifier to measurements, sorted by identifier."""
    intensities: tuple[IntensityStatistics, ...]
    """One entry per channel."""
    median_relative_size_after_crop: Share
    """Median over cases of voxels after crop / voxels before."""
    classes: tuple[ClassSize, ...]
    """One entry per foreground class or region, in the order of dataset.json."""
    ignore: LabelValue | None
    """Label value that counts nowhere."""
    format: int
    """Format of the measurements; a dataset with those of another one is measured again."""
