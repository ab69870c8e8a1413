"""Read and write NIfTI, NRRD, MetaImage and GIPL; read folders of DICOM files.

What ITK reads, it reads in a process of its own.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from samunet.core.codec import atomic_path
from samunet.core.geometry import IDENTITY_DIRECTION, Geometry
from samunet.errors import ImageFileError
from samunet.imageio import itk_pool, nibabel_reader
from samunet.imageio.headers import Header, read_header
from samunet.imageio.integrity import check_file, refuse_absent
from samunet.imageio.itk import holds, reason, to_itk
from samunet.imageio.nifti import is_nifti
from samunet.imageio.reader import ImageReader, LoadedFile, Peek, check_segmentation, same_spacing


class SimpleITKIO(ImageReader):
    """The reader for medical formats."""

    name = "SimpleITKIO"
    endings: tuple[str, ...] = (".nii.gz", ".nii", ".nrrd", ".mha", ".gipl")

    def __init__(self, series: str | None = None) -> None:
        """Choose a series of folders that hold several, see `samunet.imageio.dicom.series_files`."""
        self.series = series

    def load(self, path: Path) -> LoadedFile:
        """See ImageReader; a 4D or multi-component file gives several channels, a folder the DICOM series in it."""
        if path.is_dir():
            return itk_pool.read_series(path, self.series)
        if is_nifti(path):
            return nibabel_reader.load(path)
        header = check_file(path)
        array, geometry = itk_pool.read_file(path, header.num_bytes)
        expected = _geometry(header)
        if geometry.shape != expected.shape or not same_spacing(geometry, expected):
            raise ImageFileError(
                f"{path} is understood by ITK as {geometry.shape} voxels of {geometry.spacing} mm, its header says "
                f"{expected.shape} and {expected.spacing}; export it again.",
                "header",
            )
        return array, replace(geometry, directed=path.suffix.lower() != ".gipl")

    def peek(self, path: Path) -> Peek:
        """See ImageReader; of a file the header only is read."""
        if path.is_dir():
            return replace(itk_pool.peek_series(path, self.series), beside=itk_pool.PROCESS)
        if is_nifti(path):
            return nibabel_reader.peek(path)
        refuse_absent(path)
        header = read_header(path)
        return Peek(
            geometry=_geometry(header),
            channels=header.components * math.prod(header.size[3:]),
            loaded=header.num_bytes,
            # ITK's image, its copy, and the compressed stream.
            loading=2 * header.num_bytes + header.data.stat().st_size,
            beside=itk_pool.PROCESS,
        )

    def files(self, path: Path) -> tuple[Path, ...]:
        """See ImageReader; a header may keep its voxels in a file beside it."""
        if path.is_dir():
            return itk_pool.series_files(path, self.series)
        if is_nifti(path) or not path.is_file():
            return (path,)
        return tuple(dict.fromkeys((path, read_header(path).data)))

    def write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
        """See ImageReader; a planar grid is written as a 2D image. GIPL holds no direction, so it takes identity only.

        NIfTI on the grid of a NIfTI file keeps that file's header.
        """
        if is_nifti(path) and geometry.nifti_header is not None:
            nibabel_reader.write(segmentation, geometry, path)
            return
        check_segmentation(segmentation, geometry, path)
        if path.suffix.lower() == ".gipl" and not np.allclose(geometry.direction, IDENTITY_DIRECTION, atol=1e-6):
            raise ImageFileError(
                f"{path}: GIPL files hold no direction, and this grid is turned; write .nii.gz or .mha instead."
            )
        with atomic_path(path) as temporary:
            try:
                sitk.WriteImage(to_itk(segmentation, geometry), str(temporary), useCompression=True)
            except RuntimeError as error:
                raise ImageFileError(f"{path} cannot be written: {reason(error)}") from None
            if not holds(temporary, segmentation.nbytes):
                raise ImageFileError(f"{path} cannot be written whole; is the disk full?")


def _geometry(header: Header) -> Geometry:
    (width, height, *slices), (x, y, *thickness) = header.size, header.spacing
    shape, spacing = (slices[0] if slices else 1, height, width), (thickness[0] if slices else 1.0, y, x)
    return Geometry(shape=shape, spacing=spacing, planar=not slices)
