"""Files to volumes and back: one reader a family of formats, in the order in which they are tried."""

from __future__ import annotations

from pathlib import Path

from samunet.errors import ConfigError, DatasetError, ImageFileError, did_you_mean
from samunet.imageio.natural import NaturalImage2DIO
from samunet.imageio.nibabel_reader import NibabelIO
from samunet.imageio.reader import ImageReader
from samunet.imageio.sitk import SimpleITKIO
from samunet.imageio.tiff3d import Tiff3DIO

__all__ = ["READERS", "ImageReader", "reader_for"]

READERS: tuple[ImageReader, ...] = (NaturalImage2DIO(), SimpleITKIO(), Tiff3DIO(), NibabelIO())
"""nnU-Net's names and order."""


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
            reader.read_image([example])
            return reader
        except DatasetError as error:
            refusals.append(f"{reader.name}: {error}")
    raise ImageFileError(f"No image reader can open {example}. {' '.join(refusals)}")
