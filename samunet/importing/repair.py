"""Repairs that were asked for, and a report of what each one changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from samunet.core.codec import atomic_path
from samunet.core.geometry import Geometry
from samunet.errors import DatasetError
from samunet.imageio import ImageReader
from samunet.imageio.nibabel_reader import ORTHOGONAL, affine_of, affine_that_counts, skew, unit_axes
from samunet.imageio.nifti import is_nifti

SAME_GRID = 1e-3  # voxels; headers hold rounded numbers


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """What may be changed in copies of files."""

    label_values: Mapping[int, int] = field(default_factory=dict)
    """Value in a label file to the one that takes its place, all at once."""
    orthonormalize: bool = False
    """Turn NIfTI axes that do not meet at right angles to the nearest that do."""
    copy_grid: bool = False
    """Give labels the grid of their case's first image, where both have one shape."""
    priority: Sequence[str] = ()
    """Structures whose masks may share voxels, which the last of them gets."""

    def __bool__(self) -> bool:
        return bool(self.label_values) or self.orthonormalize or self.copy_grid or bool(self.priority)


def repair_file(
    path: Path, reader: ImageReader, repairs: Repairs, *, image: Path | None = None
) -> list[dict[str, Any]]:
    """Repair one file in place; returns one entry a change, empty where nothing needed it.

    Args:
        image: the first image of its case, where the file is a label.

    Raises:
        DatasetError: the file cannot be read, or a mapped value does not fit into a label file.
    """
    entries: list[dict[str, Any]] = []
    if repairs.orthonormalize and is_nifti(path) and (degrees := _orthonormalize(path, reader)) is not None:
        entries.append({"repair": "orthonormalize", "degrees": round(degrees, 4)})
    if image is not None and repairs.label_values:
        entries += _map_values(path, reader, repairs.label_values)
    if image is not None and repairs.copy_grid:
        entries += _copy_grid(path, reader, image)
    return entries


def _copy_grid(path: Path, reader: ImageReader, image: Path) -> list[dict[str, Any]]:
    values, own = reader.read_label(path)
    geometry = reader.load(image)[1]
    changes = grid_changes(own, geometry)
    if changes:
        write_label(values, reader, geometry, path)
    return changes


def grid_changes(own: Geometry, image: Geometry) -> list[dict[str, Any]]:
    """Return the entry of the report for a label that gets the grid of its image; none where it lies there already."""
    if own.shape != image.shape or not (own.measured and image.measured):
        return []  # another shape is refused by checks and by planning; without a size there is nothing to copy
    if (apart := own.corner_distance_mm(image)) <= SAME_GRID * min(image.spacing):
        return []
    return [
        {
            "repair": "grid of the image",
            "mm": float(f"{apart:.4g}"),
            "voxels": float(f"{own.voxels_apart(image):.4g}"),
        }
    ]


def _orthonormalize(path: Path, reader: ImageReader) -> float | None:
    """Write the axes that the reader takes into the header; returns the largest turn of one, in degrees."""
    image = nibabel.load(path)
    before = affine_that_counts(image.header, path)  # type: ignore[arg-type]
    if before is None or skew(unit_axes(before, path)) < ORTHOGONAL:
        return None
    after = affine_of(reader.load(path)[1])
    image.set_sform(after, code=1)  # type: ignore[attr-defined]
    image.set_qform(after, code=1)  # type: ignore[attr-defined]
    with atomic_path(path) as temporary:
        nibabel.save(image, temporary)
    cosines = (unit_axes(before, path) * unit_axes(after, path)).sum(axis=0)
    return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())


def _map_values(path: Path, reader: ImageReader, mapping: Mapping[int, int]) -> list[dict[str, Any]]:
    values, geometry = reader.read_label(path)
    counts = {old: int((values == old).sum()) for old in mapping}
    if not any(counts.values()):
        return []
    mapped = values.copy()
    for old, new in mapping.items():
        mapped[values == old] = new
    write_label(mapped, reader, geometry, path)
    return [
        {"repair": "label value", "from": old, "to": mapping[old], "voxels": count}
        for old, count in counts.items()
        if count
    ]


def write_label(values: np.ndarray, reader: ImageReader, geometry: Geometry, path: Path) -> None:
    """Write label values (D, H, W) in the smallest type that holds them; raises DatasetError where none does."""
    if values.min() < 0 or values.max() > np.iinfo(np.uint16).max:
        raise DatasetError(
            f"{path.name} holds {values.min()} to {values.max()}; label files hold 0 to 65535, so map the others with "
            "--map_labels."
        )
    reader.write_segmentation(values.astype(np.uint8 if values.max() < 256 else np.uint16), geometry, path)
