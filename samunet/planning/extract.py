"""Measure a dataset.

Intensity figures are nnU-Net's: foreground voxels of the cropped image, the same number of draws per case, one seed.
Unlike nnU-Net, voxels with the ignore label do not count as foreground.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from samunet.core.codec import file_sha256
from samunet.core.dataset import Case, DatasetSpec
from samunet.core.fingerprint import CaseFingerprint, ClassSize, Fingerprint, IntensityStatistics
from samunet.core.geometry import Triple, shape3
from samunet.core.memory import Room
from samunet.core.units import counted
from samunet.core.values import SAMPLING_SEED, distinct, typical_range
from samunet.errors import MOST_FAULTS, DatasetError
from samunet.imageio import ImageReader
from samunet.imageio.case import peek_case, read_case
from samunet.imageio.reader import files_of
from samunet.machine.progress import each
from samunet.ops.crop import bounding_box, crop, nonzero_mask

logger = logging.getLogger(__name__)

FINGERPRINT_FORMAT = 4  # of a fingerprint; raise it when the same files give other measurements
SAMPLES = 100_000_000  # nnU-Net's total number of drawn foreground voxels per channel
LABELED_VOXELS = 1 << 21  # at a time, 12 bytes each
# Bytes per voxel beside image and label: masks and components; foreground voxels of each channel, and how often drawn.
MASK_BYTES, DRAWN_BYTES = 16, 8
WIDTH_SLICES, WIDTH_VOXELS = 16, 1000  # of each class and case, evenly spread: as many say how thin a structure is
DRAWS_AT_A_TIME = 10_000_000  # bounds the memory of the drawn indices at 80 MB per thread


@dataclass(frozen=True, kw_only=True)
class _Measured:
    fingerprint: CaseFingerprint
    planar: bool
    sized: bool
    """Whether the files tell a size of their voxels."""
    values: np.ndarray
    """(C, n) intensities of the foreground voxels drawn at least once."""
    counts: np.ndarray
    """(C, n) how often each was drawn; every channel draws for itself."""
    sizes: dict[str, _Sizes]
    """Sizes of the classes that the case holds."""


@dataclass(frozen=True, kw_only=True)
class _Sizes:
    """Sizes of one class in one case, mm."""

    diameters: np.ndarray
    """(n,) diameter of a disk with the area of each component within a slice."""
    widths: np.ndarray
    """(n,) local width within the slice at some of its voxels."""
    extent: float
    """Length along the slicing axis."""


def extract_fingerprint(
    spec: DatasetSpec, cases: Sequence[Case], reader: ImageReader, *, threads: int, quiet: bool = False
) -> Fingerprint:
    """Read every training case once and measure it.

    Raises:
        DatasetError: cases are broken, which are named after all were read; 2D and 3D images are mixed, or no case has
            foreground.
    """
    draws = SAMPLES // len(cases)
    room = Room()

    def measure(case: Case) -> _Measured | DatasetError:
        return _tried(case, spec, reader, draws, room)

    def measure_in_voxels(case: Case) -> _Measured | DatasetError:
        return _tried(case, spec, reader, draws, room, in_voxels=True)

    results = each(measure, cases, threads=threads, title="Measuring cases", quiet=quiet)
    measured = [case for case in results if isinstance(case, _Measured)]
    if len({case.sized for case in measured}) > 1:
        without = sum(not case.sized for case in measured)
        logger.warning(
            "%d of %s of %s tell no size of their voxels, so that all sizes count in voxels.",
            without,
            counted(len(measured), "case"),
            spec.name,
        )
        results = each(measure_in_voxels, cases, threads=threads, title="Measuring in voxels", quiet=quiet)
        measured = [case for case in results if isinstance(case, _Measured)]
    failures = [case for case in results if isinstance(case, DatasetError)]
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise DatasetError(
            f"{len(failures)} of {counted(len(cases), 'case')} cannot be measured:\n"
            + "\n".join(map(str, failures[:MOST_FAULTS]))
        )
    planar = {case.planar for case in measured}
    if len(planar) > 1:
        raise DatasetError(f"{spec.name} mixes 2D and 3D images; a dataset holds one kind. Split it in two.")
    if not any(case.counts.size for case in measured):
        raise DatasetError(
            f"{spec.name}: no label file holds a foreground voxel; check labelsTr and the labels in dataset.json."
        )
    values, counts = (
        np.concatenate(parts, axis=1) for parts in zip(*((case.values, case.counts) for case in measured), strict=True)
    )
    ratios = [np.prod(m.fingerprint.shape_after_crop) / np.prod(m.fingerprint.shape) for m in measured]
    return Fingerprint(
        dataset=spec.name,
        planar=planar.pop(),
        measured=all(case.sized for case in measured),
        cases={case.identifier: m.fingerprint for case, m in zip(cases, measured, strict=True)},
        intensities=tuple(_statistics(*channel) for channel in zip(values, counts, strict=True)),
        median_relative_size_after_crop=float(np.median(ratios)),
        classes=tuple(_class_size(name, values, measured) for name, values in spec.labels.foreground),
        ignore=spec.labels.ignore,
        format=FINGERPRINT_FORMAT,
    )


def describes(
    fingerprint: Fingerprint,
    spec: DatasetSpec,
    cases: Sequence[Case],
    reader: ImageReader,
    *,
    threads: int,
    quiet: bool = False,
) -> bool:
    """Tell whether a fingerprint was made from these very files, channels and labels, in today's way."""
    classes = tuple((size.name, size.values) for size in fingerprint.classes)
    if (fingerprint.format, len(fingerprint.intensities), classes) != (
        FINGERPRINT_FORMAT,
        len(spec.channels),
        spec.labels.foreground,
    ):
        return False
    if fingerprint.ignore != spec.labels.ignore:
        return False
    if set(fingerprint.cases) != {case.identifier for case in cases}:
        return False
    hashes = each(lambda case: _hashes(case, reader), cases, threads=threads, title="Comparing files", quiet=quiet)
    return all(fingerprint.cases[case.identifier].sha256 == sha256 for case, sha256 in zip(cases, hashes, strict=True))


def _tried(
    case: Case, spec: DatasetSpec, reader: ImageReader, draws: int, room: Room, *, in_voxels: bool = False
) -> _Measured | DatasetError:
    """Measure a case, or return what is wrong with it, so that one broken case does not hide another."""
    try:
        size = peek_case(case, spec, reader)
        with room.of(
            size.reading + (MASK_BYTES + DRAWN_BYTES * len(spec.channels)) * math.prod(size.geometry.shape),
            case.identifier,
        ):
            return _measure(case, spec, reader, draws, in_voxels)
    except DatasetError as error:
        return error


def _measure(case: Case, spec: DatasetSpec, reader: ImageReader, draws: int, in_voxels: bool) -> _Measured:
    volume, label = read_case(case, spec, reader)
    spacing = (1.0, 1.0, 1.0) if in_voxels else volume.geometry.spacing
    box = bounding_box(nonzero_mask(volume.array))
    image, label = crop(volume.array, box), crop(label, box)
    foreground = label > 0
    if spec.labels.ignore is not None:
        foreground &= label != spec.labels.ignore
    voxels, random = image[:, foreground], np.random.RandomState(SAMPLING_SEED)
    counts = np.stack([_draw(random, voxels.shape[1], draws) for _ in voxels])
    drawn = counts.any(axis=0)
    axis = 0 if volume.geometry.planar else int(np.argmax(spacing))
    sizes = {}
    for name, values in spec.labels.foreground:
        mask = label == values[0] if len(values) == 1 else np.isin(label, values)
        if mask.any():
            sizes[name] = _sizes(mask, spacing, axis)
    return _Measured(
        fingerprint=CaseFingerprint(
            spacing=spacing,
            shape=volume.geometry.shape,
            shape_after_crop=shape3(image.shape[1:]),
            orientation=volume.geometry.orientation,
            foreground_slices=int(np.moveaxis(foreground, axis, 0).any(axis=(1, 2)).sum()),
            intensity_ranges=tuple(typical_range(channel) for channel in image),
            labels_present=distinct(label[foreground]),
            sha256=_hashes(case, reader),
        ),
        planar=volume.geometry.planar,
        sized=volume.geometry.measured,
        values=voxels[:, drawn],
        counts=counts[:, drawn].astype(np.min_scalar_type(counts.max(initial=0))),  # they stay until all are measured
        sizes=sizes,
    )


def _sizes(mask: np.ndarray, spacing: Triple, axis: int) -> _Sizes:
    """Measure a class in planes across the slicing axis `axis`."""
    height, width = (float(size) for other, size in enumerate(spacing) if other != axis)
    slices = np.moveaxis(crop(mask, bounding_box(mask)), axis, 0)
    filled = slices[slices.any(axis=(1, 2))]
    within_slices = ndimage.generate_binary_structure(3, 1)
    within_slices[[0, 2]] = False
    areas = []
    at_a_time = max(1, LABELED_VOXELS // filled[0].size)
    for first in range(0, len(filled), at_a_time):
        components, _ = ndimage.label(filled[first : first + at_a_time], within_slices)
        areas.append(np.bincount(components.ravel())[1:])
    sampled = (
        filled if len(filled) <= WIDTH_SLICES else filled[np.linspace(0, len(filled) - 1, WIDTH_SLICES).astype(int)]
    )
    return _Sizes(
        diameters=2 * np.sqrt(np.concatenate(areas) * (height * width / np.pi)),
        widths=_local_widths(sampled, height, width),
        extent=float(len(slices) * spacing[axis]),
    )


def _local_widths(slices: np.ndarray, height: float, width: float) -> np.ndarray:
    """Return the local width in mm at some pixels of (N, H, W) slices.

    It is 1 / sqrt(1 / a^2 + 1 / b^2) of the runs a and b of the class through the pixel, along a row and a column: the
    width of a straight strip whatever its angle, and about 0.6 of a disk's diameter.

    Args:
        height, width: of a pixel, mm.
    """
    padded = np.pad(slices, ((0, 0), (1, 1), (1, 1)))
    inside = np.flatnonzero(padded)
    inside = inside[:: -(-len(inside) // WIDTH_VOXELS)]
    planes, rows, columns = np.unravel_index(inside, padded.shape)
    turned = padded.swapaxes(1, 2)
    along_row = width * _runs(padded, inside)
    along_column = height * _runs(turned, np.ravel_multi_index((planes, columns, rows), turned.shape))
    return along_row * along_column / np.hypot(along_row, along_column)


def _runs(padded: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return the length of the class's run along the last axis at flat places; every row ends outside of it."""
    flat = padded.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    ending = np.searchsorted(ends, inside)
    return ends[ending] - ends[ending - 1]


def _class_size(name: str, values: tuple[int, ...], measured: Sequence[_Measured]) -> ClassSize:
    sizes = [case.sizes[name] for case in measured if name in case.sizes]
    diameters, widths = (
        np.concatenate([*parts, []]) for parts in ([size.diameters for size in sizes], [size.widths for size in sizes])
    )
    return ClassSize(
        name=name,
        values=values,
        cases=len(sizes),
        in_plane_mm=_percentiles(diameters, diameters**2),
        width_mm=_percentiles(widths, np.ones_like(widths)),
        extent_mm=_spread([size.extent for size in sizes]),
    )


def _percentiles(values: np.ndarray, weights: np.ndarray) -> Triple:
    """Return the values below which 10, 50 and 90 % of the weight lie; zeros where there are none."""
    if not values.size:
        return (0.0, 0.0, 0.0)
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    low, middle, high = values[order][np.searchsorted(reached, np.array((0.1, 0.5, 0.9)) * reached[-1])]
    return (float(low), float(middle), float(high))


def _spread(values: Sequence[float]) -> Triple:
    low, middle, high = np.percentile(values, (10, 50, 90)) if values else (0.0, 0.0, 0.0)
    return (float(low), float(middle), float(high))


def _draw(random: np.random.RandomState, population: int, draws: int) -> np.ndarray:
    """Draw with replacement, in nnU-Net's order of random numbers; return how often each of `population` came."""
    counts = np.zeros(population, np.int64)
    for first in range(0, draws if population else 0, DRAWS_AT_A_TIME):
        drawn = random.randint(0, population, min(DRAWS_AT_A_TIME, draws - first))
        counts += np.bincount(drawn, minlength=population)
    return counts


def _statistics(values: np.ndarray, counts: np.ndarray) -> IntensityStatistics:
    """Statistics of the sample in which each value stands `counts` times, without building it."""
    values, counts = values[counts > 0], counts[counts > 0].astype(np.int64)
    order = np.argsort(values)
    ordered, ends = values[order].astype(np.float64), np.cumsum(counts[order])

    def percentile(percent: float) -> float:
        """numpy's linear percentile: interpolate between the two samples around the position."""
        position = percent / 100 * (ends[-1] - 1)
        low, high = (
            ordered[np.searchsorted(ends, index, side="right")] for index in (np.floor(position), np.ceil(position))
        )
        return float(low + (high - low) * (position - np.floor(position)))

    mean = float(np.average(values, weights=counts))
    return IntensityStatistics(
        mean=mean,
        median=percentile(50),
        std=float(np.sqrt(np.average((values - mean) ** 2, weights=counts))),
        minimum=float(ordered[0]),
        maximum=float(ordered[-1]),
        percentile_00_5=percentile(0.5),
        percentile_99_5=percentile(99.5),
    )


def _hashes(case: Case, reader: ImageReader) -> dict[str, str]:
    return {f"{path.parent.name}/{path.name}": file_sha256(path) for path in files_of(case, reader)}
