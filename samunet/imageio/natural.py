"""Read 2D PNG, BMP, JPEG and TIFF images, and write all but JPEG, which is lossy.

Grey gives one channel, RGB three, a TIFF's own channels as many.
Alpha is dropped where every pixel is opaque and refused elsewhere. A palette gives its colors in an
image and its indices in a label.
"""

from __future__ import annotations

import logging
import math
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from samunet.core.codec import atomic_path
from samunet.core.geometry import Geometry
from samunet.core.units import counted
from samunet.errors import ImageFileError
from samunet.imageio.integrity import refuse_absent
from samunet.imageio.pixel_size import PixelSize
from samunet.imageio.reader import ImageReader, LoadedFile, Peek, as_label, check_segmentation
from samunet.imageio.tiff3d import peek_tiff, read_tiff, write_tiff

logger = logging.getLogger(__name__)

JPEG = (".jpg", ".jpeg")
TIFF = (".tif", ".tiff")
GREY_MODES = ("1", "L", "I;16", "I;16B", "I", "F")
COLOR_MODES = ("RGB", "RGBA", "LA")
PALETTE_MODES = ("P", "PA")
PNG_BIT_DEPTH = 24  # byte of a PNG's header; the color type follows
PNG_GREY = 0
READ_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class NaturalImage2DIO(ImageReader):
    """The reader for photographs and microscopy; only TIFFs may tell the size of their pixels."""

    name = "NaturalImage2DIO"
    endings: tuple[str, ...] = (".png", ".bmp", ".tif", ".tiff", *JPEG)

    def load(self, path: Path) -> LoadedFile:
        """See ImageReader; colors give three channels."""
        return _load(path, indices=False)

    def peek(self, path: Path) -> Peek:
        """See ImageReader."""
        if path.suffix.lower() in TIFF:
            form = peek_tiff(path)
            colors = 3 if form.palette else math.prod(form.along("SC"))
            height, width = (1, 1, *form.along("SC", other=True))[-2:]
            alpha = colors in (2, 4) and "S" in form.axes
            size = form.size
            pixels, kept = height * width, 3 * height * width if form.palette else form.bytes
            loading = form.loading + (13 * pixels if form.palette else 0)  # three 16-bit colors, shifted, and as 8 bits
        else:
            refuse_absent(path)
            size = None
            try:
                with _opened(path) as image:
                    (width, height), mode = image.size, image.mode
            except READ_ERRORS as error:
                raise ImageFileError(f"{path} cannot be read: {error}. Copy or export it again.") from None
            colors = len(mode) if mode in COLOR_MODES else 1 + 2 * (mode in PALETTE_MODES)
            pixels, value = height * width, 1 + mode.startswith("I;") + 3 * (mode in ("I", "F"))  # bytes a value
            kept = pixels * colors * value
            loading = 4 * pixels + 3 * kept  # Pillow's own form; its bytes, as parts and joined; the array
            loading += 4 * pixels if mode in PALETTE_MODES else 0
            alpha = colors in (2, 4)
        geometry = _geometry(height, width, size)
        return Peek(geometry=geometry, channels=colors - alpha, loaded=kept, loading=loading)  # an alpha goes

    def read_label(self, path: Path) -> tuple[np.ndarray, Geometry]:
        """See ImageReader; of a palette the indices count. JPEG changes values, so it is refused."""
        if path.suffix.lower() in JPEG:
            message = (
                f"Label file {path} is a JPEG, which changes label values; save labels as .png (samunet_import makes "
                ".png of JPEG images too)."
            )
            raise ImageFileError(message, "pixel-form")
        return as_label(_load(path, indices=True), path)

    def write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
        """See ImageReader; BMP holds 8 bits only."""
        check_segmentation(segmentation, geometry, path)
        if len(segmentation) != 1:
            raise ImageFileError(
                f"{path}: a 2D image cannot hold {counted(len(segmentation), 'slice')}; write .nii.gz instead."
            )
        if path.suffix.lower() in TIFF:
            write_tiff(segmentation[0], path, geometry)
            return
        if path.suffix.lower() in JPEG:
            raise ImageFileError(f"{path}: JPEG changes label values; write .png instead.")
        if path.suffix.lower() == ".bmp" and segmentation.dtype != np.uint8:
            raise ImageFileError(
                f"{path}: BMP holds 8 bits per pixel, the segmentation needs 16; use .png or .tif files."
            )
        with atomic_path(path) as temporary:
            Image.fromarray(segmentation[0]).save(temporary)


def _load(path: Path, *, indices: bool) -> LoadedFile:
    refuse_absent(path)
    size = None
    if path.suffix.lower() in TIFF:
        stored, axes, palette, size = read_tiff(path)
        array = _flat(stored, axes, palette, path, indices)
    else:
        array = _read_picture(path, indices)
    return array[:, None], _geometry(array.shape[1], array.shape[2], size)


def _geometry(height: int, width: int, size: PixelSize | None) -> Geometry:
    spacing = (1.0, 1.0, 1.0) if size is None else (1.0, size[1], size[2])
    return Geometry(shape=(1, height, width), spacing=spacing, planar=True, directed=False, measured=size is not None)


def _flat(array: np.ndarray, axes: str, palette: np.ndarray | None, path: Path, indices: bool) -> np.ndarray:
    """Bring a TIFF to (C, H, W)."""
    if axes == "YX":
        if palette is None or indices:
            return array[None]
        # TIFF's palettes have 16 bits, made of 8 by all programs.
        return np.ascontiguousarray(palette[:, array] >> 8).astype(np.uint8)
    if axes in ("YXS", "SYX"):
        return _without_alpha(np.moveaxis(array, axes.index("S"), 0), path)
    if axes in ("CYX", "YXC"):
        return np.moveaxis(array, axes.index("C"), 0)
    what = "a stack" if len(axes) == 3 else f"{len(axes)} axes"
    message = f"{path} holds {what} ({axes} of lengths {array.shape}), expected one 2D image; Tiff3DIO reads stacks."
    raise ImageFileError(message, "pixel-form")


def _opened(path: Path) -> Image.Image:
    """Open an image, a large one without Pillow's warning: what a case takes is compared with the memory there is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def _read_picture(path: Path, indices: bool) -> np.ndarray:
    """Return any other image as (C, H, W)."""
    try:
        with _opened(path) as image:
            image.verify()  # checksums; the image must be opened again afterwards
        with _opened(path) as image:
            mode, frames = image.mode, getattr(image, "n_frames", 1)
            turned = image.getexif().get(ExifTags.Base.Orientation, 1)
            if mode in PALETTE_MODES and not indices:
                image = image.convert("RGBA" if mode == "PA" or "transparency" in image.info else "RGB")
            array = np.asarray(image)
    except READ_ERRORS as error:
        raise ImageFileError(f"{path} cannot be read: {error}. Copy or export it again.") from None
    if mode not in (*GREY_MODES, *COLOR_MODES, *PALETTE_MODES):
        raise ImageFileError(
            f"{path} has pixel form {mode}, expected grey, RGB or a palette; convert it to RGB.", "pixel-form"
        )
    if frames > 1:
        raise ImageFileError(
            f"{path} holds {frames} frames, expected one image; save each as a file of its own.", "pixel-form"
        )
    if path.suffix.lower() == ".png":
        _check_bit_depth(path)
    if turned not in (0, 1):
        logger.warning(
            "%s is turned or mirrored when shown (EXIF orientation %d); its pixels are read as they are stored.",
            path,
            turned,
        )
    return _without_alpha(np.moveaxis(array, -1, 0) if array.ndim == 3 else array[None], path)


def _without_alpha(array: np.ndarray, path: Path) -> np.ndarray:
    """Drop the last of two or four channels of (C, H, W), an opaque alpha."""
    if len(array) in (1, 3):
        return array
    opaque = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    if len(array) not in (2, 4) or (array[-1] != opaque).any():
        message = (
            f"{path} has {counted(len(array), 'channel')} per pixel, the last of them no opaque alpha; expected grey "
            "or RGB, so remove the alpha channel."
        )
        raise ImageFileError(message, "pixel-form")
    return array[:-1]


def _check_bit_depth(path: Path) -> None:
    """Refuse PNGs whose values Pillow changes: 16 bits but in grey alone are halved, 2- and 4-bit grey stretched."""
    with path.open("rb") as file:
        depth, color = file.read(PNG_BIT_DEPTH + 2)[PNG_BIT_DEPTH:]
    if (color != PNG_GREY and depth == 16) or (color == PNG_GREY and depth in (2, 4)):
        message = (
            f"{path} has {depth} bits per channel, which would be read with other values; save it with 8 bits, or as "
            "TIFF."
        )
        raise ImageFileError(message, "pixel-form")
