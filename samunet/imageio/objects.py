"""Images that programs hold in memory, as volumes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from samunet.core.geometry import Geometry
from samunet.core.volume import Volume
from samunet.errors import ShapeError
from samunet.imageio.itk import from_itk
from samunet.imageio.nibabel_reader import from_nibabel
from samunet.imageio.reader import ImageReader, stack_channels

IN_MEMORY = Path("the image")  # in messages

ImageLike = (
    Volume | Path | str | Sequence[Path | str] | nibabel.Nifti1Image | sitk.Image | tuple[np.ndarray, Sequence[float]]
)
"""A volume; a file, a DICOM folder or channel files; an image of nibabel or SimpleITK; (array, spacing)."""


def as_volume(image: ImageLike, reader: ImageReader) -> Volume:
    """Turn an image of any kind into a volume.

    Args:
        image: see `ImageLike`. An array is (D, H, W) or (C, D, H, W) with the spacing of D, H, W in mm, or (H, W) with
            that of H, W.
        reader: for files.

    Raises:
        ImageFileError, DatasetError: as the reader does.
        ShapeError: an array and its spacing do not fit each other.
    """
    if isinstance(image, Volume):
        return image
    if isinstance(image, (str, Path)):
        return reader.read_image([Path(image)])
    if isinstance(image, nibabel.Nifti1Image):
        return stack_channels([from_nibabel(image, IN_MEMORY)], [IN_MEMORY])
    if isinstance(image, sitk.Image):
        return stack_channels([from_itk(image, IN_MEMORY)], [IN_MEMORY])
    if len(image) == 2 and isinstance(image[0], np.ndarray):
        return _from_array(image[0], tuple(float(value) for value in image[1]))  # type: ignore[union-attr]
    return reader.read_image([Path(path) for path in image])  # type: ignore[arg-type]


def _from_array(array: np.ndarray, spacing: tuple[float, ...]) -> Volume:
    planar = array.ndim == 2
    if (
        len(spacing) != (2 if planar else 3)
        or not 2 <= array.ndim <= 4
        or not all(0 < value < np.inf for value in spacing)
    ):
        raise ShapeError(
            "An array is (D, H, W) or (C, D, H, W) with three positive spacings in mm, or (H, W) with two; got shape "
            f"{array.shape} and spacing {spacing}."
        )
    stacked = array.reshape(-1, *array.shape[-3:]) if not planar else array[None, None]
    depth, height, width = stacked.shape[1:]
    d, h, w = (1.0, *spacing) if planar else spacing
    geometry = Geometry(shape=(depth, height, width), spacing=(d, h, w), planar=planar, directed=False)
    return stack_channels([(stacked, geometry)], [IN_MEMORY])
