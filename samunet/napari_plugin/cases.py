"""From layers of a viewer to a case at a desk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from samunet.core.dataset import read_dataset_json
from samunet.core.geometry import Geometry
from samunet.core.volume import Volume
from samunet.errors import ConfigError, DatasetError
from samunet.imageio import known_ending, output_ending
from samunet.interaction.slices import PlaneModel
from samunet.interaction.state import Thing, named_things
from samunet.interaction.volumes import VolumeModel
from samunet.serving.desk import TABLE, Desk, Work, case_name

if TYPE_CHECKING:
    from napari.layers import Image

ENDING = ".nii.gz"  # of labels whose image tells none
DATASET = {"imagesTr": "labelsTr", "imagesTs": "labelsTs"}
"""Folders of a dataset's images, and of their labels."""


def file_of(layer: Image) -> Path | None:
    """Return the file that a layer was opened from, where samunet may read it."""
    path = Path(layer.source.path) if layer.source.path else None
    return path if path is not None and (known_ending(path) or path.is_dir()) else None


def label_file_of(image: Path) -> Path:
    """Return where labels of an image go unless another place is said: where samunet_annotate -d puts them, or into
    a folder "labels" beside the image.
    """
    dataset = _dataset_of(image)
    folder = image.parent / "labels" if dataset is None else dataset / DATASET[image.parent.name]
    return folder / f"{case_name(image)}{output_ending(image, ENDING)}"


def open_desk(layer: Image, layers: Iterable[Image], model: PlaneModel | VolumeModel, output: Path) -> Desk:
    """Open what a layer shows for annotation.

    Args:
        layer: of a file, or of an array with its scale as spacing in mm.
        layers: further ones; files among them that are other channels of the same case belong to it.
        output: label file to write; annotated before, it is gone on with.

    Raises:
        ConfigError: the image is neither a plane nor a volume, or `output` cannot hold its labels.
        DatasetError: the layer shows something else than samunet reads in its file.
        SamunetError: as `Desk.open`.
    """
    file = file_of(layer)
    if file is None:
        if known_ending(output) != ENDING:
            raise ConfigError(f"Labels of an image without a file are written as {ENDING}; {output.name} is not.")
        desk = Desk((), model, folder=output.parent, table=output.parent / TABLE)
        desk.open_array(output.name.removesuffix(ENDING), _volume_of(layer))
        return desk
    channels = tuple(sorted({file, *(other for other in map(file_of, layers) if other and _same_case(file, other))}))
    start = output if output.is_file() else None
    work = Work(name=case_name(file), images=channels, output=output, start=start)
    dataset = _dataset_of(file)
    desk = Desk((work,), model, objects=_objects_of(dataset), table=(dataset or output.parent) / TABLE)
    desk.open(work.name)
    try:
        _check_shown(layer, file, desk.session.volume)
    except BaseException:
        desk.close()
        raise
    return desk


def _dataset_of(image: Path) -> Path | None:
    """Return the folder of the dataset to which an image belongs, if any."""
    folder = image.absolute().parent
    return folder.parent if folder.name in DATASET and (folder.parent / "dataset.json").is_file() else None


def _objects_of(dataset: Path | None) -> Sequence[Thing]:
    if dataset is None:
        return ()
    return named_things(read_dataset_json(dataset / "dataset.json").labels.names_of_values)


def _same_case(file: Path, other: Path) -> bool:
    return (file.parent, case_name(file), known_ending(file)) == (other.parent, case_name(other), known_ending(other))


def _shown(layer: Image) -> np.ndarray:
    """Return what a layer shows as (C, D, H, W); raises ConfigError where that is no plane or volume."""
    array = np.empty(()) if layer.multiscale else np.asarray(layer.data)
    array = np.moveaxis(array, -1, 0) if layer.rgb else array[None]
    if array.ndim not in (3, 4):
        raise ConfigError(f"Layer {layer.name} is neither a plane nor a volume at one resolution; choose another one.")
    return array if array.ndim == 4 else array[:, None]


def _volume_of(layer: Image) -> Volume:
    array = np.ascontiguousarray(_shown(layer), np.float32)
    if not np.isfinite(array).all():
        raise ConfigError(f"Layer {layer.name} holds values that are not finite; replace them first.")
    d, h, w = [1.0] * (3 - layer.ndim) + [abs(float(step)) for step in layer.scale]
    shape = (array.shape[1], array.shape[2], array.shape[3])
    return Volume(array=array, geometry=Geometry(shape=shape, spacing=(d, h, w), planar=layer.ndim == 2))


def _check_shown(layer: Image, file: Path, volume: Volume) -> None:
    """Refuse a layer whose voxels lie elsewhere than those that samunet reads."""
    shown = _shown(layer)[0]
    if shown.shape != volume.geometry.shape or not any(np.array_equal(shown, one) for one in volume.array):
        sizes = (" x ".join(map(str, shape)) for shape in (shown.shape, volume.geometry.shape))
        raise DatasetError(
            f"Layer {layer.name} does not show {file} as samunet reads it: {' and '.join(sizes)} voxels, or other "
            "values. Open the file with the reader samunet."
        )
