"""Images that programs hold in memory, as volumes; and what is made of them, as the same kind of object."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk

from samunet.core.geometry import Geometry
from samunet.core.volume import Volume
from samunet.errors import ShapeError
from samunet.imageio.itk import from_itk, to_itk
from samunet.imageio.nibabel_reader import affine_of, from_nibabel, header_of
from samunet.imageio.reader import ImageReader, stack_channels

IN_MEMORY = Path("the image")  # in messages

ImageLike = Any
"""A volume; a file, a DICOM folder or channel files; an image of nibabel or SimpleITK; (array or tensor, spacing); or a
MetaTensor of MONAI, channels first.
"""


def as_volume(image: ImageLike, reader: ImageReader) -> Volume:
    """Turn an image of any kind into a volume.

    Args:
        image: see `ImageLike`. An array or tensor is (D, H, W) or (C, D, H, W) with the spacing of D, H, W in mm, or
            (H, W) with that of H, W; a MetaTensor is (C, X, Y, Z), as MONAI loads it.
        reader: for files.

    Raises:
        ImageFileError, DatasetError: as the reader does.
        ShapeError: an array and its spacing do not fit each other, or a tensor has no spacing.
    """
    if isinstance(image, Volume):
        return image
    if isinstance(image, (str, Path)):
        return reader.read_image([Path(image)])
    if isinstance(image, nibabel.Nifti1Image):
        return stack_channels([from_nibabel(image, IN_MEMORY)], [IN_MEMORY])
    if isinstance(image, sitk.Image):
        return stack_channels([from_itk(image, IN_MEMORY)], [IN_MEMORY])
    if is_meta_tensor(image):
        affine, channels = image.affine.cpu().numpy(), image.detach().cpu().float().numpy()
        files = [from_nibabel(nibabel.Nifti1Image(channel, affine), IN_MEMORY) for channel in channels]
        return stack_channels(files, [IN_MEMORY] * len(files))
    if isinstance(image, np.ndarray) or _is_tensor(image):
        raise ShapeError("An array or tensor alone has no size in mm; give (array, spacing) with that of its axes.")
    if len(image) == 2 and (isinstance(image[0], np.ndarray) or _is_tensor(image[0])):
        values = image[0].detach().cpu().numpy() if _is_tensor(image[0]) else image[0]
        return _from_array(values, tuple(float(value) for value in image[1]))
    return reader.read_image([Path(path) for path in image])


def has_xyz_axes(image: ImageLike) -> bool:
    """Tell whether an image of this kind has its axes in the order x, y, z; others have them as (D, H, W)."""
    return isinstance(image, nibabel.Nifti1Image) or is_meta_tensor(image)


def like(image: ImageLike, labels: np.ndarray, geometry: Geometry) -> Any:
    """Return a segmentation as the kind of object that its image is.

    Args:
        labels: (D, H, W) label values on the image's grid.

    Returns:
        A nibabel or SimpleITK image; a MetaTensor, (1, X, Y, Z); a tensor on its device; or an array, also for files.
        Tensors and arrays of (H, W) images have two axes.
    """
    if isinstance(image, nibabel.Nifti1Image):
        return to_nibabel(labels, geometry)
    if isinstance(image, sitk.Image):
        return to_itk(labels, geometry)
    flat = labels[0] if geometry.planar else labels
    if is_meta_tensor(image):
        torch = sys.modules["torch"]
        return type(image)(torch.from_numpy(flat.T.astype(np.int32))[None].to(image.device), affine=image.affine)
    if isinstance(image, tuple) and _is_tensor(image[0]):
        return sys.modules["torch"].from_numpy(flat.astype(np.int32)).to(image[0].device)
    return flat


def to_nibabel(labels: np.ndarray, geometry: Geometry) -> nibabel.Nifti1Image:
    """Return (D, H, W) labels as an image of nibabel's, with axes x, y, z; on a NIfTI file's grid with its header."""
    header = header_of(geometry)
    affine = affine_of(geometry) if geometry.nifti_header is None else header.get_best_affine()
    return nibabel.Nifti1Image((labels[0] if geometry.planar else labels).T, affine, header, dtype=labels.dtype)


def _is_tensor(value: Any) -> bool:
    return "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)


def is_meta_tensor(value: Any) -> bool:
    """Tell whether a value is a tensor that knows its place, as MONAI's do."""
    return _is_tensor(value) and hasattr(value, "affine")


def _from_array(array: np.ndarray, spacing: tuple[float, ...]) -> Volume:
    planar = array.ndim == 2
    sound = len(spacing) == (2 if planar else 3) and all(0 < value < np.inf for value in spacing)
    if not sound or not 2 <= array.ndim <= 4:
        raise ShapeError(
            "An array is (D, H, W) or (C, D, H, W) with three positive spacings in mm, or (H, W) with two; got shape "
            f"{array.shape} and spacing {spacing}."
        )
    stacked = array.reshape(-1, *array.shape[-3:]) if not planar else array[None, None]
    depth, height, width = stacked.shape[1:]
    d, h, w = (1.0, *spacing) if planar else spacing
    geometry = Geometry(shape=(depth, height, width), spacing=(d, h, w), planar=planar, directed=False)
    return stack_channels([(stacked, geometry)], [IN_MEMORY])
