"""Image files as napari's layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samunet.imageio import known_ending, reader_of_image, stem_of

LayerData = tuple[np.ndarray, dict[str, Any], str]


def reader_of(path: str | Sequence[str]) -> Callable[[str], list[LayerData]] | None:
    """Tell napari who reads a file; None where it is none of samunet's formats, or several files are one layer."""
    return read if isinstance(path, str) and known_ending(Path(path)) else None


def read(path: str) -> list[LayerData]:
    """Read an image, scaled by its spacing in mm, a layer for each channel; raises DatasetError where it is damaged."""
    file = Path(path)
    volume = reader_of_image(file, None).read_image([file])
    grid = volume.geometry
    name = stem_of(file)
    layers: list[LayerData] = []
    for number, channel in enumerate(volume.array):
        shown, scale = (channel[0], grid.spacing[1:]) if grid.planar else (channel, grid.spacing)
        named = name if len(volume.array) == 1 else f"{name} channel {number}"
        layers.append((shown, {"name": named, "scale": scale}, "image"))
    return layers
