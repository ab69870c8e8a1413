"""Read and write NIfTI, NRRD, MetaImage and GIPL through SimpleITK; read folders of DICOM files."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from samunet.core.codec import atomic_path
from samunet.core.geometry import IDENTITY_DIRECTION, Geometry, Vector3
from samunet.errors import ImageFileError
from samunet.imageio import dicom, nibabel_reader
from samunet.imageio.headers import Header, read_header
from samunet.imageio.integrity import check_file, refuse_absent
from samunet.imageio.nifti import is_nifti
from samunet.imageio.reader import ImageReader, LoadedFile, Peek, as_channels, check_segmentation, same_spacing

IMAGE_IO = {".mha": "MetaImageIO", ".mhd": "MetaImageIO", ".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".gipl": "GiplImageIO"}
"""ITK's reader by ending; left to choose, ITK takes a file for whatever its content begins like."""

NIFTI_HEADERS = (352, 544)  # bytes, of NIfTI-1 and NIfTI-2


class SimpleITKIO(ImageReader):
    """The reader for medical formats."""

    name = "SimpleITKIO"
    endings: tuple[str, ...] = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")

    def load(self, path: Path) -> LoadedFile:
        """See ImageReader; a 4D or multi-component file gives several channels, a folder the DICOM series in it."""
        if path.is_dir():
            return from_itk(dicom.read_series(path), path)
        if is_nifti(path):
            return nibabel_reader.load(path)
        header = check_file(path)
        try:
            image = sitk.ReadImage(str(path), imageIO=IMAGE_IO[path.suffix.lower()])
        except RuntimeError as error:
            raise _unreadable(path, error) from None
        array, geometry = from_itk(image, path)
        expected = _geometry(header)
        if geometry.shape != expected.shape or not same_spacing(geometry, expected):
            message = f"{path} is understood by ITK as {geometry.shape} voxels of {geometry.spacing} mm, its header says {expected.shape} and "
            raise ImageFileError(message + f"{expected.spacing}; export it again.", "header")
        return array, geometry

    def peek(self, path: Path) -> Peek:
        """See ImageReader; of a file the header only is read."""
        if path.is_dir():
            return dicom.peek_series(path)
        if is_nifti(path):
            return nibabel_reader.peek(path)
        refuse_absent(path)
        header = read_header(path)
        return Peek(
            geometry=_geometry(header),
            channels=header.components * math.prod(header.size[3:]),
            loaded=header.num_bytes,
            loading=2 * header.num_bytes + header.data.stat().st_size,  # ITK's image, its copy, and the compressed stream
        )

    def files(self, path: Path) -> tuple[Path, ...]:
        """See ImageReader; a header may keep its voxels in a file beside it."""
        if path.is_dir():
            return dicom.series_files(path)
        if is_nifti(path) or not path.is_file():
            return (path,)
        return tuple(dict.fromkeys((path, read_header(path).data)))

    def write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
        """See ImageReader; a planar grid is written as a 2D image. GIPL holds no direction, so it takes identity only."""
        check_segmentation(segmentation, geometry, path)
        if path.suffix.lower() == ".gipl" and not np.allclose(geometry.direction, IDENTITY_DIRECTION, atol=1e-6):
            raise ImageFileError(f"{path}: GIPL files hold no direction, and this grid is turned; write .nii.gz or .mha instead.")
        dimensions = 2 if geometry.planar else 3
        image = sitk.GetImageFromArray(segmentation[0] if geometry.planar else segmentation)
        image.SetSpacing(geometry.spacing[::-1][:dimensions])
        image.SetOrigin(geometry.origin[:dimensions])
        columns = np.array(geometry.direction[::-1]).T
        image.SetDirection(columns[:dimensions, :dimensions].ravel().tolist())
        with atomic_path(path) as temporary:
            try:
                sitk.WriteImage(image, str(temporary), useCompression=True)
            except RuntimeError as error:
                raise ImageFileError(f"{path} cannot be written: {_reason(error)}") from None
            if not _holds(temporary, segmentation.nbytes):
                raise ImageFileError(f"{path} cannot be written whole; is the disk full?")


def _geometry(header: Header) -> Geometry:
    (width, height, *slices), (x, y, *thickness) = header.size, header.spacing
    shape, spacing = (slices[0] if slices else 1, height, width), (thickness[0] if slices else 1.0, y, x)
    return Geometry(shape=shape, spacing=spacing, planar=not slices)


def from_itk(image: sitk.Image, path: Path) -> LoadedFile:
    """Turn what SimpleITK has read into channels and their grid; raises ImageFileError for complex numbers."""
    if "complex" in image.GetPixelIDTypeAsString():
        raise ImageFileError(f"{path} holds complex numbers, expected real ones; save magnitude and phase as two channels.", "number-type")
    array = sitk.GetArrayFromImage(image)
    dimensions = image.GetDimension()
    if image.GetNumberOfComponentsPerPixel() > 1:
        array = np.moveaxis(array, -1, 0)
    if dimensions == 2:
        array = array[..., None, :, :]
    array = as_channels(array, path)
    directions = np.array(image.GetDirection()).reshape(dimensions, dimensions)
    depth, height, width = array.shape[1:]
    if dimensions == 2:
        (x, y), (column_x, column_y) = image.GetSpacing(), directions.T
        return array, Geometry(
            shape=(depth, height, width),
            spacing=(1.0, y, x),
            origin=(*image.GetOrigin(), 0.0),
            direction=((0.0, 0.0, 1.0), (*column_y.tolist(), 0.0), (*column_x.tolist(), 0.0)),
            planar=True,
        )
    x, y, z = image.GetSpacing()[:3]
    return array, Geometry(
        shape=(depth, height, width),
        spacing=(z, y, x),
        origin=image.GetOrigin()[:3],
        direction=(_column(directions, 2), _column(directions, 1), _column(directions, 0)),
    )


def _holds(path: Path, payload: int) -> bool:
    """Tell whether a file of a format that ITK writes without looking at what the system says of it (2.5.7) holds so many bytes of voxels."""
    if path.name.endswith(".nii.gz"):
        with open(path, "rb") as file:
            file.seek(-4, os.SEEK_END)  # the uncompressed size modulo 2^32 ends a gzip file
            return int.from_bytes(file.read(), "little") in {(payload + header) % 2**32 for header in NIFTI_HEADERS}
    return path.suffix not in (".nii", ".gipl") or path.stat().st_size > payload


def _column(matrix: np.ndarray, index: int) -> Vector3:
    x, y, z = matrix[:3, index].tolist()
    return (x, y, z)


def _unreadable(path: Path, error: RuntimeError) -> ImageFileError:
    return ImageFileError(f"{path} cannot be read: {_reason(error)} Export it again, or convert it to .nii.gz.")


def _reason(error: RuntimeError) -> str:
    """Return what ITK says after its file names and addresses."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].removeprefix("ITK ERROR:").strip() if lines else "ITK gives no reason."
