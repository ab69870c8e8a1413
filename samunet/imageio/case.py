"""Read a case and check it: channels, grid and label values."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from samunet.core.dataset import Case, DatasetSpec
from samunet.core.geometry import REFUSE_VOXELS, WARN_VOXELS, Geometry
from samunet.core.names import brief
from samunet.core.units import counted
from samunet.core.values import distinct
from samunet.core.volume import Volume
from samunet.errors import DatasetError
from samunet.imageio.reader import FLOAT_BYTES, ImageReader

logger = logging.getLogger(__name__)

LONGEST_LABEL = 4  # bytes per voxel


def read_image(case: Case, spec: DatasetSpec, reader: ImageReader) -> Volume:
    """Read the image of a case; raises DatasetError where a file cannot be read, or the number of channels is not that
    of dataset.json.
    """
    volume = reader.read_image(case.images)
    _check_channels(len(volume.array), case, spec)
    return volume


@dataclass(frozen=True, kw_only=True)
class CaseSize:
    """What the headers of a case's files tell of it."""

    geometry: Geometry
    """Grid of the first file; position and direction need not be right."""
    reading: int
    """Bytes that `read_case`, or `read_image` where there is no label, takes at most, what it returns included."""
    beside: int = 0
    """Bytes of a process that reads such files, which stays for the next one."""


def peek_case(case: Case, spec: DatasetSpec, reader: ImageReader) -> CaseSize:
    """Return what reading a case will give and take, from headers alone; raises DatasetError where a header cannot be
    read, or the number of channels is not that of dataset.json.
    """
    peeks = [reader.peek(path) for path in case.images]
    _check_channels(sum(peek.channels for peek in peeks), case, spec)
    geometry = next((peek.geometry for peek in peeks if peek.geometry.measured), peeks[0].geometry)
    image = sum(peek.channels * math.prod(peek.geometry.shape) for peek in peeks) * FLOAT_BYTES
    loading = max(peek.loading for peek in peeks)
    reading = image + max(image, loading) if len(peeks) > 1 else max(loading, peeks[0].loaded + image)
    if case.label is not None:
        label = reader.peek(case.label)
        # Floating-point ones are rounded and compared.
        numbers = 4 if label.loaded > LONGEST_LABEL * math.prod(geometry.shape) else 1
        with_label = label.loading + numbers * label.loaded + LONGEST_LABEL * math.prod(geometry.shape)
        reading = max(reading, image + with_label)
    return CaseSize(geometry=geometry, reading=reading, beside=max(peek.beside for peek in peeks))


def _check_channels(count: int, case: Case, spec: DatasetSpec) -> None:
    if count != len(spec.channels):
        raise DatasetError(
            f"Case '{case.identifier}' has {counted(count, 'channel')} in {counted(len(case.images), 'file')}; "
            "dataset.json names "
            f"{len(spec.channels)} ({', '.join(spec.channels)}). Add the missing files, or correct channel_names."
        )


def read_case(
    case: Case, spec: DatasetSpec, reader: ImageReader, of_label: ImageReader | None = None
) -> tuple[Volume, np.ndarray]:
    """Read image and reference of a training case.

    Args:
        of_label: reader of the label; None takes the image's.

    Returns:
        The volume, and the label (D, H, W) as integers.

    Raises:
        DatasetError: as `read_image`; or image and label differ in grid, or the label holds a value that dataset.json
            does not name.
    """
    volume = read_image(case, spec, reader)
    if case.label is None:
        raise DatasetError(f"Case '{case.identifier}' has no label file.")
    label, geometry = (of_label or reader).read_label(case.label)
    check_grid_of_label(geometry, volume.geometry, f"Case '{case.identifier}': label")
    what = f"Case '{case.identifier}': label file {case.label.name}"
    refuse_unexpected_values(label, spec.labels.expected_in_files, what)
    return volume, label


def check_grid_of_label(label: Geometry, image: Geometry, what: str, *, shape_only: bool = False) -> None:
    """Raise DatasetError unless a label lies on its image's grid, to half a voxel; logs where it is near that.

    Args:
        what: the label, as the message begins.
        shape_only: look at the shape only.
    """
    if label.shape != image.shape:
        raise DatasetError(
            f"{what} has shape {label.shape}, image has {image.shape}. "
            "They must share one grid; resample the label, or remove the case from the dataset."
        )
    voxels_apart = 0.0 if shape_only else image.voxels_apart(label)
    if voxels_apart >= REFUSE_VOXELS:
        raise DatasetError(
            f"{what} and image lie {image.apart(label)} apart at a corner (label spacing {label.spacing}, image "
            f"spacing {image.spacing} mm). They must share one grid; correct the headers "
            "(samunet_import --copy_grid does in copies where the voxels belong together), or resample the label."
        )
    if voxels_apart >= WARN_VOXELS:
        logger.warning("%s and image lie %s apart at a corner; the image's grid is used.", what, image.apart(label))


def refuse_unexpected_values(label: np.ndarray, expected: Sequence[int], what: str) -> None:
    """Raise DatasetError when a label holds values that dataset.json does not name.

    Args:
        what: the file, as the message begins.
    """
    unexpected = sorted(set(distinct(label)) - set(expected))
    if unexpected:
        raise DatasetError(
            f"{what} holds the values {unexpected[:5]}, which dataset.json does not name "
            f"(it names {brief(list(expected))}). Correct the file, or the labels in dataset.json."
        )
