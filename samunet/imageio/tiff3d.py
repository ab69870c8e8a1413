"""Read and write 3D TIFF stacks; the spacing lies in a JSON file beside them (nnU-Net's way), or in their tags."""

from __future__ import annotations

import logging
import math
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from samunet.core.codec import atomic_path, decode, read_json, write_json
from samunet.core.geometry import Geometry, Shape, Triple
from samunet.core.ranges import Spacing
from samunet.core.units import counted
from samunet.errors import ConfigError, ImageFileError
from samunet.imageio.integrity import refuse_absent
from samunet.imageio.pixel_size import PixelSize, pixel_size, resolution_tags
from samunet.imageio.reader import ImageReader, LoadedFile, Peek, check_segmentation

logger = logging.getLogger(__name__)

CHANNEL_SUFFIX = re.compile(r"_\d{4}$")


class Tiff3DIO(ImageReader):
    """Stacks <case>_0000.tif with {"spacing": [D, H, W]} in <case>.json, or the size that OME or ImageJ wrote."""

    name = "Tiff3DIO"
    endings: tuple[str, ...] = (".tif", ".tiff")

    def load(self, path: Path) -> LoadedFile:
        """See ImageReader."""
        array, axes, palette, size = read_tiff(path)
        if not _is_stack(axes) or palette is not None:
            what = f"axes {axes} of lengths {array.shape}{', with a palette' if palette is not None else ''}"
            if axes == "CYX":
                what = f"{array.shape[0]} channels of one plane"
            expected = "a grey stack, or one with channels; NaturalImage2DIO reads 2D images"
            raise ImageFileError(f"{path} has {what}, expected {expected}.", "pixel-form")
        channels = np.moveaxis(array, axes.index("C"), 0) if "C" in axes else array[None]
        depth, height, width = channels.shape[1:]
        return channels, _geometry((depth, height, width), path, size)

    def peek(self, path: Path) -> Peek:
        """See ImageReader."""
        form = peek_tiff(path)
        depth, height, width = (1, 1, *form.along("C", other=True))[-3:]
        return Peek(
            geometry=_geometry((depth, height, width), path, form.size),
            channels=form.lengths[form.axes.index("C")] if "C" in form.axes else 1,
            loaded=form.bytes,
            loading=form.loading,
        )

    def files(self, path: Path) -> tuple[Path, ...]:
        """See ImageReader; the spacing file belongs to a stack."""
        beside = spacing_file(path)
        return (path, beside) if beside.is_file() else (path,)

    def write_segmentation(self, segmentation: np.ndarray, geometry: Geometry, path: Path) -> None:
        """See ImageReader; a spacing that is known is written into a file beside the stack.

        TIFF holds no origin and no direction.
        """
        check_segmentation(segmentation, geometry, path)
        # First, lest a stack lies there whole without its spacing.
        if geometry.measured:
            write_json(path.with_suffix(".json"), {"spacing": geometry.spacing})
        else:
            path.with_suffix(".json").unlink(missing_ok=True)  # of an earlier segmentation
        write_tiff(segmentation, path, geometry)


def _is_stack(axes: str) -> bool:
    """Tell whether an image has three axes of space, the first under any name but color's, and maybe channels."""
    space = axes.replace("C", "", 1)
    return len(space) == 3 and space.endswith("YX") and not {"S", "C"} & set(space)


def spacing_file(path: Path) -> Path:
    """Return the path of a stack's spacing: <case>.json, for <case>.tif and <case>_0000.tif; it need not exist."""
    own = path.with_suffix(".json")
    return own if own.is_file() else path.with_name(f"{CHANNEL_SUFFIX.sub('', path.stem)}.json")


@dataclass(frozen=True, kw_only=True)
class TiffForm:
    """What a TIFF's header tells of what `read_tiff` returns."""

    lengths: tuple[int, ...]
    axes: str
    palette: bool
    bytes: int
    size: PixelSize | None
    loading: int
    """Bytes that reading takes at most, the array included."""

    def along(self, axes: str, *, other: bool = False) -> tuple[int, ...]:
        """Return the lengths of these axes, or of all others."""
        return tuple(length for length, axis in zip(self.lengths, self.axes, strict=True) if (axis in axes) != other)


def peek_tiff(path: Path) -> TiffForm:
    """Read the headers of a TIFF alone; raises ImageFileError where they cannot be read."""
    with _opened(path) as file:
        first, (series, lengths, axes) = file.pages.first, _one_image(file, path)
        page, whole = math.prod(first.shape) * np.dtype(first.dtype).itemsize, sum(part.nbytes for part in series)
        return TiffForm(
            lengths=lengths,
            axes=axes,
            palette=first.photometric == PHOTOMETRIC.PALETTE,
            bytes=whole,
            size=pixel_size(file, axes),
            # Beside it a page's compressed stream, decoded, and as it is put in its place.
            loading=len(series[:2]) * whole + min(3 * page, 3 * whole),
        )


def read_tiff(path: Path) -> tuple[np.ndarray, str, np.ndarray | None, PixelSize | None]:
    """Read a TIFF, its axes as tifffile names them, its palette, and the size of its pixels; raises ImageFileError
    where the file is absent, damaged, holds several images of unequal form, or colors of a form that would be changed.

    Returns:
        The stored numbers; YX, YXS or SYX (S: color), with C channels, IYX for pages that were written one by one; (3,
        colors) uint16 or None; see `pixel_size`.
    """
    with _opened(path) as file:
        if _page_chain_is_cut(file):
            raise ImageFileError(
                f"{path} is truncated: pages are missing after page {len(file.pages)}; copy or export it again.",
                "truncated",
            )
        first, (series, _, axes) = file.pages.first, _one_image(file, path)
        _refuse_other_colors(first, path)
        array = series[0].asarray() if len(series) == 1 else np.stack([part.asarray() for part in series])
        return array, axes, first.colormap if first.photometric == PHOTOMETRIC.PALETTE else None, pixel_size(file, axes)


def _one_image(file: tifffile.TiffFile, path: Path) -> tuple[list[tifffile.TiffPageSeries], tuple[int, ...], str]:
    """Return the parts of a file's one image, its lengths and axes; equal planes one by one are a stack's slices."""
    series = file.series
    first = series[0]
    if len(series) == 1:
        return series, first.shape, first.axes
    if first.axes == "YX" and len({(part.shape, part.dtype, part.axes) for part in series}) == 1:
        return series, (len(series), *first.shape), "IYX"
    raise ImageFileError(
        f"{path} holds {counted(len(series), 'image')} of unequal form, expected one; save the image alone.",
        "pixel-form",
    )


def _refuse_other_colors(page: tifffile.TiffPage, path: Path) -> None:
    """Refuse inks and color spaces whose numbers are no grey and no red, green and blue; JPEG's is decoded to these."""
    readable = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
    in_jpeg = page.photometric == PHOTOMETRIC.YCBCR and page.compression in (COMPRESSION.OJPEG, COMPRESSION.JPEG)
    if page.photometric not in readable and not in_jpeg:
        name = getattr(page.photometric, "name", page.photometric)
        raise ImageFileError(
            f"{path} holds colors as {name}, expected grey, RGB or a palette; convert it to RGB.", "pixel-form"
        )


@contextmanager
def _opened(path: Path) -> Iterator[tifffile.TiffFile]:
    """Open a TIFF; what its reading raises becomes an ImageFileError that names it."""
    refuse_absent(path)
    try:
        with tifffile.TiffFile(path) as file:
            _refuse_loops(file, path)
            if not file.series or any(part.ndim < 2 or 0 in part.shape for part in file.series):
                raise ImageFileError(f"{path} holds an image without pixels; copy or export it again.", "pixel-form")
            for page in (part.keyframe for part in file.series):
                chunks, counts = math.prod(page.chunked), page.databytecounts
                if 0 in counts or not len(page.dataoffsets) == len(counts) == chunks:  # zeros, for as long as it takes
                    message = f"{path} lacks pixels that its header promises; copy or export it again."
                    raise ImageFileError(message, "truncated")
            yield file
    except ImageFileError:
        raise
    except Exception as error:  # of damaged files tifffile raises anything, a MemoryError for absurd sizes too
        raise ImageFileError(f"{path} cannot be read: {error}. Copy or export it again.") from None


def write_tiff(array: np.ndarray, path: Path, geometry: Geometry) -> None:
    """Write (H, W) or (D, H, W) as compressed grey TIFF, whole or not at all, with the pixel size where tags can."""
    tags = resolution_tags(*geometry.spacing[1:]) if geometry.measured else {}
    with atomic_path(path) as temporary:
        tifffile.imwrite(temporary, array, compression="zlib", photometric="minisblack", **tags)


def _page_chain_is_cut(file: tifffile.TiffFile) -> bool:
    """Tell whether the last readable page points to a further one, which tifffile only logs."""
    return bool(_following(file, file.pages[len(file.pages) - 1].offset))


def _following(file: tifffile.TiffFile, place: int) -> int:
    """Return where the page after the one at a place begins; 0 where there is none.

    Raises struct.error where the file ends before.
    """
    form = file.tiff
    file.filehandle.seek(place)
    (tags,) = struct.unpack(form.tagnoformat, file.filehandle.read(form.tagnosize))
    file.filehandle.seek(place + form.tagnosize + tags * form.tagsize)
    return int(struct.unpack(form.offsetformat, file.filehandle.read(form.offsetsize))[0])


def _refuse_loops(file: tifffile.TiffFile, path: Path) -> None:
    """Refuse pages that lead back to an earlier one, which tifffile would follow without end."""
    seen: set[int] = set()
    place = file.pages.first.offset
    with suppress(struct.error):
        while place:
            if place in seen:
                raise ImageFileError(f"{path} has pages that lead in a circle; copy or export it again.", "corrupted")
            seen.add(place)
            place = _following(file, place)


def _geometry(shape: Shape, image: Path, size: PixelSize | None) -> Geometry:
    """Take the spacing file, or else what the TIFF tells of all three axes."""
    path = spacing_file(image)
    if path.is_file():
        return Geometry(shape=shape, spacing=_spacing(path), directed=False)
    if size is not None and size[0] is not None:
        return Geometry(shape=shape, spacing=(size[0], size[1], size[2]), directed=False)
    lacking = "no size of its voxels" if size is None else "a size of its pixels but no distance of its slices"
    logger.warning("%s has %s, and there is no spacing file %s: sizes count in voxels.", image, lacking, path.name)
    return Geometry(shape=shape, spacing=(1.0, 1.0, 1.0), directed=False, measured=False)


def _spacing(path: Path) -> Triple:
    try:
        return decode(Spacing, read_json(path)["spacing"], "spacing")  # type: ignore[arg-type]
    except (ConfigError, KeyError, TypeError):
        raise ImageFileError(
            f'{path} must hold {{"spacing": [D, H, W]}} with three positive numbers in mm; correct it.', "header"
        ) from None
