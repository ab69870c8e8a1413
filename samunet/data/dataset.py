"""Preprocessed cases as a source of patches."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch

from samunet.core.geometry import Shape
from samunet.core.units import counted
from samunet.errors import DatasetError
from samunet.preprocessing.storage import Locations, check_arrays, load_locations, load_record, read_part


class PreprocessedDataset:
    """Cut patches from stored cases; only the needed blocks are decoded, and voxel locations are read once per case.

    Every file is compared with its checksum when it is first read; copies of this object in other processes, those that
    prepare patches, know which cases one of them has compared.

    Args:
        folder: a preprocessed folder.
        identifiers: cases to use.

    Raises:
        DatasetError: a case is not in the folder; later, a file is absent, or not as it was written.
    """

    def __init__(self, folder: Path, identifiers: tuple[str, ...], checked: torch.Tensor | None = None) -> None:
        missing = [name for name in identifiers if not (folder / f"{name}.json").is_file()]
        if missing:
            raise DatasetError(
                f"{folder} lacks {len(missing)} of {counted(len(identifiers), 'case')}, first '{missing[0]}'. "
                "Preprocess the dataset again."
            )
        self.folder = folder
        self.identifiers = identifiers
        self._checked = torch.zeros(len(identifiers), dtype=torch.bool) if checked is None else checked
        self._positions = {name: position for position, name in enumerate(identifiers)}
        self._record = lru_cache(maxsize=None)(lambda name: load_record(folder, name))
        self._locations = lru_cache(maxsize=None)(lambda name: load_locations(folder, name, self._record(name)))

    def __reduce__(self) -> tuple[type[PreprocessedDataset], tuple[Path, tuple[str, ...], torch.Tensor]]:
        return PreprocessedDataset, (self.folder, self.identifiers, self._checked.share_memory_())

    def shape(self, identifier: str) -> Shape:
        """(D, H, W) of a case."""
        return self._record(identifier).history.shape_after_resample

    def planes_fit(self, patch_size: Shape) -> bool:
        """Tell whether a patch holds the whole plane of every case, so that it is always cut at the same place of the
        plane.
        """
        return all(self.shape(name)[axis] <= patch_size[axis] for name in self.identifiers for axis in (1, 2))

    def locations(self, identifier: str) -> Locations:
        """Sampled voxels of each foreground class or region, and of the annotated part."""
        return self._locations(identifier)

    @cached_property
    def holders(self) -> tuple[tuple[str, ...], ...]:
        """The cases that hold each foreground class or region."""
        count = len(self.locations(self.identifiers[0]).classes)
        return tuple(
            tuple(name for name in self.identifiers if len(self.locations(name).classes[index]))
            for index in range(count)
        )

    def cut(self, identifier: str, start: Shape, size: Shape) -> tuple[np.ndarray, np.ndarray]:
        """Return image (C, *size) and label (*size); what lies outside the case is zero.

        Args:
            start: (D, H, W) of the patch's first voxel; may be negative.
            size: (D, H, W).
        """
        position = self._positions[identifier]
        if not self._checked[position]:
            check_arrays(self.folder, identifier, self._record(identifier))
            self._checked[position] = True
        inside = tuple(
            slice(max(0, a), max(0, min(a + n, m))) for a, n, m in zip(start, size, self.shape(identifier), strict=True)
        )
        padding = [(part.start - a, n - (part.stop - a)) for a, n, part in zip(start, size, inside, strict=True)]
        image = read_part(self.folder / f"{identifier}.b2nd", (slice(None), *inside))
        label = read_part(self.folder / f"{identifier}_seg.b2nd", (0, *inside))
        return np.pad(image, [(0, 0), *padding]), np.pad(label, padding)
