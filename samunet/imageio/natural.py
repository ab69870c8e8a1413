"""Read and write 2D PNG, BMP and TIFF images, grey or RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from samunet.core.codec import atomic_path
from samunet.core.geometry import Geometry
from samunet.errors import ImageFileError
from samunet.imageio.reader import ImageReader, LoadedFile, check_segmentation
from samunet.imageio.tiff3d import read_tiff, write_tiff

GREY_MODES = ("1", "L", "I;16", "I;16B", "I", "F")
PNG_BIT_DEPTH = 24  # byte of a PNG's header; the color type follows
PNG_GREY, PNG_RGB = 0, 2
READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class NaturalImage2DIO(ImageReader):
    """The reader for photographs and microscopy; the pixel spacing is 1."""

    name = "NaturalImage2DIO"
    endings: tuple[str, ...] = (".png", ".bmp", ".tif")

    def load(self, path: Path) -> LoadedFile:
        """See ImageReader; an RGB file gives three channels."""
        if not path.is_file():
            raise ImageFileError(f"Image file {path} does not exist.")
        if path.suffix.lower() in (".tif", ".tiff"):
            array, axes = read_tiff(path)
            if axes == "YX":
                array = array[None]
            elif axes == "YXS":
                array = np.moveaxis(array, -1, 0)
            elif axes != "SYX":
                raise ImageFileError(f"{path} has axes {axes} of lengths {array.shape}, expected one 2D image; read stacks with Tiff3DIO.")
            if len(array) not in (1, 3):
                raise ImageFileError(f"{path} has {len(array)} channels a pixel, expected 1 or 3; remove the alpha channel.")
        else:
            array = _read_picture(path)
        array = array[:, None]
        return array, Geometry(shape=(1, array.shape[2], array.shape[3]), spacing=(1.0, 1.0, 1.0), planar=True)

    def write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
        """See ImageReader; BMP holds 8 bits only."""
        check_segmentation(segmentation, geometry, path)
        if len(segmentation) != 1:
            raise ImageFileError(f"{path}: a 2D image cannot hold {len(segmentation)} slices; write .nii.gz instead.")
        if path.suffix.lower() in (".tif", ".tiff"):
            write_tiff(segmentation[0], path)
            return
        if path.suffix.lower() == ".bmp" and segmentation.dtype != np.uint8:
            raise ImageFileError(f"{path}: BMP holds 8 bits a pixel, the segmentation needs 16; use .png or .tif files.")
        with atomic_path(path) as temporary:
            Image.fromarray(segmentation[0]).save(temporary)


def _read_picture(path: Path) -> np.ndarray:
    """Return a PNG or BMP as (C, H, W) with C = 1 or 3."""
    try:
        with Image.open(path) as image:
            image.verify()  # checksums; the image must be opened anew afterwards
        with Image.open(path) as image:
            mode, array = image.mode, np.asarray(image)
    except READ_ERRORS as error:
        raise ImageFileError(f"{path} cannot be read: {error}. Copy or export it again.") from None
    if mode in ("P", "PA"):
        raise ImageFileError(f"{path} has a color palette, expected grey or RGB; save a label's indices as grey, an image as RGB.")
    if mode not in (*GREY_MODES, "RGB"):
        raise ImageFileError(f"{path} has pixel form {mode}, expected grey or RGB; remove the alpha channel or convert it to RGB.")
    if path.suffix.lower() == ".png":
        _check_bit_depth(path)
    return np.moveaxis(array, -1, 0) if mode == "RGB" else array[None]


def _check_bit_depth(path: Path) -> None:
    """Refuse the PNG forms whose values Pillow changes: it halves 16-bit RGB to 8 bits and stretches 2- and 4-bit grey."""
    with path.open("rb") as file:
        depth, color = file.read(PNG_BIT_DEPTH + 2)[PNG_BIT_DEPTH:]
    if (color == PNG_RGB and depth == 16) or (color == PNG_GREY and depth in (2, 4)):
        raise ImageFileError(f"{path} has {depth} bits a channel, which would be read with other values; save it with 8 bits, or as TIFF.")
