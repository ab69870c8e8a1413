"""What the integers in a label file mean, as nnU-Net's dataset.json states it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from samunet.core.names import brief, is_name, words_in
from samunet.errors import DatasetError

IGNORE_NAME = "ignore"  # nnU-Net's reserved key
BACKGROUND_NAME = "background"
MOST_OUTPUTS = 4096  # channels of a network: their scores for one patch of 128 x 128 x 128 take 32 GiB
LARGEST_VALUE = 65535  # of segmentations, which are uint8 or uint16
SIDE_WORDS = {"left": "left", "l": "left", "lh": "left", "right": "right", "r": "right", "rh": "right"}

Named = tuple[str, tuple[int, ...]]
"""Name of a class or region, and its label values."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Names and values of classes, or of regions that unite several label values.

    Classes get one softmax channel each (background first); regions one sigmoid channel each, background none.
    """

    values: tuple[Named, ...]
    """(name, label values) in the order of dataset.json, background first, the ignore label left out."""
    ignore: int | None = None
    """Label value that marks voxels without annotation; one above all others."""
    regions_order: tuple[int, ...] = ()
    """The value written for each region in turn, later ones over earlier ones; empty for classes."""

    @property
    def has_regions(self) -> bool:
        return bool(self.regions_order)

    @cached_property
    def all_values(self) -> tuple[int, ...]:
        """Sorted label values that may be predicted, background included."""
        return tuple(sorted(set().union(*(values for _, values in self.values))))

    @cached_property
    def foreground(self) -> tuple[Named, ...]:
        """(name, label values) of every class or region except background."""
        return tuple((name, values) for name, values in self.values if values != (0,))

    @cached_property
    def channels(self) -> tuple[Named, ...]:
        """(name, label values) of what each output channel but background's is for."""
        return self.foreground if self.has_regions else tuple(sorted(self.foreground, key=lambda named: named[1]))

    @cached_property
    def names_of_values(self) -> dict[int, str]:
        """Name of every value in a label file but background's: that of the smallest class or region which holds it."""
        ordered = sorted(self.foreground, key=lambda named: -len(named[1]))
        names = {value: name for name, values in ordered for value in values if value}
        return dict(sorted(names.items())) | ({} if self.ignore is None else {self.ignore: IGNORE_NAME})

    @property
    def outputs(self) -> int:
        """Number of network output channels."""
        return len(self.foreground) if self.has_regions else len(self.all_values)

    @cached_property
    def expected_in_files(self) -> tuple[int, ...]:
        """Every value a label file may hold, the ignore label included."""
        return self.all_values + (() if self.ignore is None else (self.ignore,))

    def segmentation_dtype(self) -> type[np.unsignedinteger]:
        """Return the smallest unsigned type that holds every value (nnU-Net: uint8 below 255 classes)."""
        return np.uint8 if max(self.all_values) < 255 else np.uint16


def parse_labels(raw: Mapping[str, object], regions_order: object = None) -> Labels:
    """Read the `labels` and `regions_class_order` entries of a dataset.json.

    Raises:
        DatasetError: a name or a value is none, two names have the same values, background is missing or not 0, values
            are not consecutive, the ignore label is not the highest, regions come without a class order of the right
            length, or there are more than MOST_OUTPUTS classes or regions.
    """
    if len(raw) > MOST_OUTPUTS + 1:
        raise DatasetError(
            f"dataset.json: labels name {len(raw)} classes or regions; a network has one output for each, and more "
            f"than {MOST_OUTPUTS} need more memory than a training has. Join structures, or split the dataset."
        )
    values: dict[str, tuple[int, ...]] = {}
    for name, value in raw.items():
        if not is_name(name):
            raise DatasetError(
                f"dataset.json: labels must have names of 1 to 200 characters in one line; got {brief(name)}."
            )
        parts = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if not parts or not _are_values(parts):
            raise DatasetError(
                f"dataset.json: label '{name}' must be a whole number from 0 up, {LARGEST_VALUE} at most, or a list of "
                f'them; got {brief(value)}. The form is name: value, e.g. "liver": 1.'
            )
        values[name] = parts
    ignore = values.pop(IGNORE_NAME, None)
    if ignore is not None and len(ignore) != 1:
        raise DatasetError(f"dataset.json: the ignore label must be one number; got {brief(list(ignore))}.")
    if values.get(BACKGROUND_NAME) != (0,):
        raise DatasetError(
            'dataset.json: labels must contain "background": 0; add it, and give every structure a value from 1 up.'
        )
    _refuse_twins(values)
    numbers = sorted(set().union(*values.values()))
    if numbers != list(range(len(numbers))):
        raise DatasetError(
            f"dataset.json: label values must be consecutive from 0; got {brief(numbers)}. Renumber the labels and the "
            "label files."
        )
    if len(numbers) < 2:
        raise DatasetError("dataset.json: labels name nothing but background; add at least one structure.")
    if ignore not in (None, (numbers[-1] + 1,)):
        raise DatasetError(
            f"dataset.json: the ignore label must be {numbers[-1] + 1}, one above all others; got {ignore[0]}."
        )
    ordered = sorted(values.items(), key=lambda item: item[1] != (0,))  # background first, the others keep their order
    return Labels(
        values=tuple(ordered), ignore=ignore and ignore[0], regions_order=_regions_order(ordered, regions_order)
    )


def _are_values(numbers: Sequence[Any]) -> bool:
    """Tell whether all are label values; nested regions may list millions, so that no loop of Python's sees each."""
    return set(map(type, numbers)) <= {int} and (not numbers or (min(numbers) >= 0 and max(numbers) <= LARGEST_VALUE))


def _refuse_twins(values: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse two names for the same values, which no score and no output could tell apart."""
    names: dict[frozenset[int], str] = {}
    for name, parts in values.items():
        other = names.setdefault(frozenset(parts), name)
        if other != name:
            raise DatasetError(
                f"dataset.json: labels '{other}' and '{name}' both have the values {brief(list(parts))}; remove or "
                "renumber one."
            )


def left_right_pairs(labels: Labels) -> tuple[tuple[Named, Named], ...]:
    """Return the (left, right) pairs of the foreground: names that differ only in the side, as kidney_left."""
    pairs: dict[tuple[str, ...], dict[str, Named]] = {}
    for name, values in labels.foreground:
        words = [word.lower() for word in words_in(name)]
        sides = [SIDE_WORDS[word] for word in words if word in SIDE_WORDS]
        if len(sides) == 1:
            pairs.setdefault(tuple("" if word in SIDE_WORDS else word for word in words), {})[sides[0]] = (name, values)
    return tuple((pair["left"], pair["right"]) for pair in pairs.values() if len(pair) == 2)


def _regions_order(values: list[tuple[str, tuple[int, ...]]], raw: object) -> tuple[int, ...]:
    if raw is not None and not (isinstance(raw, (list, tuple)) and _are_values(raw)):
        raise DatasetError(
            f"dataset.json: regions_class_order must list label values, one for each region in turn; got {brief(raw)}."
        )
    if not any(len(parts) > 1 for _, parts in values):
        return ()
    expected, given = sum(parts != (0,) for _, parts in values), () if raw is None else tuple(raw)
    if len(given) != expected:
        raise DatasetError(
            f"dataset.json: labels hold regions, so regions_class_order must list {expected} label values, one for "
            f"each region in turn; got {brief(raw)}."
        )
    unknown = sorted(set(given).difference(*(parts for _, parts in values)))
    if unknown:
        raise DatasetError(
            f"dataset.json: regions_class_order holds {brief(unknown)}, which no label has; it lists the values that "
            "are written for the regions."
        )
    return given
