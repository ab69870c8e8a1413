"""Measure a dataset.

Intensity figures are nnU-Net's: foreground voxels of the cropped image, the same number of draws per case, one seed.
Unlike nnU-Net, voxels with the ignore label do not count as foreground.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from samunet.core.dataset import Case, DatasetSpec
from samunet.core.fingerprint import CaseFingerprint, ClassSize, Fingerprint, IntensityStatistics
from samunet.core.geometry import Triple, shape3
from samunet.errors import DatasetError
from samunet.imageio import ImageReader
from samunet.imageio.case import read_case
from samunet.ops.crop import bounding_box, crop, nonzero_mask
from samunet.progress import each

SAMPLES = 100_000_000  # nnU-Net's total number of drawn foreground voxels a channel
SEED = 1234  # nnU-Net's


@dataclass(frozen=True, kw_only=True)
class _Measured:
    fingerprint: CaseFingerprint
    planar: bool
    samples: np.ndarray
    """(C, n) foreground intensities."""
    diameters: dict[str, list[float]]
    extents: dict[str, float]


def extract_fingerprint(spec: DatasetSpec, cases: Sequence[Case], reader: ImageReader, *, threads: int, quiet: bool = False) -> Fingerprint:
    """Read every training case once and measure it.

    Raises:
        DatasetError: a case is broken, 2D and 3D images are mixed, or no case has foreground.
    """
    draws = SAMPLES // len(cases)
    measured = each(lambda case: _measure(case, spec, reader, draws), cases, threads=threads, title="Measuring cases", quiet=quiet)
    planar = {case.planar for case in measured}
    if len(planar) > 1:
        raise DatasetError(f"{spec.name} mixes 2D and 3D images; a dataset holds one kind. Split it in two.")
    if not any(case.samples.size for case in measured):
        raise DatasetError(f"{spec.name}: no label file holds a foreground voxel; check labelsTr and the labels in dataset.json.")
    ratios = [np.prod(m.fingerprint.shape_after_crop) / np.prod(m.fingerprint.shape) for m in measured]
    return Fingerprint(
        dataset=spec.name,
        planar=planar.pop(),
        cases={case.identifier: m.fingerprint for case, m in zip(cases, measured, strict=True)},
        intensities=tuple(_statistics(np.concatenate([case.samples[c] for case in measured])) for c in range(len(spec.channels))),
        median_relative_size_after_crop=float(np.median(ratios)),
        classes=tuple(_class_size(name, measured) for name, _ in spec.labels.foreground),
    )


def _measure(case: Case, spec: DatasetSpec, reader: ImageReader, draws: int) -> _Measured:
    volume, label = read_case(case, spec, reader)
    spacing = volume.geometry.spacing
    box = bounding_box(nonzero_mask(volume.array))
    image, label = crop(volume.array, box), crop(label, box)
    foreground = label > 0
    if spec.labels.ignore is not None:
        foreground &= label != spec.labels.ignore
    voxels = image[:, foreground]
    chosen = np.random.RandomState(SEED).choice(voxels.shape[1], draws, replace=True) if voxels.size else np.zeros(0, int)
    diameters, extents = {}, {}
    for name, values in spec.labels.foreground:
        mask = np.isin(label, values)
        if mask.any():
            diameters[name], extents[name] = _sizes(mask, spacing)
    files = (*case.images, case.label) if case.label else case.images
    return _Measured(
        fingerprint=CaseFingerprint(
            spacing=spacing,
            shape=volume.geometry.shape,
            shape_after_crop=shape3(image.shape[1:]),
            labels_present=tuple(int(value) for value in np.unique(label[foreground])),
            sha256={path.name: _sha256(path) for path in files},
        ),
        planar=volume.geometry.planar,
        samples=voxels[:, chosen],
        diameters=diameters,
        extents=extents,
    )


def _sizes(mask: np.ndarray, spacing: Triple) -> tuple[list[float], float]:
    """Return the disk-equivalent diameter of every in-plane component, and the extent along the slicing axis, both in mm."""
    axis = int(np.argmax(spacing))
    plane_mm2 = float(np.prod(spacing) / spacing[axis])
    slices = np.moveaxis(mask, axis, 0)
    filled = np.flatnonzero(slices.any(axis=(1, 2)))
    diameters = []
    for index in filled:
        components, _ = ndimage.label(slices[index])
        areas = np.bincount(components.ravel())[1:]
        diameters += list(2 * np.sqrt(areas * plane_mm2 / np.pi))
    return diameters, float((filled[-1] - filled[0] + 1) * spacing[axis])


def _class_size(name: str, measured: Sequence[_Measured]) -> ClassSize:
    diameters = [value for case in measured for value in case.diameters.get(name, [])]
    extents = [case.extents[name] for case in measured if name in case.extents]
    return ClassSize(name=name, cases=len(extents), in_plane_mm=_percentiles(diameters), extent_mm=_percentiles(extents))


def _percentiles(values: Sequence[float]) -> Triple:
    low, middle, high = np.percentile(values, (10, 50, 90)) if values else (0.0, 0.0, 0.0)
    return (float(low), float(middle), float(high))


def _statistics(values: np.ndarray) -> IntensityStatistics:
    low, middle, high = np.percentile(values, (0.5, 50, 99.5))
    return IntensityStatistics(
        mean=float(np.mean(values)),
        median=float(middle),
        std=float(np.std(values)),
        minimum=float(np.min(values)),
        maximum=float(np.max(values)),
        percentile_00_5=float(low),
        percentile_99_5=float(high),
    )


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
