"""What every image reader offers, and the checks they share."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samunet.core.dataset import Case
from samunet.core.geometry import REFUSE_VOXELS, WARN_VOXELS, Geometry
from samunet.core.units import counted
from samunet.core.volume import Volume
from samunet.errors import DatasetError, ImageFileError, ShapeError

logger = logging.getLogger(__name__)

INTEGER_TOLERANCE = 1e-3  # scaled integer files (NIfTI slope) miss whole numbers by rounding, never by this much

ENORMOUS = 1e37  # padding is the largest float32, 3.4e38, or near it; no unit of measurement comes there

FLOAT_BYTES = 4  # of a value of what `ImageReader.read_image` returns

LoadedFile = tuple[np.ndarray, Geometry]
"""(C, D, H, W) in the file's own number type, and its grid."""


@dataclass(frozen=True, kw_only=True)
class Peek:
    """What a file's header tells before its voxels are read."""

    geometry: Geometry
    """Shape, spacing and planarity of the grid; position and direction need not be right."""
    channels: int
    loaded: int
    """Bytes of the array that `ImageReader.load` returns."""
    loading: int
    """Bytes that `ImageReader.load` takes at most, that array included."""
    beside: int = 0
    """Bytes of a process that reads such files, which stays for the next one."""


class ImageReader(ABC):
    """One family of file formats; a reader adds its name, its endings, `load`, `peek` and `write_segmentation`."""

    name: str
    """nnU-Net's name of the reader, as plans and dataset.json give it."""
    endings: tuple[str, ...]
    """File endings with their dot, in lower case."""

    @abstractmethod
    def load(self, path: Path) -> LoadedFile:
        """Read one file as it is; raises ImageFileError where the file is absent, damaged or of an unknown form."""

    @abstractmethod
    def write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
        """Write a (D, H, W) uint8 or uint16 segmentation on the given grid, compressed, whole or not at all.

        Raises:
            ShapeError: the segmentation does not have the grid's shape.
            ImageFileError: the format cannot hold the values or the grid.
        """

    @abstractmethod
    def peek(self, path: Path) -> Peek:
        """Return what a file's header tells; what is wrong further on is not noticed. Raises ImageFileError where the
        header cannot be read.
        """

    def files(self, path: Path) -> tuple[Path, ...]:
        """Return every file that reading `path` takes into account, itself first."""
        return (path,)

    def read_image(self, paths: Sequence[Path]) -> Volume:
        """Read the channel files of one case and stack their channels, float32; a file may hold several.

        Raises:
            ImageFileError: a file is absent, damaged, of an unknown form, or holds values that are not finite.
            DatasetError: the files differ in shape or spacing.
        """
        if len(paths) == 1:
            return stack_channels([self.load(paths[0])], paths)
        return stack_channels([_narrow(self.load(path), path) for path in paths], paths)

    def read_label(self, path: Path) -> tuple[np.ndarray, Geometry]:
        """Read a reference segmentation as (D, H, W) int16, or int32 when a value needs it; raises ImageFileError where
        the file is damaged, has several channels, or holds values that are not whole numbers.
        """
        return as_label(self.load(path), path)


def files_of(case: Case, reader: ImageReader) -> tuple[Path, ...]:
    """Return every file that reading a case takes into account."""
    return tuple(file for path in (*case.images, *([case.label] if case.label else [])) for file in reader.files(path))


def _narrow(file: LoadedFile, path: Path) -> LoadedFile:
    """Turn a file's numbers into float32 before the next file is read."""
    _check_numbers(file[0], path)
    with np.errstate(over="ignore"):  # infinite values are refused when channels are stacked
        return file[0].astype(np.float32, copy=False), file[1]


def stack_channels(files: Sequence[LoadedFile], paths: Sequence[Path]) -> Volume:
    """Stack the channels of one case's files on the grid of the first, of those that tell a size where any does.

    Origins and directions that differ are logged only, since nnU-Net accepts them.

    Raises:
        DatasetError: shapes or spacings differ, or there is no file.
        ImageFileError: a value or the grid of a file is not finite.
    """
    if not files:
        raise DatasetError("A case needs at least one image file; got none.")
    first, sized = next(
        ((geometry, path) for (_, geometry), path in zip(files, paths, strict=True) if geometry.measured),
        (files[0][1], paths[0]),
    )
    for (array, geometry), path in zip(files, paths, strict=True):
        _check_shape(array, geometry, path)
        check_grid(geometry, path)
        if geometry.shape != first.shape or geometry.planar != first.planar:
            raise DatasetError(
                f"Channel files of one case must share one shape: {sized} has {first.shape}, {path} has "
                f"{geometry.shape}. Resample one onto the other."
            )
        if geometry.measured and not same_spacing(geometry, first):
            raise DatasetError(
                f"Channel files of one case must share one spacing: {sized} has {first.spacing} mm, {path} has "
                f"{geometry.spacing} mm. Resample one onto the other."
            )
        if geometry.voxels_apart(first) >= WARN_VOXELS:
            logger.warning(
                "%s lies up to %s away from %s; the grid of the latter is used for both.",
                path,
                geometry.apart(first),
                sized,
            )
    stacked = np.empty((sum(len(array) for array, _ in files), *first.shape), dtype=np.float32)
    position = 0
    for (array, _), path in zip(files, paths, strict=True):
        _check_numbers(array, path)
        part = stacked[position : position + len(array)]
        with np.errstate(over="ignore"):  # numbers beyond float32 become infinite and are refused below
            part[...] = array
        _check_values(part, path)
        position += len(array)
    return Volume(array=stacked, geometry=first)


def same_spacing(first: Geometry, second: Geometry) -> bool:
    """Tell whether two grids' spacings add up to less than half a voxel of difference from end to end."""
    steps = np.maximum(first.shape, 2) - 1
    apart = np.abs(np.subtract(first.spacing, second.spacing)) * steps
    return bool((apart < REFUSE_VOXELS * np.minimum(first.spacing, second.spacing)).all())


def as_label(file: LoadedFile, path: Path) -> tuple[np.ndarray, Geometry]:
    """Turn a loaded one-channel file into (D, H, W) int16 (int32 when a value needs it) and its grid; raises
    ImageFileError for several channels, and for values that are not finite, not whole or beyond 32 bits.
    """
    array, geometry = file
    _check_shape(array, geometry, path)
    check_grid(geometry, path)
    _check_numbers(array, path)
    if len(array) != 1:
        raise ImageFileError(
            f"Label file {path} has {counted(len(array), 'channel')}, expected one; save the label values as one grey "
            "channel.",
            "label-channels",
        )
    values = array[0]
    if values.dtype.kind == "f":
        refuse_not_finite(count_not_finite(values), path)
        rounded = np.rint(values)
        worst = np.abs(values - rounded)
        if worst.max(initial=0) > INTEGER_TOLERANCE:
            example = values.flat[int(worst.argmax())]
            raise ImageFileError(
                f"Label file {path} holds {example:.6g}, expected whole numbers; it may have been resampled with "
                "interpolation, so make it again with nearest-neighbor interpolation.",
                "label-fraction",
            )
        values = rounded
    lowest, highest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= lowest and highest <= np.iinfo(kind).max:
            return values.astype(kind), geometry
    raise ImageFileError(
        f"Label file {path} holds values from {lowest:.0f} to {highest:.0f}, beyond 32 bits; renumber the labels.",
        "label-values",
    )


def as_channels(array: np.ndarray, path: Path) -> np.ndarray:
    """Bring (..., D, H, W) to (C, D, H, W); at most one of the leading axes may be longer than 1. Raises ImageFileError
    where there are two such axes, for example time and vector components, or fewer than three axes.
    """
    if array.size == 0:
        raise ImageFileError(
            f"{path} has axes of lengths {array.shape}, expected one voxel or more; export it again.", "header"
        )
    leading = array.shape[:-3]
    if array.ndim < 3 or sum(length > 1 for length in leading) > 1:
        raise ImageFileError(
            f"{path} has axes of lengths {array.shape}, expected one channel axis and three of space; split the file.",
            "pixel-form",
        )
    return array.reshape(-1, *array.shape[-3:])


def check_segmentation(segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
    """Raise ShapeError or ImageFileError unless a segmentation fits its grid and is uint8 or uint16."""
    if segmentation.shape != geometry.shape:
        raise ShapeError(
            f"{path}: the segmentation has shape {segmentation.shape}, its grid {geometry.shape}; export it onto that "
            "grid."
        )
    if segmentation.dtype not in (np.uint8, np.uint16):
        raise ImageFileError(
            f"{path}: a segmentation is written as uint8 or uint16, got {segmentation.dtype}; convert it first."
        )


def _check_shape(array: np.ndarray, geometry: Geometry, path: Path) -> None:
    """Refuse what a library makes of a damaged header: voxels of another shape than it says, or none."""
    if array.shape[1:] != geometry.shape or array.size == 0:
        raise ImageFileError(
            f"{path} holds voxels of shape {array.shape[1:]}, its header says {geometry.shape}; export it again.",
            "header",
        )


def check_grid(geometry: Geometry, path: Path) -> None:
    """Raise ImageFileError unless a grid has voxels, and every number of it is finite."""
    if min(geometry.shape) < 1:
        raise ImageFileError(
            f"{path} has shape {geometry.shape}, expected one voxel or more; export it again.", "header"
        )
    numbers = np.concatenate([geometry.spacing, geometry.origin, np.ravel(geometry.direction)])
    if not np.isfinite(numbers).all():
        raise ImageFileError(
            f"{path} has a spacing, origin or direction that is not a number; correct its header.", "header"
        )


def _check_numbers(array: np.ndarray, path: Path) -> None:
    """Refuse what is no real number; of a complex one the imaginary part would be lost."""
    if array.dtype.kind == "c":
        raise ImageFileError(
            f"{path} holds complex numbers, expected real ones; save magnitude and phase as two channels.",
            "number-type",
        )
    if array.dtype.kind not in "buif":
        raise ImageFileError(
            f"{path} holds values of type {array.dtype}, expected numbers; export it again.", "number-type"
        )


def _check_values(array: np.ndarray, path: Path) -> None:
    """Refuse values that are not finite, and say where some are about the largest that 32 bits hold, as padding is."""
    with np.errstate(invalid="ignore", over="ignore"):
        if abs(array.sum(dtype=np.float64)) < ENORMOUS:
            return
    refuse_not_finite(count_not_finite(array), path)
    largest = float(np.abs(array).max())
    if largest >= ENORMOUS:
        logger.warning(
            "%s holds values up to %.3g, about the largest that 32 bits hold, beside which all others vanish; where "
            "they are padding, replace them by the smallest value of the image.",
            path,
            largest,
        )


def count_not_finite(array: np.ndarray) -> int:
    """Count the values that are NaN or infinite."""
    # The sum is finite when every value is; only the rare overflow needs the slower look.
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(array.sum(dtype=np.float64)):
            return 0
    return int(array.size - np.isfinite(array).sum())


def refuse_not_finite(count: int, path: Path) -> None:
    """Raise ImageFileError when a file holds such values."""
    if count:
        raise ImageFileError(
            f"{path} holds {count} values that are NaN or infinite; replace them, for example by the smallest value.",
            "not-finite",
        )
