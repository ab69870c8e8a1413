"""What a dataset looks like: the measurements that planning reads."""

from __future__ import annotations

from dataclasses import dataclass

from samunet.core.geometry import Shape, Triple


@dataclass(frozen=True, kw_only=True)
class IntensityStatistics:
    """Foreground intensities of one channel, pooled over cases (nnU-Net's figures)."""

    mean: float
    median: float
    std: float
    minimum: float
    maximum: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True, kw_only=True)
class CaseFingerprint:
    """One case."""

    spacing: Triple
    """mm, (D, H, W) of the file."""
    shape: Shape
    """Voxels of the file."""
    shape_after_crop: Shape
    """Voxels after cropping to nonzero."""
    orientation: str
    """See Geometry.orientation; of the file's axes."""
    foreground_slices: int
    """Slices across the axis of largest spacing that hold foreground."""
    labels_present: tuple[int, ...]
    """Foreground label values found, sorted."""
    sha256: dict[str, str]
    """Folder and file name to SHA-256 of every image and label file."""


@dataclass(frozen=True, kw_only=True)
class ClassSize:
    """How large one foreground class or region is, over the cases that hold it."""

    name: str
    values: tuple[int, ...]
    """Label values that make it up."""
    cases: int
    """Number of cases that hold the class."""
    in_plane_mm: Triple
    """10th, 50th and 90th percentile over slices of the diameter of a disk with the slice's area; mm.
    The plane is perpendicular to the axis of largest spacing."""
    extent_mm: Triple
    """10th, 50th and 90th percentile over cases of the extent along the slicing axis; mm."""


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """One dataset."""

    dataset: str
    """DatasetXXX_Name."""
    planar: bool
    """True when every case is a 2D image."""
    cases: dict[str, CaseFingerprint]
    """Case identifier to measurements, sorted by identifier."""
    intensities: tuple[IntensityStatistics, ...]
    """One entry a channel."""
    median_relative_size_after_crop: float
    """Median over cases of voxels after crop / voxels before."""
    classes: tuple[ClassSize, ...]
    """One entry a foreground class or region, in the order of dataset.json."""
    ignore: int | None
    """Label value that counts nowhere."""
    format: int
    """Of the measurements; another one is measured anew."""
