"""Read and write NIfTI through nibabel, on the same grid as SimpleITK gives.

Which of a header's two affines counts, and what it means without either, follows ITK (measured with SimpleITK 2.5.7): the sform
counts when it is the only one, or when its code is 1 and its axes are orthogonal; otherwise the qform; with neither, the origin
is 0 and the axes are LPS. Spacing is pixdim. (nibabel alone would take any sform first, and center an image without affines.)
"""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import HeaderDataError

from samunet.core.codec import atomic_path
from samunet.core.geometry import Geometry, Vector3
from samunet.errors import ImageFileError
from samunet.imageio.nifti import read_nifti
from samunet.imageio.reader import ImageReader, LoadedFile, as_channels, check_segmentation

logger = logging.getLogger(__name__)

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
ORTHOGONAL = 1e-4  # ITK refuses axes whose cosine is above this and repairs those below 1e-5 in silence
SINGULAR = 1e-2  # smallest singular value of the unit axes; below it two axes coincide
MM_BY_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's code for m, mm, um


class NibabelIO(ImageReader):
    """The second reader for NIfTI; accepts axes that are not orthogonal, and says so."""

    name = "NibabelIO"
    endings: tuple[str, ...] = (".nii", ".nii.gz")

    def load(self, path: Path) -> LoadedFile:
        """See ImageReader; a 4D or RGB file gives several channels."""
        return load(path)

    def write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
        """See ImageReader; a planar grid is written as a 2D image."""
        check_segmentation(segmentation, geometry, path)
        affine = affine_of(geometry)
        image = nibabel.Nifti1Image(segmentation[0].T if geometry.planar else segmentation.T, affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        with atomic_path(path) as temporary:
            nibabel.save(image, temporary)


def affine_of(geometry: Geometry) -> np.ndarray:
    """Return the 4 x 4 affine from (w, h, d) indices to RAS millimetres, as NIfTI stores it."""
    affine = np.eye(4)
    affine[:3, :3] = RAS_TO_LPS @ (np.array(geometry.direction) * np.array(geometry.spacing)[:, None])[::-1].T
    affine[:3, 3] = RAS_TO_LPS @ np.array(geometry.origin)
    return affine


def load(path: Path) -> LoadedFile:
    """Check and read one NIfTI file; axes that are not orthogonal are replaced by the nearest that are, with a logged warning.

    Raises:
        ImageFileError: the file is damaged, or its axes span no volume.
    """
    header, array = read_nifti(path)
    planar = array.ndim == 2
    if array.dtype.names:  # RGB
        array = np.stack([array[name] for name in array.dtype.names])
    if planar:
        array = array[..., None, :, :]
    array = as_channels(array, path)
    return array, _geometry(header, array.shape[1:], planar, path)


def _geometry(header: nibabel.Nifti1Header, shape: tuple[int, int, int], planar: bool, path: Path) -> Geometry:
    unit = MM_BY_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    x, y, z = (float(abs(value)) * unit for value in header["pixdim"][1:4])
    spacing = (1.0, y, x) if planar else (z, y, x)
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise ImageFileError(f"{path} has spacing {spacing} mm (D, H, W), expected positive numbers; write its header anew.", "header")
    axes, origin = _axes(header, path)
    origin = origin * unit
    if planar:
        flat = np.eye(3)
        flat[:2, :2] = axes[:2, :2]
        axes, origin = flat, np.array([origin[0], origin[1], 0.0])
    axes = _orthonormal(axes, path)
    return Geometry(
        shape=shape,
        spacing=spacing,
        origin=_vector(origin),
        direction=(_vector(axes[:, 2]), _vector(axes[:, 1]), _vector(axes[:, 0])),
        planar=planar,
    )


def _axes(header: nibabel.Nifti1Header, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the LPS direction of the file's axes (columns x, y, z; unit length) and the origin in the file's unit."""
    affine = affine_that_counts(header, path)
    if affine is None:
        return np.eye(3), np.zeros(3)
    return RAS_TO_LPS @ unit_axes(affine, path), RAS_TO_LPS @ affine[:3, 3]


def affine_that_counts(header: nibabel.Nifti1Header, path: Path) -> np.ndarray | None:
    """Return the one of a header's affines (4, 4, RAS) that the readers take; None where it has none.

    Raises:
        ImageFileError: that affine is singular, not finite or no rotation.
    """
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code > 0 and (qform_code == 0 or sform_code == 1):
        affine = header.get_sform()
        if qform_code == 0 or skew(unit_axes(affine, path)) < ORTHOGONAL:
            return affine
    if qform_code == 0:
        return None
    try:
        return header.get_qform()
    except (HeaderDataError, ValueError) as error:
        raise ImageFileError(f"{path} has a qform that is no rotation ({error}); write its header anew.", "header") from None


def unit_axes(affine: np.ndarray, path: Path) -> np.ndarray:
    """Return the axes of a (4, 4) affine with length 1, (3, 3) with an axis a column.

    Raises:
        ImageFileError: the affine is singular or not finite.
    """
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or lengths.min() == 0:
        raise ImageFileError(f"{path} has an affine that is singular or not finite; write its header anew.", "axes-singular")
    return affine[:3, :3] / lengths


def skew(axes: np.ndarray) -> float:
    """Return the largest cosine between two of three unit axes (columns)."""
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def _orthonormal(axes: np.ndarray, path: Path) -> np.ndarray:
    """Return the orthonormal axes nearest to the given ones (polar decomposition)."""
    left, sizes, right = np.linalg.svd(axes)
    if sizes.min() < SINGULAR:
        raise ImageFileError(
            f"{path} has axes that do not span the space; write its header anew, a single slice as a 3D image of depth 1.", "axes-singular"
        )
    nearest = left @ right
    if skew(axes) >= ORTHOGONAL:
        cosines = np.clip((axes * nearest).sum(axis=0) / np.linalg.norm(axes, axis=0), -1, 1)
        logger.warning(
            "%s has axes that are not orthogonal; they were turned by up to %.3g degrees to the nearest orthogonal ones. "
            "Resample the image if that matters.",
            path,
            float(np.degrees(np.arccos(cosines)).max()),
        )
    return nearest


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
