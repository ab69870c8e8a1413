"""Folders of DICOM files: one series makes one volume."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from samunet.core.geometry import Geometry
from samunet.core.units import counted
from samunet.errors import ImageFileError
from samunet.imageio.reader import Peek

PIXEL_BYTES = {
    getattr(sitk, f"sitk{vector}{name}"): size
    for name, size in {"UInt8": 1, "Int8": 1, "UInt16": 2, "Int16": 2, "UInt32": 4, "Int32": 4, "Float32": 4}.items()
    for vector in ("", "Vector")
}
"""Bytes of one component by pixel type; what is not here has 8."""
logger = logging.getLogger(__name__)

PREAMBLE = 128  # bytes before the letters DICM
PARALLEL_WITHIN = 1e-3  # largest difference of a cosine
LARGEST_SHIFT = 0.5  # mm, of a slice within its plane against the first one
GAP_TOLERANCE = 0.02  # share of the usual distance between slices; headers hold rounded numbers


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series of a folder."""

    uid: str
    description: str
    modality: str
    files: tuple[Path, ...]
    """Files of the slices, in the order of their positions."""

    def is_meant(self, asked: str, number: int) -> bool:
        """Tell whether a user means this one by its number in the list, its UID or its description in any case."""
        return asked in (self.uid, str(number)) or asked.casefold() == self.description.casefold()


def series_in(folder: Path) -> tuple[Series, ...]:
    """List the series whose files lie directly in a folder; raises ImageFileError where a header cannot be read."""
    listed = []
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = tuple(Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid))
        header = _header(files[0])
        names = {"uid": "SeriesInstanceUID", "description": "SeriesDescription", "modality": "Modality"}
        with _unvalidated():
            listed.append(Series(**{key: str(header.get(name, "")) for key, name in names.items()}, files=files))
    return tuple(listed)


def series_files(folder: Path, series: str | None = None) -> tuple[Path, ...]:
    """Return the files of the one series in a folder, in the order of their positions.

    Args:
        series: which one, where there are several: number, UID or description.

    Raises:
        ImageFileError: the folder is absent, holds no series or several of which none is meant, or a DICOM file that
            belongs to none because it is damaged.
    """
    if not folder.is_dir():
        raise ImageFileError(f"Folder {folder} does not exist.", "missing-file")
    listed = series_in(folder)
    meant = listed if series is None else [one for number, one in enumerate(listed, 1) if one.is_meant(series, number)]
    listed_files = {file for one in listed for file in one.files}
    others = [path for path in sorted(folder.iterdir()) if path not in listed_files and path.name != "DICOMDIR"]
    left_out = [path for path in others if is_dicom(path)]
    if left_out:  # ITK passes over files that it cannot parse
        _check_slice(left_out[0])  # says why, where it can
        raise ImageFileError(
            f"{left_out[0]} is a DICOM file that cannot be read; copy or export the series again.", "truncated"
        )
    if not listed:
        raise ImageFileError(f"{folder} holds no DICOM file, expected the files of one series.", "pixel-form")
    if len(meant) != 1:
        described = [
            f"{one.description or 'no description'}, {one.modality}, {counted(len(one.files), 'file')}, {one.uid}"
            for one in listed
        ]
        listing = "; ".join(f"{number}: {one}" for number, one in enumerate(described, 1))
        which = "" if series is None else f" that is {series!r}"
        message = f"{folder} holds {len(listed)} DICOM series, expected one{which} ({listing})"
        raise ImageFileError(f"{message}. Choose one with --series, or give each a folder of its own.", "pixel-form")
    return meant[0].files


def read_series(folder: Path, series: str | None = None) -> sitk.Image:
    """Read the series in a folder as one 3D image of its stored numbers, rescaled slice by slice as the headers say.

    Raises:
        ImageFileError: as `series_files`; a file is damaged or says no pixel spacing, or slices are missing, not
            parallel or of different form.
    """
    files = series_files(folder, series)
    slices = [_check_slice(file) for file in files]
    for file, one in zip(files, slices, strict=True):
        if one.form != slices[0].form:
            message = (
                f"{file} has {_described(one)}, {files[0].name} has {_described(slices[0])}; give each stack a folder "
                "of its own."
            )
            raise ImageFileError(message, "pixel-form")
    _check_places(np.array([one.place for one in slices]), folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    if len({one.numbers for one in slices}) > 1:
        # ITK takes the first slice's number type for all, and would round the others' values.
        reader.SetOutputPixelType(sitk.sitkFloat64)
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise ImageFileError(f"{folder} cannot be read: {_reason(error)} Copy or export it again.") from None


def peek_series(folder: Path, series: str | None = None) -> Peek:
    """Tell what reading a series gives from its first and last header; raises as `series_files`, or where damaged."""
    files = series_files(folder, series)
    header = sitk.ImageFileReader()
    ends = []
    for file in (files[0], files[-1]):
        header.SetFileName(str(file))
        try:
            header.ReadImageInformation()
            ends.append(np.array(header.GetOrigin()))
        except RuntimeError as error:
            raise ImageFileError(f"{file} cannot be read: {_reason(error)}") from None
    (width, height, *rest), (x, y, *_) = header.GetSize(), header.GetSpacing()
    if len(files) == 1:
        depth, distance = (rest[0], header.GetSpacing()[2]) if rest else (1, 1.0)
    else:
        depth, distance = len(files), float(np.linalg.norm(ends[1] - ends[0])) / (len(files) - 1) or 1.0
    loaded = depth * height * width * pixel_bytes(header)
    return Peek(
        geometry=Geometry(shape=(depth, height, width), spacing=(distance, y, x)),
        channels=header.GetNumberOfComponents(),
        loaded=loaded,
        # Image and copy; one file's parts.
        loading=2 * loaded + 3 * (loaded // len(files)) + max(file.stat().st_size for file in files),
    )


def pixel_bytes(header: sitk.ImageFileReader) -> int:
    """Return the bytes of a voxel, all its components, in a file whose header was read."""
    return PIXEL_BYTES.get(header.GetPixelID(), 8) * header.GetNumberOfComponents()


@dataclass(frozen=True, kw_only=True)
class _Slice:
    """What one file of a series says."""

    place: tuple[float, ...]
    """Position and its two axes, nine numbers."""
    form: tuple[int, int, int, str, object]
    """What all slices share: rows, columns, samples per pixel, photometric interpretation, pixel spacing."""
    numbers: tuple[object, ...]
    """Bits, sign, slope and intercept."""


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Let pydicom take values as they are, without warnings: those that count are checked by name."""
    from pydicom.config import disable_value_validation

    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@_unvalidated()
def _check_slice(file: Path) -> _Slice:
    """Read a slice's header and compare its pixels with it: ITK fills up short ones, and takes no spacing for 1 mm;
    raises ImageFileError where something is absent or cannot be true.
    """
    header = _header(file)
    try:
        place = [
            float(part) for name in ("ImagePositionPatient", "ImageOrientationPatient") for part in header[name].value
        ]
        rows, columns, samples, bits = (
            int(header[name].value) for name in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
        )
        frames = int(header.get("NumberOfFrames") or 1)
        spacing = tuple(float(part) for part in header.get("PixelSpacing") or ())
        scaling = (float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0)))
        if len(place) != 9 or not np.isfinite([*place, *scaling]).all():
            raise ValueError("position, orientation or rescale values are no finite numbers")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ImageFileError(
            f"{file} has no readable header or position ({_reason(error)}); export the series again.", "header"
        ) from None
    if frames != 1:
        raise ImageFileError(
            f"{file} holds {frames} frames, expected one slice per file; export it as single frames, or as .nii.gz.",
            "pixel-form",
        )
    if min(rows, columns, samples) < 1:
        raise ImageFileError(
            f"{file} has {rows} x {columns} pixels of {counted(samples, 'sample')}, expected one or more; export the "
            "series "
            "again.",
            "header",
        )
    if len(spacing) != 2 or not all(0 < part < np.inf for part in spacing):
        given = f"has PixelSpacing {list(spacing)}, expected two positive numbers"
        message = f"{file} {given if spacing else 'says nothing of its PixelSpacing'}, so the size of its pixels is not"
        message += " known."
        if "ImagerPixelSpacing" in header:
            message += " ImagerPixelSpacing is that of the detector, not of the patient."
        raise ImageFileError(f"{message} Correct the tag, or convert the series to .nii.gz with its spacing.", "header")
    _check_length(file, header, -(-rows * columns * samples * bits // 8))
    form = (rows, columns, samples, str(header.get("PhotometricInterpretation")), spacing)
    return _Slice(place=tuple(place), form=form, numbers=(bits, header.get("PixelRepresentation"), *scaling))


def _header(file: Path) -> Any:
    """Read a DICOM file, with its pixels as they are stored; raises ImageFileError."""
    import pydicom  # takes a tenth of a second, for the few who have DICOM

    try:
        with _unvalidated():
            return pydicom.dcmread(file, force=True)
    except Exception as error:  # of damaged files pydicom raises anything
        raise ImageFileError(
            f"{file} has no readable header ({_reason(error)}); export the series again.", "header"
        ) from None


def _check_length(file: Path, header: Any, needed: int) -> None:
    """Compare the bytes of a slice's pixels with what rows, columns and bits need.

    Compressed pixels must be whole in themselves; pydicom finds no element where their end is missing.
    """
    if "PixelData" not in header:
        raise ImageFileError(
            f"{file} is truncated: it holds no pixels, or their end is missing; copy or export the series again.",
            "truncated",
        )
    there = len(header["PixelData"].value or b"")
    syntax = getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", None)
    if there and syntax is not None and syntax.is_encapsulated:
        return
    if there < needed and header.get("PhotometricInterpretation") != "YBR_FULL_422":  # holds two of three samples
        message = (
            f"{file} is truncated: {there} bytes of pixels are there, rows and columns need {needed}; copy or export "
            "the series again."
        )
        raise ImageFileError(message, "truncated")
    if there > needed + 1:  # lengths are even
        logger.warning(
            "%s holds %d bytes of pixels, rows and columns need %d; the last ones are not used.", file, there, needed
        )


def is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def _check_places(places: np.ndarray, folder: Path) -> None:
    """ITK takes one distance between slices for all of them, straight across; refuse series where that moves slices."""
    positions, axes = places[:, :3], places[:, 3:]
    if np.abs(axes - axes[0]).max() > PARALLEL_WITHIN:
        raise ImageFileError(
            f"{folder} holds slices of different directions; give each stack a folder of its own.", "pixel-form"
        )
    across = np.cross(axes[0, :3], axes[0, 3:])
    steps = np.abs(np.diff(positions @ across))
    if len(steps) and np.abs(steps - np.median(steps)).max() >= GAP_TOLERANCE * np.median(steps):
        raise ImageFileError(
            f"{folder} holds slices {steps.min():.4g} to {steps.max():.4g} mm apart; slices are missing or there "
            "twice, so export the series again.",
            "header",
        )
    within = positions - positions[0] - np.outer((positions - positions[0]) @ across, across)
    if (shift := np.linalg.norm(within, axis=1).max()) >= LARGEST_SHIFT:
        raise ImageFileError(
            f"{folder} holds slices that are shifted against each other, by {shift:.4g} mm in all, as a tilted gantry "
            "makes them; resample the series to an upright grid, and give that, e.g. as .nii.gz.",
            "header",
        )


def _described(one: _Slice) -> str:
    rows, columns, samples, photometric, spacing = one.form
    return f"{rows} x {columns} pixels of {counted(samples, 'sample')}, {photometric}, {spacing} mm"


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[-1].strip()
