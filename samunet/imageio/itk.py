"""Have ITK read files, and turn what it has read into channels and their grid.

ITK's parsers crash or run without end on some damaged files, so that nothing here is called in the process that holds a
run's results: see `samunet.imageio.itk_pool`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from samunet.core.codec import encode
from samunet.core.geometry import Geometry, Vector3
from samunet.errors import ImageFileError
from samunet.imageio import dicom
from samunet.imageio.reader import LoadedFile, as_channels, check_grid

IMAGE_IO = {
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".gipl": "GiplImageIO",
}
"""ITK's reader by ending; left to choose, ITK takes a file for whatever its content begins like."""

NIFTI_HEADERS = (352, 544)  # bytes, of NIfTI-1 and NIfTI-2


def perform(
    task: str, path: Path, share: Callable[[np.ndarray], None], target: str = "", series: str | None = None
) -> Any:
    """Do one of the tasks that `samunet.imageio.itk_pool` gives; raises ImageFileError as the functions that do it.

    Args:
        share: takes voxels (C, D, H, W), whose memory ends with the call.
        target: file to write, of "convert series".
        series: which one of a folder, where it holds several.

    Returns:
        What JSON can write.
    """
    if task in ("read file", "read series"):
        image = read_file(path) if task == "read file" else dicom.read_series(path, series)
        array, geometry = from_itk(image, path, view=True)
        share(array)
        return encode(geometry)
    if task == "list series":
        return [str(file) for file in dicom.series_files(path, series)]
    if task == "peek series":
        return encode(dicom.peek_series(path, series))
    image = dicom.read_series(path, series)
    sitk.WriteImage(image, target)
    payload = image.GetNumberOfPixels() * image.GetNumberOfComponentsPerPixel() * image.GetSizeOfPixelComponent()
    if not holds(Path(target), payload):
        raise ImageFileError(f"{target} cannot be written whole; is the disk full?")
    return None


def read_file(path: Path) -> sitk.Image:
    """Read one MetaImage, NRRD or GIPL file whose header was checked; raises ImageFileError where ITK refuses it."""
    try:
        return sitk.ReadImage(str(path), imageIO=IMAGE_IO[path.suffix.lower()])
    except RuntimeError as error:
        raise ImageFileError(
            f"{path} cannot be read: {reason(error)} Export it again, or convert it to .nii.gz."
        ) from None


def from_itk(image: sitk.Image, path: Path, *, view: bool = False) -> LoadedFile:
    """Turn an image of SimpleITK's into channels and their grid; raises ImageFileError where the numbers are complex,
    there are several axes of channels, or the grid is not finite.

    Args:
        path: stands in messages.
        view: share the image's memory, which lives as long as the image.
    """
    if "complex" in image.GetPixelIDTypeAsString():
        raise ImageFileError(
            f"{path} holds complex numbers, expected real ones; save magnitude and phase as two channels.",
            "number-type",
        )
    array = sitk.GetArrayViewFromImage(image) if view else sitk.GetArrayFromImage(image)
    dimensions = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    if dimensions == 2:
        array = array[..., None, :, :]
    array = as_channels(array, path)
    geometry = _geometry(image, array.shape[1:])
    check_grid(geometry, path)
    return array, geometry


def to_itk(labels: np.ndarray, geometry: Geometry) -> sitk.Image:
    """Return (D, H, W) labels as an image of SimpleITK's, whose axes are x, y, z, as those of its arrays are not."""
    axes = 2 if geometry.planar else 3
    image = sitk.GetImageFromArray(labels[0] if geometry.planar else labels)
    image.SetSpacing(geometry.spacing[::-1][:axes])
    image.SetOrigin(geometry.origin[:axes])
    image.SetDirection(np.array(geometry.direction)[::-1].T[:axes, :axes].ravel().tolist())
    return image


def _geometry(image: sitk.Image, shape: tuple[int, int, int]) -> Geometry:
    dimensions = image.GetDimension()
    directions = np.array(image.GetDirection()).reshape(dimensions, dimensions)
    if dimensions == 2:
        (x, y), (column_x, column_y) = image.GetSpacing(), directions.T
        return Geometry(
            shape=shape,
            spacing=(1.0, y, x),
            origin=(*image.GetOrigin(), 0.0),
            direction=((0.0, 0.0, 1.0), (*column_y.tolist(), 0.0), (*column_x.tolist(), 0.0)),
            planar=True,
        )
    x, y, z = image.GetSpacing()[:3]
    return Geometry(
        shape=shape,
        spacing=(z, y, x),
        origin=image.GetOrigin()[:3],
        direction=(_column(directions, 2), _column(directions, 1), _column(directions, 0)),
    )


def _column(matrix: np.ndarray, index: int) -> Vector3:
    x, y, z = matrix[:3, index].tolist()
    return (x, y, z)


def reason(error: RuntimeError) -> str:
    """Return what ITK says after its file names and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("ITK ERROR:").strip() if lines else "ITK gives no reason."


def holds(path: Path, payload: int) -> bool:
    """Tell whether a file that ITK writes without looking at errors (2.5.7) holds so many bytes of voxels."""
    if path.name.endswith(".nii.gz"):
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)  # the uncompressed size modulo 2^32 ends a gzip file
            return int.from_bytes(file.read(), "little") in {(payload + header) % 2**32 for header in NIFTI_HEADERS}
    return path.suffix not in (".nii", ".gipl") or path.stat().st_size > payload
