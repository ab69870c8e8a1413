"""Labeled cases to learn from, and images to segment, in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from samunet.core.dataset import CHANNEL_FILE, Case, DatasetSpec, read_dataset_json, training_cases
from samunet.core.geometry import Geometry, turn_between
from samunet.core.history import turned
from samunet.core.labels import parse_labels
from samunet.core.units import counted
from samunet.core.values import distinct
from samunet.core.volume import Volume
from samunet.errors import DatasetError
from samunet.imageio import output_ending, reader_of_image
from samunet.imageio.case import read_case, read_image
from samunet.importing.dataset import SERIES_ENDING
from samunet.importing.layouts import by_stem

FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"))
FIRST = "_0000"  # channel
COARSER = 1.5  # times the spacing in the plane: slices that follow each other along that axis
UNLIKE = 4.0  # factor between the spacings of an image and its references beyond which nothing is compared


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image, and what is in it where that is known."""

    identifier: str
    volume: Volume
    label: np.ndarray | None = None
    """(D, H, W) integers."""

    def known(self) -> np.ndarray:
        """Return the label; raises DatasetError where there is none."""
        if self.label is None:
            raise DatasetError(f"Case '{self.identifier}' has no label; references need one.")
        return self.label


@dataclass(frozen=True, kw_only=True)
class References:
    """The labeled cases, and what they have in common."""

    spec: DatasetSpec
    cases: tuple[Case, ...]
    examples: tuple[Example, ...]
    """With their axes along those of the first."""

    @cached_property
    def classes(self) -> dict[int, str]:
        """Names of label values, background and the ignore label left out; of values that regions give one name, each
        with its value.
        """
        names = {**self.spec.labels.names_of_values}
        names.pop(self.spec.labels.ignore or 0, None)
        count = Counter(names.values())
        return {value: f"{name} ({value})" if count[name] > 1 else name for value, name in names.items()}

    @cached_property
    def axis(self) -> int:
        """File axis, of (D, H, W), along which slices follow each other: the coarsest, or the first."""
        return slice_axis(self.examples[0].volume.geometry)

    def like_these(self, image: Example) -> Example:
        """Return an image with its axes along those of the references; raises DatasetError for one that cannot be
        compared with them.
        """
        image = along(image, self.examples[0].volume.geometry)
        self._check(image)
        return image

    def _check(self, image: Example) -> None:
        grid = image.volume.geometry
        for example in self.examples:
            other = example.volume.geometry
            pair = f"Case '{image.identifier}' and reference '{example.identifier}'"
            if grid.planar != other.planar:
                raise DatasetError(f"{pair} are a 2D and a 3D image; give references of the images' kind.")
            if grid.planar and grid.directed and other.directed and grid.orientation != other.orientation:
                raise DatasetError(
                    f"{pair} are 2D images of the orientations {grid.orientation} and {other.orientation}; bring one "
                    "to the other's, or give references of the same."
                )
            ratio = max(max(a / b, b / a) for a, b in zip(grid.spacing, other.spacing, strict=True))
            if grid.measured and other.measured and ratio > UNLIKE:
                raise DatasetError(
                    f"{pair} have the spacings {_mm(grid.spacing)} and {_mm(other.spacing)} mm (D, H, W), a factor of "
                    f"{ratio:.1f} apart, {UNLIKE:g} at most is expected; resample, or give references of the same."
                )


def along(example: Example, grid: Geometry) -> Example:
    """Return a volume and its label with the axes of another grid's orientation; 2D images and those that tell no
    direction stay as they are.
    """
    here = example.volume.geometry
    if here.planar or not (here.directed and grid.directed) or here.orientation == grid.orientation:
        return example
    axes, flips = turn_between(here.orientation, grid.orientation)
    array = np.ascontiguousarray(turned(example.volume.array, axes, flips))
    label = None if example.label is None else np.ascontiguousarray(turned(example.label, axes, flips))
    volume = Volume(array=array, geometry=here.turned(axes, flips))
    return Example(identifier=example.identifier, volume=volume, label=label)


def slice_axis(grid: Geometry) -> int:
    """Return the axis, of (D, H, W), along which a grid's slices follow each other: the coarsest, or the first."""
    apart = not grid.planar and max(grid.spacing) >= COARSER * sorted(grid.spacing)[1]
    return int(np.argmax(grid.spacing)) if apart else 0


def read_references(folder: Path) -> References:
    """Read references.

    Args:
        folder: a dataset with dataset.json, of which proposals are left out; or a folder of images and one of labels,
            of equal file names or nnU-Net's, in it (imagesTr and labelsTr, or images and labels).

    Raises:
        DatasetError: there is no such folder or no reference in it, a label is empty or has no image, values leave a
            gap, or a class is in none of them.
    """
    if (folder / "dataset.json").is_file():
        spec = read_dataset_json(folder / "dataset.json")
        cases = tuple(case for case in training_cases(folder, spec) if case.identifier not in spec.proposals)
    else:
        spec, cases = _undescribed(folder)
    if not cases:
        raise DatasetError(f"All labels of {folder} are proposals; correct one, and take its name out of dataset.json.")
    examples: list[Example] = []
    for case in cases:
        # Each by the reader of its own ending: a DICOM series has its label in another format.
        readers = [reader_of_image(path, spec.reader) for path in (case.images[0], case.label) if path is not None]
        volume, label = read_case(case, spec, *readers)
        example = Example(identifier=case.identifier, volume=volume, label=label)
        examples.append(along(example, (examples or [example])[0].volume.geometry))
    references = References(spec=spec, cases=cases, examples=tuple(examples))
    _check(references, folder)
    return references


def _check(references: References, folder: Path) -> None:
    found: set[int] = set()
    for example in references.examples:
        here = {*distinct(example.known())} & {*references.classes}
        if not here:
            raise DatasetError(
                f"The label of reference '{example.identifier}' in {folder} is empty; label a structure, or remove it."
            )
        found |= here
    for value, name in references.classes.items():
        if value not in found:
            raise DatasetError(
                f"Class '{name}' ({value}) is in no reference of {folder}; add one that shows it, or take the class "
                "out of dataset.json."
            )
    for example in references.examples[1:]:
        references.like_these(example)


def _undescribed(folder: Path) -> tuple[DatasetSpec, tuple[Case, ...]]:
    """Describe a folder of images and labels by what is in them."""
    pair = next((pair for pair in FOLDERS if all((folder / part).is_dir() for part in pair)), None)
    if pair is None:
        raise DatasetError(
            f"{folder} has neither a dataset.json nor folders images and labels; give a folder with labeled cases."
        )
    cases = _matched(folder / pair[0], folder / pair[1])
    values = {0}
    for case in cases:
        if case.label is not None:
            values |= {*distinct(reader_of_image(case.label, None).read_label(case.label)[0])}
    if {*range(max(values) + 1)} != values:
        raise DatasetError(
            f"The labels in {folder / pair[1]} hold the values {', '.join(map(str, sorted(values)))}; values from 0 to "
            f"{len(values) - 1} are expected, without a gap. Renumber them, add a reference that shows what is "
            "lacking, or import them as a dataset (samunet_import) and give that."
        )
    reader = reader_of_image(cases[0].images[0], None)
    names = tuple(f"channel{index}" for index in range(sum(reader.peek(path).channels for path in cases[0].images)))
    return spec_of_values(names, values, folder.name, output_ending(cases[0].images[0], SERIES_ENDING)), cases


def _matched(images: Path, labels: Path) -> tuple[Case, ...]:
    """Match images and labels by name, with nnU-Net's numbers of channels or without; cases are named as among images
    to segment, so that they are known again there.
    """
    labeled, found = by_stem(labels), by_stem(images)
    # One with the very name of an image is that image's alone: scan_0000 beside scan_0001, of which some are labeled.
    owners = {name.removesuffix(FIRST) if name in found else name: label for name, label in labeled.items()}
    channels: dict[str, dict[str, Path]] = {}
    for name, path in found.items():
        number = None if name in labeled else CHANNEL_FILE.fullmatch(name)
        case, channel = (number["case"], number["channel"]) if number and number["case"] in labeled else (name, "")
        case = case.removesuffix(FIRST) if name in labeled else case
        if channel in channels.setdefault(case, {}) or (channels[case] and "" in (channel, *channels[case])):
            raise DatasetError(f"{images} holds 2 images of case '{case}'; rename or remove one of them.")
        channels[case][channel] = path
    if strangers := sorted({*owners} - {*channels}):
        raise DatasetError(
            f"{labels} holds {counted(len(strangers), 'label')} without an image of the same name in {images}, first "
            f"'{strangers[0]}'; rename them."
        )
    if not owners:
        raise DatasetError(f"{labels} holds no label; add one.")
    return tuple(
        Case(identifier=name, images=tuple(files[number] for number in sorted(files)), label=owners[name])
        for name, files in channels.items()
        if name in owners
    )


def spec_of_values(channels: tuple[str, ...], values: set[int], name: str, ending: str) -> DatasetSpec:
    """Describe images that no dataset.json describes, with a class for each label value."""
    labels = {"background": 0} | {f"class{value}": int(value) for value in sorted(values) if value}
    return DatasetSpec(
        name=name,
        channels=channels,
        labels=parse_labels(labels),
        file_ending=ending,
        num_training=0,
        reader=None,
        raw={"labels": labels},
    )


def read_example(case: Case, spec: DatasetSpec) -> Example:
    """Read an image to segment; raises DatasetError where it cannot be read or has other channels."""
    reader = reader_of_image(case.images[0], spec.reader)
    return Example(identifier=case.identifier, volume=read_image(case, spec, reader))


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing)
