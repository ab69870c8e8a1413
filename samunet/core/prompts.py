"""Clicks and boxes for the structures of a case, as a user gives them in a file.

Points are (x, y, z): either indices of the image file's voxels, x fastest and counted from 0 at a voxel's center, or
positions in mm. World positions are LPS, as in DICOM and ITK, or RAS, as in NIfTI. A 2D image has z = 0, which may be
left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from samunet.core.codec import decode, read_json, write_json
from samunet.core.geometry import Geometry, Triple, triple
from samunet.core.labels import Labels
from samunet.core.names import check_case_name
from samunet.core.ranges import Real
from samunet.errors import ConfigError, did_you_mean

PROMPTS = "prompts.json"
"""Name of the file in a folder of predictions that were made with prompts."""
TO_LPS = {"lps": (1.0, 1.0, 1.0), "ras": (-1.0, -1.0, 1.0)}
COORDINATES = ("voxel", *TO_LPS)
INSIDE, OUTSIDE, BOX, MASK = 1, 2, 4, 8
"""Bits of a voxel of a prompt map: a click or a scribble inside the structure, one outside it, part of its box, part of
its mask as it was before."""
SHOWS = INSIDE | BOX | MASK
"""What says that a structure is in a slice; a click outside it only corrects."""
Point = tuple[Real, ...]


@dataclass(frozen=True, kw_only=True)
class StructurePrompts:
    """What shows one structure."""

    points: tuple[Point, ...] = ()
    """Clicks inside it; each counts for its slice."""
    background_points: tuple[Point, ...] = ()
    """Clicks outside it."""
    box: tuple[Point, Point] | None = None
    """Two opposite corners, the voxels at both included; a box counts for all slices that it reaches."""


@dataclass(frozen=True, kw_only=True)
class CasePrompts:
    """The prompts of one case."""

    structures: dict[str, StructurePrompts]
    """Prompts by the name of the class or region."""
    coordinates: str = "voxel"
    """One of COORDINATES."""

    def __post_init__(self) -> None:
        if self.coordinates not in COORDINATES:
            raise ConfigError(
                f"coordinates of prompts must be one of {', '.join(COORDINATES)}; got '{self.coordinates}'."
            )

    def indices(self, structure: str, points: tuple[Point, ...], geometry: Geometry) -> tuple[Triple, ...]:
        """Return points as continuous (D, H, W) indices of the file's grid; raises ConfigError for one outside it."""
        indices = []
        for point in points:
            if len(point) not in (2, 3):
                raise ConfigError(f"a point of '{structure}' has three numbers x, y and z; got {list(point)}.")
            position = np.array([*point, 0.0][:3])
            if self.coordinates == "voxel":
                index = position[::-1]
            else:
                steps = np.array(geometry.direction) * np.array(geometry.spacing)[:, None]
                index = np.linalg.solve(steps.T, position * TO_LPS[self.coordinates] - geometry.origin)
            if any(not -0.5 <= place <= size - 0.5 for place, size in zip(index, geometry.shape, strict=True)):
                what = f"point {list(point)} ({self.coordinates}) of '{structure}'"
                shape = " x ".join(map(str, geometry.shape[::-1]))
                raise ConfigError(f"{what} lies outside the image of {shape} voxels; check the coordinates.")
            indices.append(triple(index.tolist()))
        return tuple(indices)


@dataclass(frozen=True, kw_only=True)
class PromptFile:
    """The prompts of some cases."""

    cases: dict[str, CasePrompts]
    origin: str = "a user's file"
    """The source of the prompts, in words; "reference: ..." where they were made from reference segmentations."""

    def of(self, case: str, labels: Labels) -> CasePrompts:
        """Return the prompts of one case; raises ConfigError where there are none, or they are for a structure that the
        labels do not name.
        """
        if case not in self.cases:
            raise ConfigError(f"the prompts name no case '{case}'.{did_you_mean(case, self.cases)}")
        names = [name for name, _ in labels.foreground]
        for name in self.cases[case].structures:
            if name not in names:
                raise ConfigError(
                    f"the prompts of '{case}' are for '{name}', which is no class or region of the "
                    f"model.{did_you_mean(name, names)}"
                )
        return self.cases[case]


def read_prompts(path: Path) -> PromptFile:
    """Read a file of prompts strictly; raises ConfigError, or DatasetError where a name is none of a case."""
    prompts = decode(PromptFile, read_json(path), path.name)
    for case in prompts.cases:
        check_case_name(case, path)
    return prompts


def write_prompts(path: Path, prompts: PromptFile) -> None:
    """Write a file of prompts atomically."""
    write_json(path, prompts)


def merge_prompts(files: Sequence[PromptFile]) -> PromptFile:
    """Join prompts; where they are for the same case, the last ones count."""
    cases = {case: prompts for file in files for case, prompts in file.cases.items()}
    return PromptFile(cases=cases, origin="; ".join(dict.fromkeys(file.origin for file in files)))


def carry_prompts(folders: Sequence[Path], target: Path) -> None:
    """Write the prompts behind folders of predictions, if there are any, to a folder that is made of them."""
    files = [read_prompts(folder / PROMPTS) for folder in folders if (folder / PROMPTS).is_file()]
    if files:
        write_prompts(target / PROMPTS, merge_prompts(files))


def refuse_mixed(origins: Mapping[str, str | None]) -> None:
    """Refuse predictions, by name, of which some were made with prompts and others without; raises ConfigError where
    they are mixed.

    Args:
        origins: of each, see `prompts_behind`.
    """
    prompted = [name for name, origin in origins.items() if origin is not None]
    if prompted and len(prompted) < len(origins):
        other = next(name for name, origin in origins.items() if origin is None)
        raise ConfigError(
            f"{prompted[0]} was predicted with prompts ({origins[prompted[0]]}) and {other} without; who is shown "
            "where to look has another task, so they are not compared. Leave one of them out."
        )


def prompts_behind(folder: Path) -> str | None:
    """Say from where the prompts of a folder's predictions are; None where they were made without."""
    path = folder / PROMPTS
    return read_prompts(path).origin if path.is_file() else None
