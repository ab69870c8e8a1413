"""Read and write 3D TIFF stacks; the spacing lies in a JSON file beside them, as nnU-Net keeps it."""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from samunet.core.codec import atomic_path, read_json, write_json
from samunet.core.geometry import Geometry, Triple, triple
from samunet.errors import ConfigError, ImageFileError, ShapeError
from samunet.imageio.integrity import refuse_absent
from samunet.imageio.reader import ImageReader, LoadedFile, Peek, check_segmentation

logger = logging.getLogger(__name__)

CHANNEL_SUFFIX = re.compile(r"_\d{4}$")


class Tiff3DIO(ImageReader):
    """The reader for stacks: <case>_0000.tif with {"spacing": [D, H, W]} in <case>.json, 1 mm without it."""

    name = "Tiff3DIO"
    endings: tuple[str, ...] = (".tif", ".tiff")

    def load(self, path: Path) -> LoadedFile:
        """See ImageReader."""
        array, axes, palette = read_tiff(path)
        if array.ndim != 3 or "S" in axes or palette is not None:
            color = ", with a palette" if palette is not None else ""
            message = f"{path} has axes {axes} of lengths {array.shape}{color}, expected a grey stack; NaturalImage2DIO reads 2D images."
            raise ImageFileError(message, "pixel-form")
        depth, height, width = array.shape
        return array[None], Geometry(shape=(depth, height, width), spacing=_spacing(path))

    def peek(self, path: Path) -> Peek:
        """See ImageReader."""
        form = peek_tiff(path)
        depth, height, width = (1, 1, *form.lengths)[-3:]
        return Peek(
            geometry=Geometry(shape=(depth, height, width), spacing=_spacing(path)),
            channels=1,
            loaded=form.bytes,
            loading=form.loading,
        )

    def files(self, path: Path) -> tuple[Path, ...]:
        """See ImageReader; the spacing file belongs to a stack."""
        beside = spacing_file(path)
        return (path, beside) if beside.is_file() else (path,)

    def write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
        """See ImageReader; the spacing file is written beside the stack. TIFF holds no origin and no direction."""
        check_segmentation(segmentation, geometry, path)
        write_tiff(segmentation, path)
        write_json(path.with_suffix(".json"), {"spacing": geometry.spacing})


def spacing_file(path: Path) -> Path:
    """Return where the spacing of a stack lies, whether there is such a file or not: <case>.json, for <case>.tif and <case>_0000.tif."""
    own = path.with_suffix(".json")
    return own if own.is_file() else path.with_name(f"{CHANNEL_SUFFIX.sub('', path.stem)}.json")


@dataclass(frozen=True, kw_only=True)
class TiffForm:
    """What the header of a TIFF tells of what `read_tiff` returns."""

    lengths: tuple[int, ...]
    axes: str
    palette: bool
    bytes: int
    loading: int
    """Bytes that reading takes at most, the array included."""


def peek_tiff(path: Path) -> TiffForm:
    """Read the headers of a TIFF alone; raises ImageFileError where they cannot be read."""
    with _opened(path) as file:
        series, first = file.series[0], file.pages.first
        page = math.prod(first.shape) * np.dtype(first.dtype).itemsize
        return TiffForm(
            lengths=series.shape,
            axes=series.axes,
            palette=first.photometric == tifffile.PHOTOMETRIC.PALETTE,
            bytes=series.nbytes,
            loading=series.nbytes + min(3 * page, 3 * series.nbytes),  # a page's compressed stream, decoded, and as it is put in its place
        )


def read_tiff(path: Path) -> tuple[np.ndarray, str, np.ndarray | None]:
    """Read a TIFF, its axes as tifffile names them, and its palette.

    Returns:
        The stored numbers; YX, YXS or SYX (S: color), anything else in three axes a stack; (3, colors) uint16 or None.

    Raises:
        ImageFileError: the file is absent, damaged, or holds several images of unequal form.
    """
    with _opened(path) as file:
        if _page_chain_is_cut(file):
            raise ImageFileError(f"{path} is truncated: pages are missing after page {len(file.pages)}; copy or export it again.", "truncated")
        if len(file.series) != 1:
            raise ImageFileError(f"{path} holds {len(file.series)} images of unequal form, expected one; save the image alone.", "pixel-form")
        series, first = file.series[0], file.pages.first
        return series.asarray(), series.axes, first.colormap if first.photometric == tifffile.PHOTOMETRIC.PALETTE else None


@contextmanager
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF; what its reading raises becomes an ImageFileError that names it."""
    refuse_absent(path)
    try:
        with tifffile.TiffFile(path) as file:
            yield file
    except ImageFileError:
        raise
    except Exception as error:  # of damaged files tifffile raises anything, a MemoryError for absurd sizes too
        raise ImageFileError(f"{path} cannot be read: {error}. Copy or export it again.") from None


def write_tiff(array: np.ndarray, path: Path) -> None:
    """Write (H, W) or (D, H, W) as a compressed grey TIFF, whole or not at all."""
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, array, compression="zlib", photometric="minisblack")


def _page_chain_is_cut(file: tifffile.TiffFile) -> bool:
    """Tell whether the last readable page points to a further one, which tifffile only logs."""
    form, start = file.tiff, file.pages[len(file.pages) - 1].offset
    file.filehandle.seek(start)
    (tags,) = struct.unpack(form.tagnoformat, file.filehandle.read(form.tagnosize))
    file.filehandle.seek(start + form.tagnosize + tags * form.tagsize)
    (following,) = struct.unpack(form.offsetformat, file.filehandle.read(form.offsetsize))
    return bool(following)


def _spacing(image: Path) -> Triple:
    path = spacing_file(image)
    if not path.is_file():
        logger.warning("%s has no spacing file %s; 1 mm is assumed on every axis.", image, path.name)
        return (1.0, 1.0, 1.0)
    try:
        spacing = read_json(path)["spacing"]
        numbers = triple([float(value) for value in spacing])
    except (ConfigError, ShapeError, KeyError, TypeError, ValueError):
        numbers = (0.0, 0.0, 0.0)
    if not all(0 < value < np.inf for value in numbers):
        raise ImageFileError(f'{path} must hold {{"spacing": [D, H, W]}} with three positive numbers in mm; correct it.', "header")
    return numbers
