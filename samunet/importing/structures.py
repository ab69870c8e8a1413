"""One label map of the masks that a case has for each structure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samunet.core.geometry import Geometry
from samunet.core.labels import BACKGROUND_NAME, parse_labels
from samunet.core.units import counted
from samunet.core.values import distinct
from samunet.errors import MOST_NAMES, ConfigError, DatasetError, did_you_mean
from samunet.imageio import reader_of_image
from samunet.imageio.case import check_grid_of_label
from samunet.importing.repair import Repairs, grid_changes

BY_MASKS = "a mask file for each"


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Voxels that two masks of a case share."""

    case: str
    below: str
    above: str
    """The structure that gets them."""
    voxels: int


@dataclass(frozen=True, kw_only=True)
class United:
    """The label map of a case."""

    label: np.ndarray
    """(D, H, W) uint8, or uint16 where a value needs it."""
    grid: Geometry
    """The image's."""
    overlaps: Sequence[Overlap]
    moved: Sequence[Mapping[str, object]]
    """Which masks lay elsewhere, as the report of repairs says it."""

    @property
    def changes(self) -> list[dict[str, object]]:
        """Return the entries of the report of repairs."""
        shared: list[dict[str, object]] = [
            {"repair": "overlap", "below": one.below, "above": one.above, "voxels": one.voxels} for one in self.overlaps
        ]
        return [*(dict(change) for change in self.moved), *shared]


def structures_of(masks: Sequence[Mapping[str, Path]]) -> list[str]:
    """Return the structures that any case has a mask of, in alphabetical order."""
    return sorted({name for of_case in masks for name in of_case}, key=lambda name: (name.lower(), name))


def labels_of_masks(
    structures: Sequence[str], given: Mapping[str, int], named: Mapping[str, int], priority: Sequence[str]
) -> dict[str, int]:
    """Return the values of structures: those given, those that a dataset.json names for all of them, or 1, 2, ...

    Raises:
        ConfigError: what is given, or `priority`, names a structure that has no mask.
        DatasetError: the values given are not 1, 2, ...
    """
    objects = [name for name in structures if name.lower() != BACKGROUND_NAME]
    described = {name: value for name, value in named.items() if value}
    numbered = {name: value for value, name in enumerate(objects, 1)}
    labels = dict(given) or (described if set(described) == set(objects) else numbered)
    for name in (*labels, *priority):
        if name not in structures:
            raise ConfigError(f"No mask is one of '{name}'.{did_you_mean(name, structures)}")
    parse_labels({BACKGROUND_NAME: 0, **labels})
    return labels


def lines_of_masks(masks: Sequence[Mapping[str, Path]], overlaps: Sequence[Overlap]) -> list[str]:
    """Say for people what is united, and what lies on top; nothing where cases have no masks.

    Args:
        masks: of each case with a label.
    """
    counts = Counter(name for of_case in masks for name in of_case)
    if not counts:
        return []
    some = [f"{name} in {counts[name]} of them" for name in structures_of(masks) if counts[name] < len(masks)]
    more = [f"{len(some) - MOST_NAMES} others not in all"] if len(some) > MOST_NAMES else []
    lines = [
        f"  united    {counted(counts.total(), 'mask')} of {counted(len(counts), 'structure')} become "
        f"{counted(len(masks), 'label map')}{''.join(f'; {text}' for text in [*some[:MOST_NAMES], *more])}"
    ]
    voxels: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in overlaps:
        voxels[one.above, one.below].append(one.voxels)
    lines += [
        f"  overlaps  {above} over {below}: {counted(sum(shared), 'voxel')} in {counted(len(shared), 'case')}"
        for (above, below), shared in sorted(voxels.items())
    ]
    return lines


def unite_masks(
    case: str, masks: Mapping[str, Path], image: Path, labels: Mapping[str, int], repairs: Repairs
) -> United:
    """Lay the masks of a case over each other, one in memory at a time; nonzero voxels are the structure.

    Args:
        masks: structure to its file; one that the case does not have is absent.
        image: its first file, or folder of a DICOM series.
        labels: structure to the value that its voxels get, from 1 to 65535.
        repairs: of which `priority` says which structures are laid last, in that order, and `copy_grid` that the place
            of masks is not compared.

    Raises:
        DatasetError: a file cannot be read, or a mask holds several structures or lies on another grid than the image.
    """
    grid = reader_of_image(image, None).load(image)[1]
    names = sorted(masks, key=lambda name: (name in repairs.priority, [*repairs.priority, name].index(name)))
    united = np.zeros(grid.shape, np.min_scalar_type(max(labels[name] for name in names)))
    overlaps: list[Overlap] = []
    moved: list[dict[str, object]] = []
    seen = [grid]
    for name in names:
        values, own = reader_of_image(masks[name], None).read_label(masks[name])
        what = f"Case '{case}': mask {masks[name]}"
        if own not in seen:  # most masks of a case share theirs, and what is said of one need not be said of all
            check_grid_of_label(own, grid, what, shape_only=repairs.copy_grid)
            seen.append(own)
        if repairs.copy_grid:
            moved += [{"structure": name, **change} for change in grid_changes(own, grid)]
        held = distinct(values)
        if len(held) > 2 or len(set(held) - {0}) > 1:
            raise DatasetError(
                f"{what} holds {counted(len(held), 'value')}, up to {held[-1]}; the mask of one structure holds 0 and "
                "one other. Make a file for each structure, or move it away."
            )
        inside = values != 0
        shared = np.bincount(united[inside], minlength=1)
        overlaps += [
            Overlap(case=case, below=other, above=name, voxels=int(shared[labels[other]]))
            for other in names[: names.index(name)]
            if labels[other] < len(shared) and shared[labels[other]]
        ]
        united[inside] = labels[name]
    return United(label=united, grid=grid, overlaps=overlaps, moved=moved)


def refuse_overlaps(overlaps: Sequence[Overlap], priority: Sequence[str]) -> None:
    """Raise DatasetError where structures share voxels and are not both in the order given."""
    open_ones = [one for one in overlaps if not {one.above, one.below} <= set(priority)]
    if open_ones:
        first, others = open_ones[0], {(one.below, one.above) for one in open_ones[1:]}
        others -= {(first.below, first.above)}
        more = f" (and {counted(len(others), 'more pair')}, e.g. {' and '.join(sorted(others)[0])})" if others else ""
        raise DatasetError(
            f"Case '{first.case}': the masks of {first.below} and {first.above} share {counted(first.voxels, 'voxel')}"
            f"{more}; say which lies on top by naming it last, e.g. --priority {first.below} {first.above}, or correct "
            "the masks."
        )
