"""The smallest datasets that a test can train on: bright blobs in noise, in nnU-Net's raw layout."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from samunet.core.geometry import Geometry, Shape
from samunet.core.labels import parse_labels
from samunet.errors import ConfigError
from samunet.phantom.abdomen import ORIENTATIONS, centered_geometry
from samunet.phantom.dataset import KEY, dataset_files, is_complete, new_dataset, write_array


def write_tiny_dataset(
    raw_folder: Path,
    *,
    name: str = "Dataset999_Tiny",
    dimensions: int = 3,
    channels: int = 1,
    labels: Mapping[str, object] | None = None,
    regions_class_order: Sequence[int] | None = None,
    cases: int = 4,
    size: Shape = (6, 32, 40),
    seed: int = 0,
    file_ending: str = ".nii.gz",
    num_test: int = 1,
) -> Path:
    """Write bright blobs in noise, one per label value and asymmetric in every axis, and return the dataset folder.

    Args:
        dimensions: 2 or 3; 2 writes planar images.
        channels: files per case; three channels of .png images are one RGB file, as nnU-Net reads it.
        labels: the `labels` of dataset.json, regions and ignore label allowed; None for background, small and large.
        regions_class_order: as in dataset.json; needed for regions.
        cases: number of training cases.
        size: (D, H, W) in voxels, D = 1 where dimensions is 2; sizes vary by up to two voxels between cases.
        file_ending: ".png" (8 bits, 2D), or a format that SimpleITK writes, e.g. ".nii.gz", ".mha", ".nrrd".

    Raises:
        ConfigError: dimensions, size and file ending do not go together.
        DatasetError: labels are wrong, or the folder exists and holds something else.
    """
    if dimensions not in (2, 3) or (dimensions == 2) != (size[0] == 1) or (file_ending == ".png" and dimensions == 3):
        raise ConfigError(
            f"A {dimensions}D dataset of size {size} in {file_ending} files is not possible; "
            "2D needs D = 1, 3D needs D > 1 and no .png."
        )
    raw_labels = dict(labels or {"background": 0, "large": 1, "small": 2})
    meaning = parse_labels(raw_labels, regions_class_order)
    rgb = file_ending == ".png" and channels == 3
    names = [f"tiny_{index:03d}" for index in range(cases + num_test)]
    description: dict[str, object] = {
        "channel_names": {
            str(index): channel
            for index, channel in enumerate("RGB" if rgb else [f"channel{c}" for c in range(channels)])
        },
        "labels": raw_labels,
        "numTraining": cases,
        "file_ending": file_ending,
        KEY: {"kind": "tiny", "seed": seed, "size": list(size), "num_test": num_test},
    }
    if regions_class_order is not None:
        description["regions_class_order"] = list(regions_class_order)
    target = raw_folder / name
    files = dataset_files(names[:cases], names[cases:], file_ending, 1 if rgb else channels)
    if is_complete(target, description, files):
        return target
    with new_dataset(target, description, files) as folder:
        for index, case in enumerate(names):
            part = "Tr" if index < cases else "Ts"
            rng = np.random.default_rng([seed, index])
            image, label, geometry = _blobs(
                rng, channels, meaning.all_values, meaning.ignore, size, planar=dimensions == 2
            )
            if file_ending == ".png":
                image = np.clip(image, 0, 255).astype(np.uint8)
            for channel, array in enumerate([np.moveaxis(image, 0, -1)] if rgb else list(image)):
                path = folder / f"images{part}" / f"{case}_{channel:04d}{file_ending}"
                _write(path, array, geometry, vector=rgb)
            _write(folder / f"labels{part}" / f"{case}{file_ending}", label, geometry)
    return target


def _write(path: Path, array: np.ndarray, geometry: Geometry, *, vector: bool = False) -> None:
    """Write (D, H, W), or (D, H, W, C) as one vector image; planar geometries become 2D files."""
    if not geometry.planar:
        write_array(path, array, geometry)
        return
    image = sitk.GetImageFromArray(array[0], isVector=vector)
    image.SetSpacing(geometry.spacing[:0:-1])
    sitk.WriteImage(image, str(path), useCompression=True)


def _blobs(
    rng: np.random.Generator, channels: int, values: Sequence[int], ignore: int | None, size: Shape, *, planar: bool
) -> tuple[np.ndarray, np.ndarray, Geometry]:
    """Draw one ellipsoid per label value; returns image (C, D, H, W) float32, label (D, H, W) uint8 and the grid."""
    extra = (0 if planar else rng.integers(0, 2), *rng.integers(-2, 3, 2))
    shape = (size[0] + int(extra[0]), size[1] + int(extra[1]), size[2] + int(extra[2]))
    grid = np.stack(np.meshgrid(*((np.arange(n) + 0.5) / n for n in shape), indexing="ij"))
    label = np.zeros(shape, np.uint8)
    foreground = [value for value in values if value]
    radius = 0.3 / math.sqrt(len(foreground))
    seeds = []
    for k, value in enumerate(foreground):
        # Steps of the plastic number spread any number of centers; the offset makes a picture unlike its mirror images.
        center = (
            0.2
            + 0.6 * np.modf(np.array([0.3, 0.2, 0.15]) + k * np.array([0.549, 0.570, 0.755]))[0]
            + rng.uniform(-0.04, 0.04, 3)
        )
        if planar:
            center[0] = 0.5
        stretch = np.array([1.4, 1.0, 0.8]) * rng.uniform(0.9, 1.1)
        label[(((grid - center[:, None, None, None]) / (radius * stretch)[:, None, None, None]) ** 2).sum(0) < 1] = (
            value
        )
        seeds.append((tuple((center * shape).astype(int)), value))
    for index, value in seeds:  # no blob vanishes behind a later one
        label[index] = value
    contrast = 40 + 160 * label.astype(np.float32) / max(foreground)
    ramp = 10 * grid[2].astype(np.float32)
    image = np.stack(
        [contrast * (1 - 0.2 * c / channels) + ramp + rng.normal(0, 8, shape) for c in range(channels)]
    ).astype(np.float32)
    if ignore is not None:
        label[..., -max(1, shape[2] // 8) :] = ignore
    if planar:
        return image, label, Geometry(shape=shape, spacing=(1.0, 1.0, 1.0), planar=True)
    orientation = ORIENTATIONS[int(rng.integers(len(ORIENTATIONS)))]
    spacing = (round(rng.uniform(2.4, 3.0), 3), 1.0, 1.25)
    tilt = (float(rng.uniform(-8, 8)), 0.0, 0.0)
    center_mm = tuple(float(value) for value in rng.uniform(-50, 50, 3))
    return (
        image,
        label,
        centered_geometry(shape, spacing, orientation, tilt, (center_mm[0], center_mm[1], center_mm[2])),
    )
