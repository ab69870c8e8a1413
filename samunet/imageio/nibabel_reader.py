"""Read and write NIfTI through nibabel, on the same grid as SimpleITK gives.

Which of a header's two affines counts, and what it means without either, follows ITK (measured with SimpleITK 2.5.7):
the sform counts when it is the only one, or when its axes are orthogonal and its code is 1 or its numbers are the
qform's but for signs; otherwise the qform; with neither, the origin is 0 and the axes are LPS. Spacing is pixdim, and a
width of 0 is refused. (nibabel alone would take any sform first, and center an image without affines.)
"""

from __future__ import annotations

import base64
import logging
import math
from pathlib import Path

import nibabel
import numpy as np
from nibabel.quaternions import quat2mat

from samunet.core.geometry import Geometry, Triple, Vector3
from samunet.errors import ImageFileError
from samunet.imageio.nifti import HEADERS, array_form, read_header, read_nifti, write_nifti
from samunet.imageio.reader import ImageReader, LoadedFile, Peek, as_channels, check_segmentation

logger = logging.getLogger(__name__)

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
ORTHOGONAL = 1e-4  # ITK refuses axes whose cosine is above this and repairs those below 1e-5 in silence
QUATERNION_ROUNDING = 1e-7  # the NIfTI library's
HALF_TURN = 1 - 1e-5  # squared length of a quaternion's last three numbers from which on its first is below 0.003
QUATERNION_SAME = 1e-6  # ours: a few roundings of numbers in [-1, 1] in single precision
SAME_AFFINE = 1e-4  # mm; affines whose numbers differ by less, or only in their sign, are one for ITK
SINGULAR = 1e-2  # smallest singular value of the unit axes; below it two axes coincide
MM_BY_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}  # NIfTI's code for m, mm, um


class NibabelIO(ImageReader):
    """The second reader for NIfTI; accepts axes that are not orthogonal, and says so."""

    name = "NibabelIO"
    endings: tuple[str, ...] = (".nii", ".nii.gz")

    def load(self, path: Path) -> LoadedFile:
        """See ImageReader; a 4D or RGB file gives several channels."""
        return load(path)

    def peek(self, path: Path) -> Peek:
        """See ImageReader."""
        return peek(path)

    def write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
        """See ImageReader and `write`."""
        write(segmentation, geometry, path)


def write(segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
    """Write a (D, H, W) segmentation; a planar grid as a 2D image.

    On the grid of a NIfTI file it keeps that file's header: units, both affines with their codes, description. Every
    program then sees image and segmentation at one place, also where programs differ in what they make of a header.
    """
    check_segmentation(segmentation, geometry, path)
    write_nifti(path, header_of(geometry), segmentation[0] if geometry.planar else segmentation)


def header_of(geometry: Geometry) -> nibabel.Nifti1Header:
    """Return a header with the place of a grid: that of the NIfTI file it came from, or one in millimetres."""
    if geometry.nifti_header is not None:
        raw = base64.b64decode(geometry.nifti_header)
        return HEADERS[len(raw)](raw, check=False)
    header = nibabel.Nifti1Header()
    header.set_xyzt_units("mm")
    header.set_sform(affine_of(geometry), code=1)
    header.set_qform(affine_of(geometry), code=1)
    return header


def affine_of(geometry: Geometry) -> np.ndarray:
    """Return the 4 x 4 affine from (w, h, d) indices to RAS millimetres, as NIfTI stores it."""
    affine = np.eye(4)
    affine[:3, :3] = RAS_TO_LPS @ (np.array(geometry.direction) * np.array(geometry.spacing)[:, None])[::-1].T
    affine[:3, 3] = RAS_TO_LPS @ np.array(geometry.origin)
    return affine


def load(path: Path) -> LoadedFile:
    """Check and read one NIfTI file; axes that are not orthogonal become the nearest that are, with a warning. Raises
    ImageFileError where the file is damaged, or its axes span no volume.
    """
    return _from_header(*read_nifti(path), path)


def peek(path: Path) -> Peek:
    """Tell from its header what `load` will return and take; raises ImageFileError as it does."""
    header = read_header(path)
    shape, kind = array_form(header, path)
    depth, height, width = (1, *shape)[-3:]
    planar, colors = len(shape) == 2, len(kind.names or " ")
    loaded = math.prod(shape) * kind.itemsize
    return Peek(
        geometry=Geometry(shape=(depth, height, width), spacing=_spacing(header, planar, path)[0], planar=planar),
        channels=colors * math.prod(shape[:-3]),
        loaded=loaded,
        loading=loaded * (2 if kind.names else 1),  # colors are parted
    )


def from_nibabel(image: nibabel.Nifti1Image, path: Path) -> LoadedFile:
    """Turn an image of nibabel's into channels and their grid; see `load`. `path` stands in messages."""
    return _from_header(image.header, np.asanyarray(image.dataobj).T, path)


def _from_header(header: nibabel.Nifti1Header, array: np.ndarray, path: Path) -> LoadedFile:
    """Take (..., z, y, x) voxels apart into channels, and find their grid."""
    planar = array.ndim == 2
    if array.dtype.names:  # RGB
        array = np.stack([array[name] for name in array.dtype.names])
    if planar:
        array = array[..., None, :, :]
    array = as_channels(array, path)
    return array, _geometry(header, array.shape[1:], planar, path)


def _geometry(header: nibabel.Nifti1Header, shape: tuple[int, int, int], planar: bool, path: Path) -> Geometry:
    spacing, unit = _spacing(header, planar, path)
    axes, origin = _axes(header, path)
    origin = origin * unit
    axes = axes * np.where(header["pixdim"][1:4] < 0, -1, 1)  # as ITK does; the format wants positive numbers
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
        nifti_header=base64.b64encode(header.binaryblock).decode("ascii"),
    )


def _spacing(header: nibabel.Nifti1Header, planar: bool, path: Path) -> tuple[Triple, float]:
    """Return the spacing (D, H, W) in mm, and the file's unit of length in mm."""
    unit = MM_BY_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    x, y, z = (float(abs(value)) * unit for value in header["pixdim"][1:4])
    spacing = (1.0, y, x) if planar else (z, y, x)
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        raise ImageFileError(
            f"{path} has spacing {spacing} mm (D, H, W), expected positive numbers; correct its header.", "header"
        )
    return spacing, unit


def _axes(header: nibabel.Nifti1Header, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the LPS direction of the file's axes (columns x, y, z; unit length) and the origin in the file's unit."""
    affine = affine_that_counts(header, path)
    if affine is None:
        return np.eye(3), np.zeros(3)
    return RAS_TO_LPS @ unit_axes(affine, path), RAS_TO_LPS @ affine[:3, 3]


def affine_that_counts(header: nibabel.Nifti1Header, path: Path) -> np.ndarray | None:
    """Return the one of a header's affines (4, 4, RAS) that the readers take; None where it has none. Raises
    ImageFileError where that affine is singular or not finite.
    """
    has_sform, has_qform = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if has_sform and not has_qform:
        return header.get_sform()
    if not has_qform:
        return None
    sform, qform = header.get_sform(), _qform(header)
    if has_sform and _is_sound(sform) and skew(unit_axes(sform, path)) < ORTHOGONAL:
        alike = np.abs(np.abs(sform) - np.abs(qform)).max() < SAME_AFFINE
        if alike or int(header["sform_code"]) == 1:
            return sform
    return qform


def _qform(header: nibabel.Nifti1Header) -> np.ndarray:
    """Return the quaternion's affine (4, 4, RAS) by the NIfTI library's rules, which forgive rounding."""
    b, c, d = (float(header[f"quatern_{name}"]) for name in "bcd")
    rest = 1 - (b * b + c * c + d * d)
    if rest < QUATERNION_ROUNDING:  # a turn by 180 degrees
        length = math.sqrt(b * b + c * c + d * d)
        a, b, c, d = 0.0, b / length, c / length, d / length
    else:
        a = math.sqrt(rest)
    affine = np.eye(4)
    affine[:3, :3] = quat2mat((a, b, c, d))
    pixdim = header["pixdim"].astype(float)
    affine[:3, 2] *= -1 if pixdim[0] < 0 else 1
    affine[:3, :3] *= np.where(pixdim[1:4] == 0, 1, np.abs(pixdim[1:4]))
    affine[:3, 3] = [float(header[f"qoffset_{name}"]) for name in "xyz"]
    return affine


def qform_apart_mm(header: nibabel.Nifti1Header) -> float:
    """Return how far a header's two affines put a grid's corner apart, in the file's unit; 0 where it has one only.

    A quaternion in single precision loses its first component near half turns, so that even one made from the sform
    lies up to some 0.1 mm away from it. So the qform counts as the sform's where its numbers are those that the sform
    would be written with.
    """
    if min(int(header["sform_code"]), int(header["qform_code"])) <= 0:
        return 0.0
    sform, written = header.get_sform(), header.copy()
    written.set_qform(sform, code=1)
    numbers, expected = (np.array([float(one[f"quatern_{name}"]) for name in "bcd"]) for one in (header, written))
    qform = _qform(header)
    if numbers @ numbers > HALF_TURN and numbers @ expected < 0:
        numbers = -numbers  # half a turn to either side is one
    if np.abs(numbers - expected).max() < QUATERNION_SAME and (header["pixdim"][0] < 0) == (written["pixdim"][0] < 0):
        qform[:3, :3] = sform[:3, :3]
    corners = np.indices((2, 2, 2)).reshape(3, -1).T * (np.maximum(header["dim"][1:4].astype(float), 1) - 1)
    apart = qform - sform
    return float(np.linalg.norm(corners @ apart[:3, :3].T + apart[:3, 3], axis=1).max())


def _is_sound(affine: np.ndarray) -> bool:
    return bool(np.isfinite(affine).all() and np.linalg.norm(affine[:3, :3], axis=0).min() > 0)


def unit_axes(affine: np.ndarray, path: Path) -> np.ndarray:
    """Return the axes of a (4, 4) affine with length 1, (3, 3) with one axis per column; raises ImageFileError where
    the affine is singular or not finite.
    """
    if not _is_sound(affine):
        raise ImageFileError(
            f"{path} has an affine that is singular or not finite; correct its header.", "axes-singular"
        )
    return affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)


def skew(axes: np.ndarray) -> float:
    """Return the largest cosine between two of three unit axes (columns)."""
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def _orthonormal(axes: np.ndarray, path: Path) -> np.ndarray:
    """Return the orthonormal axes nearest to the given ones (polar decomposition)."""
    left, sizes, right = np.linalg.svd(axes)
    if sizes.min() < SINGULAR:
        raise ImageFileError(
            f"{path} has axes that do not span the space; correct its header, a single slice as a 3D image of depth 1.",
            "axes-singular",
        )
    nearest = left @ right
    if skew(axes) >= ORTHOGONAL:
        cosines = np.clip((axes * nearest).sum(axis=0) / np.linalg.norm(axes, axis=0), -1, 1)
        logger.warning(
            "%s has axes that are not orthogonal; they were turned by up to %.3g degrees to the nearest orthogonal "
            "ones. Resample the image if that matters.",
            path,
            float(np.degrees(np.arccos(cosines)).max()),
        )
    return nearest


def _vector(values: np.ndarray) -> Vector3:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
