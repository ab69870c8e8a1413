"""Files to volumes and back: one reader a family of formats, in the order in which they are tried."""

from __future__ import annotations

import math
from pathlib import Path

from samunet.core.codec import read_json
from samunet.core.dataset import DatasetSpec, files_with_ending
from samunet.core.memory import is_free
from samunet.errors import ConfigError, DatasetError, ImageFileError, did_you_mean
from samunet.imageio.natural import NaturalImage2DIO
from samunet.imageio.nibabel_reader import NibabelIO
from samunet.imageio.reader import ImageReader
from samunet.imageio.sitk import SimpleITKIO
from samunet.imageio.tiff3d import Tiff3DIO

__all__ = ["READERS", "ImageReader", "reader_for", "reader_of_segmentations"]

FLOAT = 4  # bytes
READERS: tuple[ImageReader, ...] = (NaturalImage2DIO(), SimpleITKIO(), Tiff3DIO(), NibabelIO())
"""nnU-Net's names and order."""
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
        known = sorted({ending for reader in READERS for ending in reader.endings})
        raise DatasetError(f"No image reader knows the file ending '{file_ending}'; known are {', '.join(known)}. Convert the files.")
    if example is None:
        return candidates[0]
    refusals = []
    for reader in candidates:
        try:
            peek = reader.peek(example)
            if not is_free(peek.loading + FLOAT * peek.channels * math.prod(peek.geometry.shape)):
                return reader  # whoever reads it refuses it by its case
            reader.read_image([example])
            return reader
        except DatasetError as error:
            refusals.append(f"{reader.name}: {error}")
    raise ImageFileError(f"No image reader can open {example}. {' '.join(refusals)}")


def reader_of_segmentations(folder: Path, spec: DatasetSpec) -> ImageReader:
    """Choose the reader of a folder of predictions or references.

    The reader that dataset.json asks for comes first, then that of the plan in the folder or above it, which the segmentations were made
    with, then the first that opens one of them.

    Raises:
        ConfigError, DatasetError: as `reader_for`.
    """
    name = spec.reader or _planned_reader(folder)
    if name is not None and (spec.reader or spec.file_ending in reader_for(spec.file_ending, name).endings):
        return reader_for(spec.file_ending, name)
    files = files_with_ending(folder, spec.file_ending) if folder.is_dir() else {}
    return reader_for(spec.file_ending, example=next(iter(files.values()), None))


def _planned_reader(folder: Path) -> str | None:
    """Return the reader that the nearest plans.json names, samunet's or nnU-Net's, in a folder or up to three above it."""
    for parent in (folder, *list(folder.resolve().parents)[:PARENTS]):
        if (parent / "plans.json").is_file():
            plan = read_json(parent / "plans.json")
            name = (plan.get("reader") or plan.get("image_reader_writer")) if isinstance(plan, dict) else None
            return name if isinstance(name, str) else None
    return None
