"""Files to volumes and back: one reader a family of formats, in the order in which they are tried."""

from __future__ import annotations

import math
from pathlib import Path

from samunet.core.codec import read_json
from samunet.core.dataset import DatasetSpec, files_with_ending
from samunet.core.memory import is_free
from samunet.errors import ConfigError, DatasetError, ImageFileError, did_you_mean
from samunet.imageio.natural import JPEG, TIFF, NaturalImage2DIO
from samunet.imageio.nibabel_reader import NibabelIO
from samunet.imageio.reader import FLOAT_BYTES, ImageReader
from samunet.imageio.sitk import SimpleITKIO
from samunet.imageio.tiff3d import Tiff3DIO

__all__ = [
    "READERS",
    "ImageReader",
    "known_ending",
    "output_ending",
    "reader_for",
    "reader_of_image",
    "reader_of_segmentations",
    "stem_of",
    "writer_for",
]

READERS: tuple[ImageReader, ...] = (NaturalImage2DIO(), SimpleITKIO(), Tiff3DIO(), NibabelIO())
"""All readers, with nnU-Net's names and in its order."""
ENDINGS = tuple(
    sorted({ending for reader in READERS for ending in reader.endings}, key=lambda ending: (-len(ending), ending))
)
"""All endings, the longest first, so that .nii.gz is found before .gz would be."""
LOSSLESS = ".png"  # of what has JPEG images
PARENTS = 3  # a model's plan lies two folders above its validation predictions, three above postprocessed ones


def reader_for(file_ending: str, name: str | None = None, example: Path | None = None) -> ImageReader:
    """Choose the reader of a dataset.

    Args:
        file_ending: for example ".nii.gz"; upper and lower case are the same.
        name: reader asked for by name; the ending is then not looked at.
        example: one image of the dataset; readers that cannot open it are passed over.

    Raises:
        ConfigError: no reader has the name.
        DatasetError: no reader knows the ending, or (ImageFileError) none can open the example.
    """
    if name is not None:
        named = {reader.name: reader for reader in READERS}
        if name not in named:
            raise ConfigError(f"There is no image reader '{name}'.{did_you_mean(name, named)}")
        return named[name]
    candidates = [reader for reader in READERS if file_ending.lower() in reader.endings]
    if not candidates:
        endings = sorted({ending for reader in READERS for ending in reader.endings})
        raise DatasetError(
            f"No image reader knows the file ending '{file_ending}'; known are {', '.join(endings)}. Convert the files."
        )
    if example is None:
        return candidates[0]
    refusals = []
    for reader in candidates:
        try:
            peek = reader.peek(example)
            if not is_free(peek.loading + FLOAT_BYTES * peek.channels * math.prod(peek.geometry.shape)):
                return reader  # whoever reads it refuses it by its case
            reader.read_image([example])
            return reader
        except DatasetError as error:
            refusals.append(f"{reader.name}: {error}")
    raise ImageFileError(f"No image reader can open {example}. {' '.join(refusals)}")


def reader_of_segmentations(folder: Path, spec: DatasetSpec) -> ImageReader:
    """Choose the reader of a folder of predictions or references; raises ConfigError or DatasetError as `reader_for`.

    The reader that dataset.json asks for comes first, then that of the plan in the folder or above it, which the
    segmentations were made with, then the first that opens one of them.
    """
    name = spec.reader or _planned_reader(folder)
    if name is not None and (spec.reader or spec.file_ending in reader_for(spec.file_ending, name).endings):
        return reader_for(spec.file_ending, name)
    files = files_with_ending(folder, spec.file_ending) if folder.is_dir() else {}
    return reader_for(spec.file_ending, example=next(iter(files.values()), None))


def _planned_reader(folder: Path) -> str | None:
    """Return the reader that the nearest plans.json names, samunet's or nnU-Net's, in a folder or three above."""
    for parent in (folder, *list(folder.resolve().parents)[:PARENTS]):
        if (parent / "plans.json").is_file():
            plan = read_json(parent / "plans.json")
            name = (plan.get("reader") or plan.get("image_reader_writer")) if isinstance(plan, dict) else None
            return name if isinstance(name, str) else None
    return None


def known_ending(path: Path) -> str:
    """Return the ending of an image file, in lower case, as the readers know it; an empty string where none does."""
    return next((ending for ending in ENDINGS if path.name.lower().endswith(ending)), "")


def stem_of(path: Path) -> str:
    """Return the name of an image file without its ending; all of it where no reader knows the ending."""
    return path.name[: len(path.name) - len(known_ending(path))]


def output_ending(image: Path, otherwise: str) -> str:
    """Return the ending of an image's segmentation: the image's, .png for JPEG, and for DICOM what is given."""
    ending = known_ending(image)
    return LOSSLESS if ending in JPEG else ending or otherwise


def reader_of_image(path: Path, name: str | None, series: str | None = None) -> ImageReader:
    """Choose the reader of an image that need not have the ending of a model's training; raises DatasetError as
    `reader_for`.

    Args:
        name: of the reader that the model was planned with, taken where it knows the ending.
        series: which one of a folder of several DICOM series is meant.
    """
    ending = known_ending(path)
    if path.is_dir():
        return SimpleITKIO(series)
    if name is not None and ending in (reader := reader_for(ending, name)).endings:
        return reader
    return reader_for(ending or path.suffix, example=path if ending in TIFF else None)


def writer_for(ending: str, name: str | None, *, planar: bool) -> ImageReader:
    """Choose a segmentation's writer: the planned reader, if any, where it knows the ending, else TIFF's by the
    dimensions; raises DatasetError where no reader knows the ending.
    """
    if name is not None and ending in (planned := reader_for(ending, name)).endings:
        return planned
    return reader_for(ending, Tiff3DIO.name if ending in TIFF and not planar else None)
