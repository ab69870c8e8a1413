"""Folders of DICOM files: one series makes one volume."""

from __future__ import annotations

import locale
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import RLock

import numpy as np
import SimpleITK as sitk

from samunet.core.geometry import Geometry
from samunet.errors import ImageFileError
from samunet.imageio.reader import Peek

POSITION, ORIENTATION = "0020|0032", "0020|0037"  # image position and orientation (patient)
ROWS, COLUMNS, SAMPLES, BITS = "0028|0010", "0028|0011", "0028|0002", "0028|0100"  # bits allocated a sample
PIXEL_DATA, DELIMITER, UNDEFINED = b"\xe0\x7f\x10\x00", b"\xfe\xff\xdd\xe0", 0xFFFFFFFF  # tags, little endian; length of compressed pixels
PIXEL_BYTES = {
    getattr(sitk, f"sitk{vector}{name}"): size
    for name, size in {"UInt8": 1, "Int8": 1, "UInt16": 2, "Int16": 2, "UInt32": 4, "Int32": 4, "Float32": 4}.items()
    for vector in ("", "Vector")
}
"""Of one component; what is not here has 8."""
PREAMBLE = 128  # bytes before the letters DICM
PARALLEL = 1e-3  # largest difference of a cosine
LOCALE = RLock()
GAP_TOLERANCE = 0.02  # share of the usual distance between slices; headers hold rounded numbers


@contextmanager
def _locale_kept() -> Iterator[None]:
    """ITK's DICOM functions set the process's locale to "C", which changes how Python decodes text files (SimpleITK 2.5.7)."""
    with LOCALE:  # one thread would take another's "C" for the locale to go back to
        before = locale.setlocale(locale.LC_ALL)
        try:
            yield
        finally:
            locale.setlocale(locale.LC_ALL, before)


@_locale_kept()
def series_files(folder: Path) -> tuple[Path, ...]:
    """Return the files of the one series in a folder, in the order of their positions.

    Raises:
        ImageFileError: the folder is absent, holds no series or more than one, or a DICOM file that belongs to none because it is damaged.
    """
    if not folder.is_dir():
        raise ImageFileError(f"Folder {folder} does not exist.", "missing-file")
    series = sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        what = "no DICOM file" if not series else f"{len(series)} DICOM series"
        raise ImageFileError(f"{folder} holds {what}, expected the files of one series; give each series a folder of its own.", "pixel-form")
    files = tuple(Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), series[0]))
    left_out = [path for path in sorted(folder.iterdir()) if path not in files and path.name != "DICOMDIR" and is_dicom(path)]
    if left_out:  # ITK passes over files that it cannot parse
        raise ImageFileError(f"{left_out[0]} is a DICOM file that cannot be read; copy or export the series again.", "truncated")
    return files


@_locale_kept()
def read_series(folder: Path) -> sitk.Image:
    """Read the series in a folder as one 3D image.

    Raises:
        ImageFileError: as `series_files`; a file is damaged, or slices are missing or not parallel.
    """
    files = series_files(folder)
    places = np.array([_check_slice(file) for file in files])
    _check_distances(places, folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(file) for file in files])
    try:
        return reader.Execute()
    except RuntimeError as error:
        raise ImageFileError(f"{folder} cannot be read: {_reason(error)} Copy or export it again.") from None


@_locale_kept()
def peek_series(folder: Path) -> Peek:
    """Tell what reading a series gives from the headers of its first and last file; raises as `series_files`, or where one is damaged."""
    files = series_files(folder)
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
        loading=2 * loaded + 3 * (loaded // len(files)) + max(file.stat().st_size for file in files),  # image and copy; one file's parts
    )


def pixel_bytes(header: sitk.ImageFileReader) -> int:
    """Return the bytes of a voxel, all its components, in a file whose header was read."""
    return PIXEL_BYTES.get(header.GetPixelID(), 8) * header.GetNumberOfComponents()


def _check_slice(file: Path) -> list[float]:
    """Return a slice's position and its two axes, nine numbers; refuse a file whose pixels end early, which ITK fills up without a word."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(file))
    try:
        reader.ReadImageInformation()
        position, axes = ([float(part) for part in reader.GetMetaData(tag).split("\\")] for tag in (POSITION, ORIENTATION))
        pixel_bytes = math.prod(int(reader.GetMetaData(tag)) for tag in (ROWS, COLUMNS, SAMPLES)) * int(reader.GetMetaData(BITS)) // 8
    except (RuntimeError, ValueError) as error:
        raise ImageFileError(f"{file} has no readable header or position ({_reason(error)}); export the series again.", "header") from None
    if _is_cut(file.read_bytes(), pixel_bytes):
        raise ImageFileError(f"{file} is truncated: its pixels end early; copy or export the series again.", "truncated")
    return position + axes


def is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(PREAMBLE + 4)[PREAMBLE:] == b"DICM"


def _is_cut(content: bytes, pixel_bytes: int) -> bool:
    """Tell whether the element that holds the pixels, plain or compressed, goes on beyond the end of the file."""
    place = content.find(PIXEL_DATA)
    while place >= 0:
        explicit = content[place + 4 : place + 6] in (b"OW", b"OB")
        start = place + (12 if explicit else 8)
        length = int.from_bytes(content[start - 4 : start], "little")
        if length == UNDEFINED:
            return DELIMITER not in content[start:]
        if pixel_bytes <= length <= pixel_bytes + 1:  # lengths are even
            return start + length > len(content)
        place = content.find(PIXEL_DATA, place + 1)
    return False


def _check_distances(places: np.ndarray, folder: Path) -> None:
    """ITK takes one distance between slices for all of them; refuse series where that moves slices."""
    positions, axes = places[:, :3], places[:, 3:]
    if np.abs(axes - axes[0]).max() > PARALLEL:
        raise ImageFileError(f"{folder} holds slices of different directions; give each stack a folder of its own.", "pixel-form")
    steps = np.abs(np.diff(positions @ np.cross(axes[0, :3], axes[0, 3:])))
    if len(steps) and np.abs(steps - np.median(steps)).max() >= GAP_TOLERANCE * np.median(steps):
        raise ImageFileError(
            f"{folder} holds slices {steps.min():.4g} to {steps.max():.4g} mm apart; slices are missing or there twice, so export the series again.",
            "header",
        )


def _reason(error: Exception) -> str:
    return str(error).splitlines()[-1].strip()
