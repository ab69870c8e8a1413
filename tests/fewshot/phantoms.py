"""Balls and discs in noise, as images and labels, in memory and as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from samunet.core.codec import write_json
from samunet.core.geometry import Geometry
from samunet.core.volume import Volume
from samunet.fewshot.examples import Example
from samunet.imageio import reader_for, writer_for


def ball(
    shape: Sequence[int], center: Sequence[float], radius: float, *, name: str = "case", seed: int = 0, **grid: object
) -> Example:
    """Return a bright ball (class 1) with a dark core (class 2); a disc where the shape has one slice."""
    places = np.indices(shape)
    away = np.sqrt(sum((axis - middle) ** 2 for axis, middle in zip(places, center, strict=True)))
    label = np.where(away <= radius / 2, 2, np.where(away <= radius, 1, 0))
    noise = np.random.default_rng(seed).normal(0, 4, shape)
    image = 40 + 60 * (label == 1) - 30 * (label == 2) + noise
    settings = {"spacing": (1.0, 1.0, 1.0), "planar": shape[0] == 1, **grid}
    geometry = Geometry(shape=tuple(shape), **settings)  # type: ignore[arg-type]
    volume = Volume(array=image[None].astype(np.float32), geometry=geometry)
    return Example(identifier=name, volume=volume, label=label.astype(np.int16))


def write_dataset(folder: Path, examples: Sequence[Example], ending: str = ".nii.gz") -> Path:
    """Write a raw dataset; returns its folder."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for example in examples:
        write_image(folder / "imagesTr", example, ending)
        path = folder / "labelsTr" / f"{example.identifier}{ending}"
        writer = writer_for(ending, None, planar=example.volume.geometry.planar)
        writer.write_segmentation(example.known().astype(np.uint8), example.volume.geometry, path)
    labels = {"background": 0, "shell": 1, "core": 2}
    described = {"channel_names": {"0": "MR"}, "labels": labels, "numTraining": len(examples), "file_ending": ending}
    write_json(folder / "dataset.json", described)
    return folder


def write_image(folder: Path, example: Example, ending: str = ".nii.gz") -> Path:
    """Write the image of an example as 8 bits."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{example.identifier}_0000{ending}"
    grey = np.clip(example.volume.array[0], 0, 255).astype(np.uint8)
    reader_for(ending).write_segmentation(grey, example.volume.geometry, path)
    return path
